/** Copies what the package ships besides its own sources: the decision graph, its manifest and the licences. */

import { copyFileSync, existsSync, mkdirSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

import { DECISION_FILE, MANIFEST_FILE } from '../src/contract.js';

const here = new URL('../', import.meta.url);
const predictor = new URL('../../models/speckv-mlp16/', here);
if (!existsSync(new URL(DECISION_FILE, predictor))) {
  console.error(`error: no ${DECISION_FILE} in ${fileURLToPath(predictor)}: run \`python -m export\` in the clone`);
  process.exit(2);
}
mkdirSync(new URL('model/', here), { recursive: true });
for (const file of [DECISION_FILE, MANIFEST_FILE, 'LICENSE']) {
  copyFileSync(new URL(file, predictor), new URL(`model/${file}`, here));
}
copyFileSync(new URL('../../LICENSE', here), new URL('LICENSE', here));
