/** What a strict TypeScript program may and may not write; the compiler is the test. */

import { COMPRESSION_CODES, SpeckvError, openSelector, selectGamma } from 'speckv';
import type { BatchDecision, Decision, Options, Signals } from 'speckv';
import { openSelector as openInBrowser } from 'speckv/web';

const signals: Signals = [0.9, 0.82, 1.7, 0.55];
const options: Options = { candidates: [2, 4], stepCost: Float32Array.of(1, 1.5) };

export async function decide(): Promise<number> {
  const decision: Decision = await selectGamma(signals, 'nf4', options);
  const batch: BatchDecision = await (await openSelector()).selectBatch([signals, new Float32Array(4)], ['fp16', 2]);
  await (await openInBrowser(new URL('https://example.org/graph.onnx'))).select(signals, COMPRESSION_CODES.int8);
  throw new SpeckvError(`${decision.gamma} ${batch.expectedTokens[0]?.[0]}`);
}

export async function refused(): Promise<void> {
  // @ts-expect-error: three signals
  await selectGamma([0.9, 0.82, 1.7], 'nf4');
  // @ts-expect-error: no such compression
  await selectGamma(signals, 'int4');
  // @ts-expect-error: no compression
  await selectGamma(signals);
  // @ts-expect-error: Python's name
  await selectGamma(signals, 'fp16', { step_cost: [1, 1] });
  // @ts-expect-error: candidates are numbers
  await selectGamma(signals, 'fp16', { candidates: ['2'] });
  // @ts-expect-error: gamma is read, once it has been waited for
  selectGamma(signals, 'fp16').gamma;
  // @ts-expect-error: a decision is one number, a batch is many
  const gamma: string = (await selectGamma(signals, 'fp16')).gamma;
  void gamma;
}
