/** The repository's test vectors, `tests/vectors/decisions.json`, and their rule for comparing. */

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';

/**
 * @typedef {object} Case
 * @property {string} name
 * @property {[number, number, number, number][]} signals
 * @property {(0 | 1 | 2)[]} comp_enc
 * @property {number[]} candidates
 * @property {number[]} step_cost
 * @property {number[]} gamma
 * @property {number[][]} expected_tokens
 * @property {number[][]} predicted_acceptance_rate
 */

/** @type {{ tolerance: number, cases: Case[] }} */
export const { tolerance, cases } = JSON.parse(
  readFileSync(new URL('../../../tests/vectors/decisions.json', import.meta.url), 'utf8'),
);

/**
 * Assert that values agree: absolutely up to 1, relatively above.
 * @param {ArrayLike<number>} found
 * @param {ArrayLike<number> | undefined} expected
 */
export function assertClose(found, expected) {
  assert.ok(expected);
  assert.equal(found.length, expected.length);
  for (const [i, right] of Array.from(expected).entries()) {
    const difference = Math.abs(/** @type {number} */ (found[i]) - right) / Math.max(Math.abs(right), 1);
    assert.ok(difference <= tolerance, `${found[i]} is not ${right}`);
  }
}
