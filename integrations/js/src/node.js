/** Decisions under Node, through onnxruntime-node. */

import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { isMainThread } from 'node:worker_threads';

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

/** A decision is a handful of tiny operators: one thread, which does not spin between calls, is fastest. */
const SESSION_OPTIONS = {
  executionProviders: ['cpu'],
  intraOpNumThreads: 1,
  interOpNumThreads: 1,
  logSeverityLevel: /** @type {const} */ (4), // every failure comes back as an exception
  extra: { session: { intra_op: { allow_spinning: '0' } } },
};

/** @type {Promise<GammaSelector> | undefined} */
let shipped;

/**
 * Decide once with the shipped predictor, which is opened at the first call.
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
 * @param {string | URL | Uint8Array} [model] path, file address or content
 * @returns {Promise<GammaSelector>}
 * @throws {SpeckvError} if onnxruntime-node or the graph cannot be loaded, or the shipped graph is not the packed one
 */
export async function openSelector(model) {
  const ort = await importRuntime();
  const place = model === undefined ? await readShipped(read) : model instanceof URL ? fileURLToPath(model) : model;
  const name = typeof place === 'string' ? place : `the ${model === undefined ? 'shipped' : 'given'} model`;
  try {
    const session = await (typeof place === 'string'
      ? ort.InferenceSession.create(place, SESSION_OPTIONS)
      : ort.InferenceSession.create(place, SESSION_OPTIONS));
    return new GammaSelector(ort, session);
  } catch (error) {
    throw new SpeckvError(
      `${name}: onnxruntime-node cannot load it (${firstLine(error)}): reinstall speckv, or give openSelector a ${DECISION_FILE}`,
    );
  }
}

/**
 * @param {URL} place
 * @returns {Promise<Uint8Array>}
 */
async function read(place) {
  try {
    return await readFile(place);
  } catch (error) {
    throw new SpeckvError(`${fileURLToPath(place)} cannot be read (${firstLine(error)}): reinstall speckv`);
  }
}

/** @returns {Promise<typeof import('onnxruntime-node')>} onnxruntime-node with its telemetry switched off */
async function importRuntime() {
  // The library reads the process's environment, of which a worker thread only has a copy.
  if (!isMainThread && process.env['ORT_DISABLE_TELEMETRY'] !== '1') {
    throw new SpeckvError(
      'onnxruntime-node would send telemetry from this worker thread: set ORT_DISABLE_TELEMETRY=1 in the main thread',
    );
  }
  process.env['ORT_DISABLE_TELEMETRY'] = '1';
  try {
    return await import('onnxruntime-node');
  } catch (error) {
    throw new SpeckvError(`onnxruntime-node cannot be imported (${firstLine(error)}): npm install onnxruntime-node`);
  }
}
