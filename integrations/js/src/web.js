/** Decisions in the browser, or wherever onnxruntime-web runs, through its wasm backend. */

import { DECISION_FILE } from './contract.js';
import { SpeckvError, firstLine } from './errors.js';
import { GammaSelector } from './selector.js';
import { readShipped } from './shipped.js';

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
  shipped ??= openSelector().catch((error) => {
    shipped = undefined; // the next call tries again
    throw error;
  });
  return (await shipped).select(signals, compression, options);
}

/**
 * Open a decision graph. The shipped one, the default, is checked against its manifest; any other is taken as it is.
 * @param {string | URL | Uint8Array} [model] address or content
 * @returns {Promise<GammaSelector>}
 * @throws {SpeckvError} if onnxruntime-web or the graph cannot be loaded, or the shipped graph is not the packed one
 */
export async function openSelector(model) {
  const ort = await importRuntime();
  const [name, bytes] = await content(model);
  try {
    return new GammaSelector(ort, await ort.InferenceSession.create(bytes, { executionProviders: ['wasm'] }));
  } catch (error) {
    throw new SpeckvError(
      `${name}: onnxruntime-web cannot load it (${firstLine(error)}): reinstall speckv, or give openSelector a ${DECISION_FILE}`,
    );
  }
}

/**
 * @param {string | URL | Uint8Array | undefined} model
 * @returns {Promise<[name: string, bytes: Uint8Array]>}
 */
async function content(model) {
  if (model === undefined) return ['the shipped model', await readShipped(download)];
  return model instanceof Uint8Array ? ['the given model', model] : [String(model), await download(model)];
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
