/** The decision: which gamma the predictor expects the most tokens from, in one call of the ONNX graph. */

import { checkOptions, checkSignals, compressionCode, show } from './checks.js';
import { SIGNALS } from './contract.js';
import { SpeckvError } from './errors.js';

/**
 * @typedef {import('./checks.js').Signals} Signals
 * @typedef {import('./checks.js').Compression} Compression
 * @typedef {import('./checks.js').Options} Options
 */

/**
 * One decision over k candidates.
 * @typedef {object} Decision
 * @property {number} gamma the chosen speculation length, in tokens
 * @property {Float32Array} expectedTokens [k] rate · candidate + 1, tokens per step, before the division by `stepCost`
 * @property {Float32Array} predictedAcceptanceRate [k] clipped to [0, 1]
 */

/**
 * Decisions over the same k candidates, one a row.
 * @typedef {object} BatchDecision
 * @property {number[]} gamma [batch] tokens
 * @property {Float32Array[]} expectedTokens [batch] of [k], tokens per step
 * @property {Float32Array[]} predictedAcceptanceRate [batch] of [k], clipped to [0, 1]
 */

/**
 * What is used of onnxruntime-node and onnxruntime-web: they have it in common.
 * @typedef {Pick<typeof import('onnxruntime-common'), 'Tensor'>} OnnxRuntime
 */

/** Chooses gamma by the rule of SpecKV (Shukla 2026, algorithm 1): first argmax of (rate · gamma + 1) / step cost. */
export class GammaSelector {
  #ort;
  #session;

  /**
   * Use `openSelector`.
   * @param {OnnxRuntime} ort
   * @param {import('onnxruntime-common').InferenceSession} session of the decision graph
   */
  constructor(ort, session) {
    this.#ort = ort;
    this.#session = session;
  }

  /**
   * Decide once.
   * @param {Signals} signals
   * @param {Compression} compression
   * @param {Options} [options]
   * @returns {Promise<Decision>}
   * @throws {SpeckvError} naming the argument that is wrong
   */
  async select(signals, compression, options) {
    const { lengths, costs } = checkOptions(options);
    const { gamma, expectedTokens, predictedAcceptanceRate } = await this.#run(
      checkSignals(signals),
      [compressionCode(compression)],
      lengths,
      costs,
    );
    return { gamma: Number(gamma[0]), expectedTokens, predictedAcceptanceRate };
  }

  /**
   * Decide for a batch.
   * @param {ReadonlyArray<Signals>} signals one row a decision
   * @param {Compression | ReadonlyArray<Compression>} compression one for all, or one a row
   * @param {Options} [options] for all
   * @returns {Promise<BatchDecision>}
   * @throws {SpeckvError} naming the argument and the row that is wrong
   */
  async selectBatch(signals, compression, options) {
    if (!Array.isArray(signals)) {
      throw new SpeckvError(`signals is ${show(signals)}: it must be an array of rows of ${SIGNALS.length} numbers`);
    }
    const rows = signals.flatMap((row, i) => atRow('signals', i, () => checkSignals(row)));
    if (Array.isArray(compression) && compression.length !== signals.length) {
      throw new SpeckvError(
        `compression is ${show(compression)}: it must be one value, or one for each of ${signals.length} rows`,
      );
    }
    const codes = Array.isArray(compression)
      ? compression.map((value, i) => atRow('compression', i, () => compressionCode(value)))
      : new Array(signals.length).fill(compressionCode(/** @type {Compression} */ (compression)));
    const { lengths, costs } = checkOptions(options);
    const outputs = await this.#run(rows, codes, lengths, costs);
    /** @param {Float32Array} flat */
    const split = (flat) => codes.map((_, i) => flat.slice(i * lengths.length, (i + 1) * lengths.length));
    return {
      gamma: Array.from(outputs.gamma, Number),
      expectedTokens: split(outputs.expectedTokens),
      predictedAcceptanceRate: split(outputs.predictedAcceptanceRate),
    };
  }

  /**
   * @param {number[]} rows [batch · 4]
   * @param {number[]} codes [batch]
   * @param {BigInt64Array} lengths [k]
   * @param {Float32Array} costs [k]
   */
  async #run(rows, codes, lengths, costs) {
    const { Tensor } = this.#ort;
    const [batch, k] = [codes.length, lengths.length];
    const outputs = await this.#session.run({
      signals: new Tensor('float32', Float32Array.from(rows), [batch, SIGNALS.length]),
      comp_enc: new Tensor('int64', BigInt64Array.from(codes, BigInt), [batch]),
      candidates: new Tensor('int64', lengths, [k]),
      step_cost: new Tensor('float32', costs, [k]),
    });
    return {
      gamma: /** @type {BigInt64Array} */ (outputs['gamma']?.data),
      expectedTokens: /** @type {Float32Array} */ (outputs['expected_tokens']?.data),
      predictedAcceptanceRate: /** @type {Float32Array} */ (outputs['predicted_acceptance_rate']?.data),
    };
  }
}

/**
 * @template T
 * @param {string} argument
 * @param {number} row
 * @param {() => T} check
 * @returns {T}
 */
function atRow(argument, row, check) {
  try {
    return check();
  } catch (error) {
    throw error instanceof SpeckvError ? new SpeckvError(`${argument} row ${row}: ${error.message}`) : error;
  }
}
