/** Decisions in the browser, or wherever onnxruntime-web runs, through its wasm backend. */

import { DECISION_FILE } from './contract.js';
import { SpeckvError, firstLine } from './errors.js';
import { GammaSelector } from './selector.js';

export * from './contract.js';
export { SpeckvError } from './errors.js';
export { GammaSelector } from './selector.js';

/**
 * @typedef {import('./checks.js').Signals} Signals
 * @typedef {import('./checks.js').Compression} Compression
 * @typedef {import('./checks.js').Options} Options
 * @typedef {import('./selector.js').Decision} Decision
 * @typedef {import('./selector.js').BatchDecision} BatchDecision
 */

const SHIPPED = new URL(`../model/${DECISION_FILE}`, import.meta.url);

/** @type {Promise<GammaSelector> | undefined} */
let shipped;

/**
 * Decide once with the shipped predictor, which is fetched at the first call.
 * @param {Signals} signals entropies in bits, confidences as top-1 probabilities
 * @param {Compression} compression the target's precision
 * @param {Options} [options] `candidates` and `stepCost`
 * @returns {Promise<Decision>}
 * @throws {SpeckvError} naming the argument that is wrong
 */
export async function selectGamma(signals, compression, options) {
  shipped ??= openSelector();
  return (await shipped).select(signals, compression, options);
}

/**
 * Open a decision graph, the shipped one by default.
 * @param {string | URL | Uint8Array} [model] address or content
 * @returns {Promise<GammaSelector>}
 * @throws {SpeckvError} if onnxruntime-web or the graph cannot be loaded
 */
export async function openSelector(model = SHIPPED) {
  const ort = await importRuntime();
  const [name, bytes] = model instanceof Uint8Array ? ['the given model', model] : [model, await download(model)];
  try {
    return new GammaSelector(ort, await ort.InferenceSession.create(bytes, { executionProviders: ['wasm'] }));
  } catch (error) {
    throw new SpeckvError(
      `${name}: onnxruntime-web cannot load it (${firstLine(error)}): reinstall speckv, or give openSelector a ${DECISION_FILE}`,
    );
  }
}

/** @returns {Promise<typeof import('onnxruntime-web')>} */
async function importRuntime() {
  try {
    return await import('onnxruntime-web');
  } catch (error) {
    throw new SpeckvError(`onnxruntime-web cannot be imported (${firstLine(error)}): npm install onnxruntime-web`);
  }
}

/**
 * @param {string | URL} address
 * @returns {Promise<Uint8Array>}
 */
async function download(address) {
  const next = `check that it is served, or give openSelector another address of ${DECISION_FILE}`;
  let response;
  try {
    response = await fetch(address);
  } catch (error) {
    throw new SpeckvError(`${address}: cannot be fetched (${firstLine(error)}): ${next}`);
  }
  if (!response.ok) throw new SpeckvError(`${address}: the server answers ${response.status}: ${next}`);
  return new Uint8Array(await response.arrayBuffer());
}
