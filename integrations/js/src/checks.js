/** What a decision refuses: the same values as Python's selector, with an error that names the argument. */

import { COMPRESSION_CODES, MAX_ENTROPY_BITS, PUBLISHED_CANDIDATES, SIGNALS } from './contract.js';
import { SpeckvError } from './errors.js';

/**
 * The four signals of one step, in this order; entropies in bits, confidences as top-1 probabilities.
 * @typedef {readonly [
 *   meanDraftEntropy: number,
 *   meanDraftConfidence: number,
 *   maxDraftEntropy: number,
 *   minDraftConfidence: number,
 * ] | Float32Array | Float64Array} Signals
 */

/**
 * The target's precision, or its code.
 * @typedef {keyof typeof COMPRESSION_CODES | 0 | 1 | 2} Compression
 */

/**
 * An array or typed array of numbers.
 * @typedef {ArrayLike<number> & Iterable<number>} Numbers
 */

/**
 * What to choose from.
 * @typedef {object} Options
 * @property {Numbers} [candidates] speculation lengths in tokens; 2, 4, 6, 8 by default
 * @property {Numbers} [stepCost] cost of a step with each candidate, in any unit, > 0; ones (the published rule) by
 *   default
 */

/** Tokens; beyond any context, and far from where float32 outputs lose whole tokens. */
const LONGEST_CANDIDATE = 2 ** 20;
const SMALLEST_FLOAT32 = 2 ** -126;
const LARGEST_FLOAT32 = (2 - 2 ** -23) * 2 ** 127;

/**
 * @param {unknown} signals
 * @returns {number[]} the four, in range
 */
export function checkSignals(signals) {
  const values = numbers(signals);
  if (values?.length !== SIGNALS.length) {
    throw new SpeckvError(`signals is ${show(signals)}: it must be the four numbers ${SIGNALS.join(', ')}`);
  }
  SIGNALS.forEach((name, i) => {
    const value = /** @type {number} */ (values[i]);
    const [upper, unit] = name.includes('entropy') ? [MAX_ENTROPY_BITS, 'bits'] : [1, 'a probability'];
    if (!(value >= 0 && value <= upper)) {
      throw new SpeckvError(`${name} is ${value}: it must be from 0 to ${upper} (${unit})`);
    }
  });
  return values;
}

/**
 * @param {unknown} compression
 * @returns {number} the graph's `comp_enc`
 */
export function compressionCode(compression) {
  const code = Object.entries(COMPRESSION_CODES).find((entry) => entry.includes(/** @type {never} */ (compression)));
  if (code === undefined) {
    throw new SpeckvError(`compression is ${show(compression)}: it must be fp16, int8 or nf4 (0, 1, 2)`);
  }
  return code[1];
}

/**
 * @param {Options | undefined} options
 * @returns {{ lengths: BigInt64Array, costs: Float32Array }} one cost a length, at least one
 */
export function checkOptions(options) {
  if (options !== undefined && (options === null || typeof options !== 'object' || Array.isArray(options))) {
    throw new SpeckvError(`options is ${show(options)}: it must be an object with candidates, stepCost or both`);
  }
  const { candidates, stepCost, ...unknown } = options ?? {};
  for (const name of Object.keys(unknown)) {
    throw new SpeckvError(`option ${show(name)} is unknown: there are candidates and stepCost`);
  }
  const lengths = checkCandidates(candidates ?? PUBLISHED_CANDIDATES);
  return { lengths, costs: checkStepCost(stepCost, lengths.length) };
}

/**
 * @param {unknown} candidates
 * @returns {BigInt64Array}
 */
function checkCandidates(candidates) {
  const lengths = numbers(candidates);
  if (!lengths?.length || !lengths.every((n) => Number.isInteger(n) && n >= 0 && n <= LONGEST_CANDIDATE)) {
    throw new SpeckvError(
      `candidates is ${show(candidates)}: it must be one or more whole numbers of tokens, 0 to ${LONGEST_CANDIDATE}`,
    );
  }
  return BigInt64Array.from(lengths, BigInt);
}

/**
 * @param {unknown} stepCost
 * @param {number} k
 * @returns {Float32Array}
 */
function checkStepCost(stepCost, k) {
  if (stepCost === undefined || stepCost === null) return new Float32Array(k).fill(1);
  const costs = numbers(stepCost);
  if (costs?.length !== k || !costs.every((cost) => cost >= SMALLEST_FLOAT32 && cost <= LARGEST_FLOAT32)) {
    throw new SpeckvError(
      `stepCost is ${show(stepCost)}: it must be one positive float32 for each of ${k} candidates`,
    );
  }
  return Float32Array.from(costs);
}

/**
 * @param {unknown} values
 * @returns {number[] | undefined} the values of an array or typed array if all are numbers
 */
function numbers(values) {
  if (!Array.isArray(values) && !(ArrayBuffer.isView(values) && Symbol.iterator in values)) return undefined;
  const list = Array.from(/** @type {Iterable<unknown>} */ (values));
  return list.every((value) => typeof value === 'number') ? /** @type {number[]} */ (list) : undefined;
}

/**
 * @param {unknown} value
 * @returns {string} a short form for an error message
 */
export function show(value) {
  if (typeof value === 'string') return JSON.stringify(value.length > 40 ? `${value.slice(0, 40)}…` : value);
  if (Array.isArray(value) || ArrayBuffer.isView(value)) {
    const list = Array.from(/** @type {Iterable<unknown>} */ (value));
    return `[${list.slice(0, 8).map(show).join(', ')}${list.length > 8 ? ', …' : ''}]`;
  }
  return value !== null && typeof value === 'object' ? 'an object' : String(value);
}
