/** The shipped graph: used only if its SHA-256 is the one in the MANIFEST.json that it came with. */

import { DECISION_FILE, MANIFEST_FILE } from './contract.js';
import { SpeckvError } from './errors.js';

// Written out, because bundlers look for exactly this to take the files along.
const GRAPH = new URL('../model/speckv_mlp16_gamma.onnx', import.meta.url);
const MANIFEST = new URL('../model/MANIFEST.json', import.meta.url);

/**
 * @param {(place: URL) => Promise<Uint8Array>} read
 * @returns {Promise<Uint8Array>} the content of the decision graph
 * @throws {SpeckvError} naming the file that cannot be read, or is not the packed one
 */
export async function readShipped(read) {
  const [graph, manifest] = await Promise.all([read(GRAPH), read(MANIFEST)]);
  if ((await sha256(graph)) !== listed(manifest)) {
    throw new SpeckvError(`${GRAPH} differs from its sha256 in ${MANIFEST_FILE}: reinstall speckv`);
  }
  return graph;
}

/**
 * @param {Uint8Array} manifest
 * @returns {unknown} what it gives as the graph's SHA-256
 */
function listed(manifest) {
  try {
    return JSON.parse(new TextDecoder().decode(manifest)).files[DECISION_FILE].sha256;
  } catch {
    throw new SpeckvError(`${MANIFEST} does not list ${DECISION_FILE}: reinstall speckv`);
  }
}

/**
 * @param {Uint8Array} data
 * @returns {Promise<string>} in lower-case hexadecimal
 */
async function sha256(data) {
  // Browsers have it only where the page itself came unaltered: over https, or from the reader's own machine.
  if (!globalThis.crypto?.subtle) {
    throw new SpeckvError(
      `${DECISION_FILE} cannot be checked, for this page came over plain http: serve it over https, or give openSelector the graph's bytes`,
    );
  }
  const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', /** @type {BufferSource} */ (data)));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, '0')).join('');
}
