/** What is refused, by the same words as in Python, and with the place. */

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';

import * as node from 'speckv';
import * as web from 'speckv/web';

import { runtimes } from './runtimes.js';

/** @type {[number, number, number, number]} */
const GOOD = [0.9, 0.82, 1.7, 0.55];
const home = mkdtempSync(join(tmpdir(), 'speckv-'));
after(() => rmSync(home, { recursive: true }));

/** @type {[string, unknown[], RegExp][]} */
const BAD = [
  ['three signals', [[0.1, 0.2, 0.3], 'fp16'], /^signals is \[0.1, 0.2, 0.3\]: .*mean_draft_entropy/],
  ['a text among them', [['0.1', 0, 0, 0], 'fp16'], /^signals is \["0.1"/],
  ['no signals', [undefined, 'fp16'], /^signals is undefined/],
  ['named signals', [{ mean: 1 }, 'fp16'], /^signals is an object/],
  ['a set', [new Set(GOOD), 'fp16'], /^signals is an object/],
  ['an unknown compression', [GOOD, 'int4'], /^compression is "int4": it must be fp16, int8 or nf4/],
  ['an inherited name', [GOOD, 'toString'], /^compression is "toString"/],
  ['an unknown code', [GOOD, 3], /^compression is 3/],
  ['a truth value', [GOOD, true], /^compression is true/],
  ['no compression', [GOOD], /^compression is undefined/],
  ['no candidate', [GOOD, 'fp16', { candidates: [] }], /^candidates is \[\]/],
  ['half a token', [GOOD, 'fp16', { candidates: [2.5] }], /^candidates is \[2.5\]/],
  ['less than none', [GOOD, 'fp16', { candidates: [-1, 2] }], /^candidates is/],
  ['more than any context', [GOOD, 'fp16', { candidates: [2 ** 20 + 1] }], /0 to 1048576/],
  ['a candidate alone', [GOOD, 'fp16', { candidates: 4 }], /^candidates is 4/],
  ['too few costs', [GOOD, 'fp16', { candidates: [2, 4], stepCost: [1] }], /^stepCost is \[1\].* 2 candidates/],
  ['a cost of nothing', [GOOD, 'fp16', { candidates: [2, 4], stepCost: [1, 0] }], /^stepCost/],
  ['a cost of NaN', [GOOD, 'fp16', { candidates: [2, 4], stepCost: [1, NaN] }], /^stepCost is \[1, NaN\]/],
  ['a cost beyond float32', [GOOD, 'fp16', { candidates: [2, 4], stepCost: [1, 1e39] }], /^stepCost/],
  ['a cost below float32', [GOOD, 'fp16', { candidates: [2, 4], stepCost: [1, 1e-46] }], /^stepCost/],
  ['Python’s name of an option', [GOOD, 'fp16', { step_cost: [1] }], /^option "step_cost" is unknown: .*stepCost/],
  ['options as a list', [GOOD, 'fp16', [2, 4]], /^options is \[2, 4\]/],
];

/** @type {[string, unknown[], RegExp][]} */
const BAD_BATCHES = [
  ['one row alone', [GOOD, 'fp16'], /^signals row 0: signals is 0.9/],
  ['no rows', ['rows', 'fp16'], /^signals is "rows"/],
  ['a bad second row', [[GOOD, [0.9, 1.2, 1.7, 0.5]], 'fp16'], /^signals row 1: mean_draft_confidence is 1.2/],
  ['codes for other rows', [[GOOD], ['fp16', 'int8']], /^compression is .* 1 rows/],
  ['a bad second code', [[GOOD, GOOD], ['fp16', 'x']], /^compression row 1: compression is "x"/],
];

for (const { name, open, entry } of runtimes) {
  describe(name, async () => {
    const selector = await open();

    for (const [what, input, message] of BAD) {
      test(what, async () => {
        // @ts-expect-error: wrong on purpose
        await assert.rejects(selector.select(...input), { name: 'SpeckvError', message });
      });
    }
    for (const [what, input, message] of BAD_BATCHES) {
      test(`a batch: ${what}`, async () => {
        // @ts-expect-error: wrong on purpose
        await assert.rejects(selector.selectBatch(...input), { name: 'SpeckvError', message });
      });
    }
    for (const [i, signal] of node.SIGNALS.entries()) {
      for (const value of [NaN, Infinity, -0.01, signal.includes('entropy') ? 32.01 : 1.01]) {
        test(`${signal} of ${value}`, async () => {
          const message = new RegExp(`^${signal} is ${value}: it must be from 0 to (32 \\(bits\\)|1 \\(a probability\\))$`);
          await assert.rejects(selector.select(Float64Array.from(GOOD).with(i, value), 'fp16'), {
            name: 'SpeckvError',
            message,
          });
        });
      }
    }

    test('a model that is none is named', async () => {
      await assert.rejects(entry.openSelector(new Uint8Array([1, 2, 3])), {
        name: 'SpeckvError',
        message: /^the given model: .* cannot load it .*speckv_mlp16_gamma.onnx/,
      });
    });
  });
}

test('a model that is not there is named', async () => {
  await assert.rejects(node.openSelector('no/such.onnx'), /^SpeckvError: no\/such.onnx: /);
  await assert.rejects(web.openSelector('http://127.0.0.1:9/x'), /127.0.0.1:9\/x: cannot be fetched/);
});

/**
 * Run a script in a fresh Node, away from the user's folders.
 * @param {string} script
 * @param {Record<string, string>} [variables]
 */
function fresh(script, variables = {}) {
  const env = { PATH: process.env['PATH'], HOME: home, XDG_CACHE_HOME: join(home, 'cache'), ...variables };
  return spawnSync(process.execPath, ['--input-type=module', '-e', script], {
    cwd: new URL('..', import.meta.url),
    env,
    encoding: 'utf8',
  });
}

test('onnxruntime-node’s telemetry is off, whatever the environment says', () => {
  const script = `
    import { selectGamma } from 'speckv';
    await selectGamma([0.9, 0.8, 1.7, 0.5], 'fp16');
    await new Promise((resolve) => setTimeout(resolve, 1000));
    console.log(process.env.ORT_DISABLE_TELEMETRY);`;
  const done = fresh(script, { ORT_DISABLE_TELEMETRY: '0' });
  assert.equal(done.stdout, '1\n', done.stderr);
  assert.deepEqual(readdirSync(home), []);
});

test('a worker thread, which cannot switch telemetry off, says so', () => {
  const inWorker = `
    import { parentPort } from 'node:worker_threads';
    const { selectGamma } = await import('speckv');
    const said = await selectGamma([0.9, 0.8, 1.7, 0.5], 'fp16').then(({ gamma }) => gamma, String);
    parentPort.postMessage(said);`;
  const script = `
    import { Worker } from 'node:worker_threads';
    const worker = new Worker(${JSON.stringify(inWorker)}, { eval: true });
    worker.on('message', console.log);`;
  assert.match(fresh(script).stdout, /SpeckvError: .*set ORT_DISABLE_TELEMETRY=1 in the main thread/);
  assert.match(fresh(script, { ORT_DISABLE_TELEMETRY: '1' }).stdout, /^[2468]\n$/);
  assert.deepEqual(readdirSync(home), []);
});
