/** Bad input or an unusable installation, in one line: the thing, the place and the next step. */
export class SpeckvError extends Error {
  name = 'SpeckvError';
}

/**
 * The first line of what another library threw.
 * @param {unknown} error
 * @returns {string}
 */
export function firstLine(error) {
  const text = error instanceof Error ? error.message : String(error);
  return text.split('\n')[0] ?? '';
}
