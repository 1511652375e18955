/** The page: reads the controls, asks the shipped graph, draws its answers. */

import { env } from 'onnxruntime-web';

import { PUBLISHED_CANDIDATES, SpeckvError, openSelector } from '../src/web.js';

/** @typedef {import('../src/web.js').GammaSelector} GammaSelector */

/**
 * What is shown of one chart.
 * @typedef {object} Curve
 * @property {string} unit of the y axis
 * @property {number[]} values at each of `LENGTHS`
 * @property {number} gamma the chosen one
 * @property {number} top of the y axis
 * @property {{ values: number[], name: string }} reference a dashed line at each of `LENGTHS`
 */

/** Every length up to the longest candidate, for the line between the candidates. */
const LENGTHS = Array.from({ length: Math.max(...PUBLISHED_CANDIDATES) }, (_, i) => i + 1);
/** The first is never above the second: a mean and its extreme. */
const ORDERED = /** @type {const} */ ([
  ['mean-entropy', 'max-entropy'],
  ['min-confidence', 'mean-confidence'],
]);
const MARGIN = { top: 34, right: 14, bottom: 44, left: 34 };

const form = find(document, 'form', HTMLFormElement);
const results = find(document, '.results', HTMLElement);

env.wasm.numThreads = 1; // more need a page that is isolated from other origins
await start();

async function start() {
  let selector;
  try {
    selector = await openSelector();
  } catch (error) {
    results.setAttribute('aria-busy', 'false');
    return fail(error);
  }
  const show = latest(() => decideAndDraw(selector));
  for (const number of form.querySelectorAll('input[type=number]')) addSlider(/** @type {HTMLInputElement} */ (number));
  form.addEventListener('input', (event) => {
    keepOrder(/** @type {HTMLInputElement} */ (event.target));
    show();
  });
  form.addEventListener('reset', () => setTimeout(() => (moveSliders(), show())));
  form.addEventListener('submit', (event) => event.preventDefault());
  new ResizeObserver(show).observe(results);
}

/** @param {GammaSelector} selector */
async function decideAndDraw(selector) {
  try {
    const signals = /** @type {[number, number, number, number]} */ (
      ['mean-entropy', 'mean-confidence', 'max-entropy', 'min-confidence'].map(value)
    );
    const compression = /** @type {'fp16'} */ (new FormData(form).get('compression'));
    const stepCost = PUBLISHED_CANDIDATES.map(stepTime);
    const perStep = await selector.select(signals, compression);
    const perSecond = await selector.select(signals, compression, { candidates: PUBLISHED_CANDIDATES, stepCost });
    const line = await selector.select(signals, compression, { candidates: LENGTHS });
    draw(perStep, perSecond.gamma, Array.from(line.expectedTokens));
    fail(null);
  } catch (error) {
    fail(error);
  }
}

/**
 * @param {import('../src/web.js').Decision} perStep by the published rule
 * @param {number} fastest gamma by step times
 * @param {number[]} tokens per step at each of `LENGTHS`
 */
function draw(perStep, fastest, tokens) {
  const speeds = tokens.map((count, i) => (1000 * count) / stepTime(i + 1));
  const plain = 1000 / stepTime(0);
  const [most, speed, speedOfMost] = [at(tokens, perStep.gamma), at(speeds, fastest), at(speeds, perStep.gamma)];
  describe('per-step', perStep.gamma, `<b>${most.toFixed(2)} tokens</b> a step expected. The published rule: step times play no part.`);
  describe('per-second', fastest, `<b>${figure(speed)} tokens/s</b>, ${(speed / plain).toFixed(2)} × plain decoding. ${speed < plain ? 'Better not to speculate here.' : compared(speed, speedOfMost, perStep.gamma)}`);
  drawChart('per-step', {
    unit: 'tokens per step',
    values: tokens,
    gamma: perStep.gamma,
    top: LENGTHS.length + 1,
    reference: { values: LENGTHS.map((n) => n + 1), name: 'all accepted' },
  });
  drawChart('per-second', {
    unit: 'tokens per second',
    values: speeds,
    gamma: fastest,
    top: niceTop(Math.max(...speeds, plain)),
    reference: { values: LENGTHS.map(() => plain), name: 'plain decoding' },
  });
  fillTable(perStep, fastest);
  say(`Most tokens per step: gamma ${perStep.gamma}. Most tokens per second: gamma ${fastest}.`);
}

/**
 * @param {number} speed
 * @param {number} speedOfMost
 * @param {number} gamma
 */
function compared(speed, speedOfMost, gamma) {
  const gain = Math.round(100 * (speed / speedOfMost - 1));
  return gain > 0 ? `${gain} % faster than gamma ${gamma}.` : `Here the two rules agree${speed > speedOfMost ? ' nearly' : ''}.`;
}

/**
 * @param {string} id
 * @param {number} gamma
 * @param {string} why HTML of the page's own words and figures
 */
function describe(id, gamma, why) {
  for (const place of [`#${id} .gamma b`, `.glance .${id}`]) find(document, place, HTMLElement).textContent = String(gamma);
  find(document, `#${id} .why`, HTMLElement).innerHTML = why;
}

/**
 * @param {string} id
 * @param {Curve} curve
 */
function drawChart(id, { unit, values, gamma, top, reference }) {
  const svg = find(document, `#${id} svg`, SVGSVGElement);
  const { width, height } = svg.getBoundingClientRect();
  /** @param {number} n */
  const x = (n) => MARGIN.left + ((n - 1) / (LENGTHS.length - 1)) * (width - MARGIN.left - MARGIN.right);
  /** @param {number} v */
  const y = (v) => height - MARGIN.bottom - (v / top) * (height - MARGIN.top - MARGIN.bottom);
  /** @param {number[]} list */
  const path = (list) => list.map((v, i) => `${x(i + 1)},${y(v)}`).join(' ');
  const ticks = yTicks(top);
  const digits = top < 10 && ticks.some((tick) => tick % 1) ? 1 : 0;
  const base = y(0);
  const last = LENGTHS.length;
  svg.setAttribute('viewBox', `0 0 ${width} ${height}`);
  svg.setAttribute('aria-label', `${unit} by gamma: ${PUBLISHED_CANDIDATES.map((n) => `${n}: ${figure(at(values, n))}`).join(', ')}; chosen: ${gamma}`);
  svg.innerHTML = [
    ...ticks.map((tick) => `<line class="grid" x1="${MARGIN.left}" x2="${x(last)}" y1="${y(tick)}" y2="${y(tick)}"/>` +
      `<text x="${MARGIN.left - 8}" y="${y(tick) + 4}" text-anchor="end">${tick.toFixed(digits)}</text>`),
    `<text x="0" y="12">${unit}</text>`,
    ...LENGTHS.map((n) => `<text x="${x(n)}" y="${base + 18}" text-anchor="middle">${n}</text>`),
    `<text x="${(x(1) + x(last)) / 2}" y="${base + 38}" text-anchor="middle">gamma, drafted tokens</text>`,
    `<line class="axis" x1="${MARGIN.left}" x2="${x(last)}" y1="${base}" y2="${base}"/>`,
    `<polyline class="reference" points="${path(reference.values)}"/>`,
    `<text x="${x(last) - 14}" y="${y(at(reference.values, last)) - 8}" text-anchor="end">${reference.name}</text>`,
    `<polyline class="between" points="${path(values)}"/>`,
    `<line class="drop" x1="${x(gamma)}" x2="${x(gamma)}" y1="${y(at(values, gamma))}" y2="${base}"/>`,
    ...PUBLISHED_CANDIDATES.map((n) => `<circle class="${n === gamma ? 'chosen' : 'candidate'}" cx="${x(n)}" cy="${y(at(values, n))}" r="${n === gamma ? 8 : 5.5}"/>` +
      `<text class="figure${n === gamma ? ' best' : ''}" x="${x(n)}" y="${y(at(values, n)) - 14}">${figure(at(values, n))}</text>`),
  ].join('');
}

/**
 * @param {import('../src/web.js').Decision} perStep
 * @param {number} fastest
 */
function fillTable(perStep, fastest) {
  const rows = PUBLISHED_CANDIDATES.map((n, i) => {
    const [tokens, rate] = [perStep.expectedTokens[i] ?? NaN, perStep.predictedAcceptanceRate[i] ?? NaN];
    const cells = [
      `<td>${(100 * rate).toFixed(1)} %</td>`,
      `<td${n === perStep.gamma ? ' class="best"' : ''}>${tokens.toFixed(3)}</td>`,
      `<td>${figure(stepTime(n))}</td>`,
      `<td${n === fastest ? ' class="best"' : ''}>${figure((1000 * tokens) / stepTime(n))}</td>`,
    ];
    return `<tr><th scope="row">${n}</th>${cells.join('')}</tr>`;
  });
  find(document, 'tbody', HTMLElement).innerHTML = rows.join('');
}

/**
 * @param {number} gamma
 * @returns {number} milliseconds of a step: gamma drafts and one target pass over gamma + 1 tokens
 */
function stepTime(gamma) {
  return gamma * value('draft-time') + value('target-time') + gamma * value('verify-time');
}

/** @param {HTMLInputElement} number gets a slider that moves with it */
function addSlider(number) {
  const slider = document.createElement('input');
  slider.type = 'range';
  slider.id = `${number.id}-slider`;
  slider.min = '0';
  slider.max = number.dataset['sliderMax'] ?? '';
  slider.step = number.dataset['sliderStep'] ?? '';
  slider.value = slider.defaultValue = number.value;
  slider.setAttribute('aria-label', number.labels?.[0]?.textContent ?? '');
  slider.setAttribute('aria-describedby', number.getAttribute('aria-describedby') ?? '');
  slider.addEventListener('input', () => (number.value = slider.value));
  number.addEventListener('input', () => (slider.value = number.value));
  number.closest('.control')?.append(slider);
}

function moveSliders() {
  for (const slider of form.querySelectorAll('input[type=range]')) {
    const id = slider.id.replace('-slider', '');
    /** @type {HTMLInputElement} */ (slider).value = String(value(id));
  }
}

/** @param {HTMLInputElement} moved a slider that may have passed its neighbour */
function keepOrder(moved) {
  if (moved.type !== 'range') return;
  const id = moved.id.replace('-slider', '');
  for (const [less, more] of ORDERED) {
    if ((id === less || id === more) && value(less) > value(more)) {
      find(form, `#${id === less ? more : less}`, HTMLInputElement).value = moved.value;
      moveSliders();
    }
  }
}

/**
 * @param {string} id
 * @returns {number} NaN for an empty field
 */
function value(id) {
  return find(form, `#${id}`, HTMLInputElement).valueAsNumber;
}

/** @param {unknown} error what is wrong, or null for nothing */
function fail(error) {
  if (error && !(error instanceof SpeckvError)) console.error(error);
  const text = error instanceof Error ? error.message : String(error ?? '');
  find(document, '.error', HTMLElement).textContent = text;
  if (text) for (const gamma of document.querySelectorAll('.glance b')) gamma.textContent = '–';
  results.classList.toggle('empty', text !== '');
}

/** @param {string} text for those who hear the page; only once the hand rests */
function say(text) {
  clearTimeout(say.timer);
  say.timer = setTimeout(() => (find(document, '[role=status]', HTMLElement).textContent = text), 400);
}
/** @type {ReturnType<typeof setTimeout> | undefined} */
say.timer = undefined;

/**
 * @param {() => Promise<void>} work
 * @returns {() => Promise<void>} runs `work`; calls that come meanwhile are one call after it
 */
function latest(work) {
  let [running, again] = [false, false];
  return async () => {
    again = true;
    if (running) return;
    running = true;
    results.setAttribute('aria-busy', 'true');
    while (again) {
      again = false;
      await work();
    }
    results.setAttribute('aria-busy', 'false');
    running = false;
  };
}

/**
 * @param {number} top
 * @returns {number[]}
 */
function yTicks(top) {
  const step = [1, 2, 2.5, 5, 10].map((s) => s * 10 ** Math.floor(Math.log10(top / 5))).find((s) => top / s <= 6) ?? top;
  return Array.from({ length: Math.floor(top / step + 1e-9) + 1 }, (_, i) => i * step);
}

/**
 * @param {number} largest
 * @returns {number} a little more, that stays while the largest moves a little
 */
function niceTop(largest) {
  const unit = 10 ** Math.floor(Math.log10(largest * 1.15));
  return [1, 1.5, 2, 3, 4, 5, 6, 8, 10].map((factor) => factor * unit).find((top) => top >= largest * 1.15) ?? largest;
}

/**
 * @param {number} v
 * @returns {string} three digits
 */
function figure(v) {
  return v.toFixed(v < 10 ? 2 : v < 100 ? 1 : 0);
}

/**
 * @param {number[]} values at each of `LENGTHS`
 * @param {number} gamma
 */
function at(values, gamma) {
  return values[gamma - 1] ?? NaN;
}

/**
 * @template {Element} T
 * @param {ParentNode} place
 * @param {string} selector
 * @param {new () => T} type
 * @returns {T}
 */
function find(place, selector, type) {
  const element = place.querySelector(selector);
  if (!(element instanceof type)) throw new Error(`the page has no ${selector}`);
  return element;
}
