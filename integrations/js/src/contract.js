/**
 * The words that other programs depend on, as in `models/speckv-mlp16/README.md`.
 * Source: SpecKV (Shukla 2026, arXiv 2605.02888).
 */

/** Order of the four draft signals; entropies in bits, confidences are top-1 probabilities. */
export const SIGNALS = /** @type {const} */ ([
  'mean_draft_entropy',
  'mean_draft_confidence',
  'max_draft_entropy',
  'min_draft_confidence',
]);

/** Precision of the target to the graph's `comp_enc`. */
export const COMPRESSION_CODES = /** @type {const} */ ({ fp16: 0, int8: 1, nf4: 2 });

/** The speculation lengths (tokens) that the published controller chooses from. */
export const PUBLISHED_CANDIDATES = /** @type {const} */ ([2, 4, 6, 8]);

/** Above log2 of any vocabulary: a larger entropy is not in bits, or not an entropy. */
export const MAX_ENTROPY_BITS = 32;

export const DECISION_FILE = 'speckv_mlp16_gamma.onnx';

export const MANIFEST_FILE = 'MANIFEST.json';
