/** Decisions through both runtimes: the vectors, the defaults, batches, and calls at the same time. */

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { describe, test } from 'node:test';

import { PUBLISHED_CANDIDATES, selectGamma } from 'speckv';

import { graph, runtimes } from './runtimes.js';
import { assertClose, cases } from './vectors.js';

test('the graph of the package is the repository’s own', () => {
  const models = new URL('../../../models/speckv-mlp16/speckv_mlp16_gamma.onnx', import.meta.url);
  assert.deepEqual(Buffer.from(graph), readFileSync(models));
});

for (const { name, open } of runtimes) {
  describe(name, async () => {
    const selector = await open();

    for (const vector of cases) {
      const options = { candidates: vector.candidates, stepCost: vector.step_cost };

      test(`vector: ${vector.name}`, async () => {
        const batch = await selector.selectBatch(vector.signals, vector.comp_enc, options);
        assert.deepEqual(batch.gamma, vector.gamma);
        assert.equal(batch.expectedTokens.length, vector.gamma.length);
        for (const [row, signals] of vector.signals.entries()) {
          const one = await selector.select(signals, /** @type {0} */ (vector.comp_enc[row]), options);
          for (const found of [one.gamma, batch.gamma[row]]) assert.equal(found, vector.gamma[row]);
          for (const found of [one.expectedTokens, batch.expectedTokens[row]]) {
            assertClose(found ?? [], vector.expected_tokens[row]);
          }
          for (const found of [one.predictedAcceptanceRate, batch.predictedAcceptanceRate[row]]) {
            assertClose(found ?? [], vector.predicted_acceptance_rate[row]);
          }
        }
      });
    }

    test('the defaults are the published rule', async () => {
      const published = cases.filter(
        ({ candidates, step_cost }) =>
          String(candidates) === String(PUBLISHED_CANDIDATES) && step_cost.every((cost) => cost === 1),
      );
      assert.ok(published.length > 30);
      for (const { signals, comp_enc, gamma, expected_tokens } of published) {
        const batch = await selector.selectBatch(signals, comp_enc);
        assert.deepEqual(batch.gamma, gamma);
        batch.expectedTokens.forEach((tokens, row) => assertClose(tokens, expected_tokens[row]));
      }
    });

    test('a compression by name is its code, for one and for a batch', async () => {
      const rows = cases.flatMap(({ signals }) => signals).slice(0, 6);
      const [first] = rows;
      assert.ok(first);
      const names = /** @type {const} */ (['fp16', 'int8', 'nf4']);
      const tokens = new Set();
      for (const [code, compression] of names.entries()) {
        const named = await selector.select(first, compression);
        assert.deepEqual(named, await selector.select(first, /** @type {0} */ (code)));
        assert.deepEqual(
          await selector.selectBatch(rows, compression),
          await selector.selectBatch(rows, new Array(6).fill(/** @type {0} */ (code))),
        );
        tokens.add(String(named.expectedTokens));
      }
      assert.equal(tokens.size, 3);
    });

    test('typed arrays are arrays', async () => {
      const plain = await selector.select([0.5, 0.75, 1.5, 0.25], 'nf4', { candidates: [3, 5], stepCost: [1, 2] });
      const typed = await selector.select(Float64Array.of(0.5, 0.75, 1.5, 0.25), 'nf4', {
        candidates: Int32Array.of(3, 5),
        stepCost: Float32Array.of(1, 2),
      });
      assert.deepEqual(typed, plain);
    });

    test('calls at the same time give what they give alone', async () => {
      const rows = cases.flatMap(({ signals }) => signals);
      const alone = [];
      for (const row of rows) alone.push(await selector.select(row, 'int8'));
      assert.deepEqual(await Promise.all(rows.map((row) => selector.select(row, 'int8'))), alone);
    });
  });
}

test('selectGamma decides with the shipped predictor, from the first call on and at the same time', async () => {
  const [vector] = cases;
  assert.ok(vector);
  const [signals] = vector.signals;
  assert.ok(signals);
  const decisions = await Promise.all([1, 2, 3].map(() => selectGamma(signals, 'fp16')));
  for (const decision of decisions) {
    assert.equal(decision.gamma, vector.gamma[0]);
    assertClose(decision.expectedTokens, vector.expected_tokens[0]);
  }
});

test('the program of LANGUAGES.md', () => {
  const page = readFileSync(new URL('../../LANGUAGES.md', import.meta.url), 'utf8');
  const [, script] = page.match(/```js\n(.*?)```/s) ?? [];
  assert.ok(script);
  const output = execFileSync(process.execPath, ['--input-type=module', '-e', script], {
    cwd: new URL('..', import.meta.url),
    encoding: 'utf8',
  });
  assert.match(output, /^gamma 8 2\.5035\d* 3\.8151\d* 4\.9346\d* 5\.8622\d*\n$/);
});
