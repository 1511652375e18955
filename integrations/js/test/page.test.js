/** The page in headless Chromium, served from the package folder: what a reader moves, sees, hears and types. */

import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { createRequire } from 'node:module';

import { chromium } from 'playwright-core';

import { serve } from '../page/serve.js';
import { cases, tolerance } from './vectors.js';

/** @typedef {import('playwright-core').Page} Page */

const executablePath = (process.env['PATH'] ?? '')
  .split(delimiter)
  .flatMap((folder) => ['chromium', 'chromium-browser', 'google-chrome'].map((name) => join(folder, name)))
  .find((file) => existsSync(file));
const skip = executablePath ? false : 'no chromium on the PATH: apt-get install chromium';
const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
const SIGNALS = ['#mean-entropy', '#mean-confidence', '#max-entropy', '#min-confidence'];

describe('the page', { skip }, () => {
  /** @type {import('playwright-core').Browser} */
  let browser;
  /** @type {import('node:http').Server} */
  let server;
  /** @type {string} */
  let origin;

  before(async () => {
    server = await serve(0);
    origin = `http://127.0.0.1:${/** @type {import('node:net').AddressInfo} */ (server.address()).port}`;
    const args = ['--no-sandbox', '--disable-gpu', '--disable-background-networking', '--disable-component-update'];
    args.push('--host-resolver-rules=MAP elsewhere.test 127.0.0.1'); // not trusted, as the loopback address is
    browser = await chromium.launch({ executablePath: String(executablePath), args });
  });
  after(async () => {
    await browser?.close();
    server?.close();
  });

  /**
   * @param {import('playwright-core').BrowserContextOptions} [options]
   * @returns {Promise<{ page: Page, requests: string[], complaints: string[] }>} the page with its first decision
   */
  async function open(options) {
    const page = await browser.newPage(options);
    /** @type {string[]} */
    const requests = [];
    /** @type {string[]} */
    const complaints = [];
    page.on('request', (request) => requests.push(request.url()));
    page.on('console', (message) => complaints.push(message.text()));
    page.on('pageerror', (error) => complaints.push(String(error)));
    page.on('requestfailed', (request) => complaints.push(`failed: ${request.url()}`));
    await page.goto(`${origin}/`);
    await settled(page);
    return { page, requests, complaints };
  }

  test('it decides at once, with nothing from elsewhere and nothing to complain about', async () => {
    const { page, requests, complaints } = await open();
    assert.match(await gamma(page, 'per-step'), /^[2468]$/);
    assert.deepEqual(complaints, []);
    assert.ok(requests.some((url) => url === `${origin}/model/speckv_mlp16_gamma.onnx`));
    assert.deepEqual(requests.filter((url) => !url.startsWith(`${origin}/`) && !url.startsWith('data:,')), []);
    await page.close();
  });

  test('it shows the vectors’ decisions and expected tokens', async () => {
    const { page } = await open();
    const published = cases.filter(({ name }) => name.startsWith('ordinary') || name.startsWith('rates clipped'));
    assert.ok(published.length > 30);
    for (const { signals, comp_enc, gamma: expected, expected_tokens, predicted_acceptance_rate } of published) {
      for (const [i, field] of SIGNALS.entries()) await page.locator(field).fill(String(signals[0]?.[i]));
      await page.getByRole('radio').nth(Number(comp_enc[0])).check();
      await settled(page);
      assert.equal(await gamma(page, 'per-step'), String(expected[0]));
      const table = await cells(page);
      for (const [i, row] of table.entries()) {
        assert.ok(Math.abs(Number(row[2]) - Number(expected_tokens[0]?.[i])) <= 0.0005 + tolerance, row.join());
        assert.ok(Math.abs(parseFloat(String(row[1])) - 100 * Number(predicted_acceptance_rate[0]?.[i])) <= 0.051);
      }
    }
    await page.close();
  });

  test('step times move the second decision and its curve, and leave the first alone', async () => {
    const { page } = await open();
    const seen = new Set();
    for (const milliseconds of ['0.5', '10', '40']) {
      const [before, curve] = [await gamma(page, 'per-step'), await points(page, 'per-step')];
      await page.locator('#draft-time').fill(milliseconds);
      await settled(page);
      assert.equal(await gamma(page, 'per-step'), before);
      assert.equal(await points(page, 'per-step'), curve);
      seen.add(await points(page, 'per-second'));

      // The table itself holds the rule: the first largest quotient of tokens and time.
      const table = await cells(page);
      const rates = table.map((row) => Number(row[2]) / Number(row[3]));
      assert.equal(await gamma(page, 'per-second'), table[rates.indexOf(Math.max(...rates))]?.[0]);
      const step = Number(milliseconds) * 4 + 30 + 2 * 4;
      assert.equal(Number(table[1]?.[3]), step);
      assert.ok(Math.abs(Number(table[1]?.[4]) - (1000 * Number(table[1]?.[2])) / step) < 0.1);
    }
    assert.equal(seen.size, 3);
    assert.equal(await gamma(page, 'per-second'), '2');
    await page.close();
  });

  test('a slider moves by keyboard: the number, the curve and what is spoken follow', async () => {
    const { page } = await open();
    const [curve, status] = [await points(page, 'per-step'), page.getByRole('status')];
    const slider = page.getByRole('slider', { name: 'Mean entropy' });
    await slider.focus();
    await page.keyboard.press('End');
    await settled(page);
    assert.equal(await page.locator('#mean-entropy').inputValue(), '8');
    assert.equal(await page.locator('#max-entropy').inputValue(), '8', 'a mean takes the largest along');
    assert.equal(await page.getByRole('slider', { name: 'Largest entropy' }).inputValue(), '8');
    assert.notEqual(await points(page, 'per-step'), curve);
    await page.waitForTimeout(600);
    assert.match(String(await status.textContent()), new RegExp(`per step: gamma ${await gamma(page, 'per-step')}\\.`));

    await page.getByRole('button', { name: 'Start again' }).press('Enter');
    await page.waitForFunction(
      (before) => document.querySelector('#per-step .between')?.getAttribute('points') === before,
      curve,
    );
    assert.equal(await slider.inputValue(), '0.9');
    await page.close();
  });

  test('every control is reached by Tab, in order', async () => {
    const { page } = await open();
    const reached = [];
    for (let i = 0; i < 18; i++) {
      await page.keyboard.press('Tab');
      reached.push(await page.evaluate(() => document.activeElement?.id || document.activeElement?.tagName));
    }
    const fields = ['mean-entropy', 'max-entropy', 'mean-confidence', 'min-confidence'];
    const times = ['draft-time', 'target-time', 'verify-time'];
    const pair = (/** @type {string} */ id) => [id, `${id}-slider`];
    assert.deepEqual(reached, [...fields.flatMap(pair), 'INPUT', ...times.flatMap(pair), 'BUTTON', 'DIV', 'A']);
    await page.close();
  });

  test('a value that cannot be is refused in the package’s own words, and can be put right', async () => {
    const { page } = await open();
    const alert = page.getByRole('alert');
    for (const [field, text, words] of /** @type {const} */ ([
      ['#mean-entropy', '33', /mean_draft_entropy is 33: it must be from 0 to 32 \(bits\)/],
      ['#min-confidence', '', /min_draft_confidence is NaN/],
      ['#target-time', '-1000', /stepCost is \[.*positive/],
    ])) {
      const good = await page.locator(field).inputValue();
      await page.locator(field).fill(text);
      await page.waitForSelector('.results.empty[aria-busy=false]', { state: 'attached' });
      assert.match(String(await alert.textContent()), words);
      assert.equal(await page.locator('#per-step svg').isVisible(), false);
      await page.locator(field).fill(good);
      await settled(page);
      assert.equal(await alert.textContent(), '');
    }
    await page.close();
  });

  test('a graph that is not there is named', async () => {
    const page = await browser.newPage();
    await page.route('**/*.onnx', (route) => route.fulfill({ status: 404 }));
    const text = await refusal(page, `${origin}/page/`);
    assert.match(text, /speckv_mlp16_gamma.onnx: the server answers 404: check that it is served/);
    await page.close();
  });

  for (const [what, pattern, body, message] of /** @type {const} */ ([
    ['graph that is another', '**/*.onnx', 'another', /gamma.onnx differs from its sha256 in MANIFEST.json: reinstall/],
    ['manifest that is none', '**/MANIFEST.json', '<html>', /MANIFEST.json does not list speckv_mlp16_gamma.onnx/],
  ])) {
    test(`a ${what} is refused`, async () => {
      const page = await browser.newPage();
      await page.route(pattern, (route) => route.fulfill({ body }));
      assert.match(await refusal(page, `${origin}/page/`), message);
      await page.close();
    });
  }

  test('where the browser cannot check the graph, it says why', async () => {
    const page = await browser.newPage();
    const address = `${origin}/page/`.replace('127.0.0.1', 'elsewhere.test');
    assert.match(await refusal(page, address), /gamma.onnx cannot be checked, .* plain http: serve it over https/);
    await page.close();
  });

  for (const colorScheme of /** @type {const} */ (['light', 'dark'])) {
    for (const width of [360, 1280]) {
      test(`${colorScheme}, ${width} pixels: nothing is cut off, nothing inaccessible`, async () => {
        const { page } = await open({ colorScheme, viewport: { width, height: 800 } });
        assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), width);
        assert.equal(await page.evaluate(() => {
          const table = document.querySelector('.table');
          return table && table.scrollWidth - table.clientWidth;
        }), 0);
        const box = await page.locator('#per-second svg').boundingBox();
        assert.ok(box && box.x >= 0 && box.x + box.width <= width && box.height > 200);
        const ground = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
        const [red = 0] = ground.match(/\d+/g)?.map(Number) ?? [];
        assert.equal(red < 128, colorScheme === 'dark');
        const small = await page.evaluate(
          () => [...document.querySelectorAll('svg text')].filter((text) => parseFloat(getComputedStyle(text).fontSize) < 12).length,
        );
        assert.equal(small, 0);
        await page.evaluate(axe);
        const { violations } = await page.evaluate('axe.run()');
        assert.deepEqual(
          violations.map((/** @type {any} */ v) => `${v.id}: ${v.nodes.map((/** @type {any} */ n) => n.target).join(' ')}`),
          [],
        );
        await page.close();
      });
    }
  }
});

/**
 * Wait until what was entered is shown: the page is busy from the event on.
 * @param {Page} page
 */
async function settled(page) {
  await page.waitForSelector('.results[aria-busy=false]:not(.empty)');
}

/**
 * @param {Page} page
 * @param {string} address
 * @returns {Promise<string>} why the page there shows no decision
 */
async function refusal(page, address) {
  await page.goto(address);
  await page.waitForFunction(() => document.querySelector('[role=alert]')?.textContent);
  return String(await page.getByRole('alert').textContent());
}

/**
 * @param {Page} page
 * @param {string} chart
 */
async function gamma(page, chart) {
  return String(await page.locator(`#${chart} .gamma b`).textContent());
}

/**
 * @param {Page} page
 * @param {string} chart
 */
async function points(page, chart) {
  return String(await page.locator(`#${chart} .between`).getAttribute('points'));
}

/** @param {Page} page */
async function cells(page) {
  const rows = await page.locator('tbody tr').all();
  return Promise.all(rows.map((row) => row.locator('th, td').allTextContents()));
}
