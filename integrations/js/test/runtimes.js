/** Both entries of the package, each with the shipped graph open: native under Node, and wasm under Node. */

import { readFileSync } from 'node:fs';

import * as node from 'speckv';
import * as web from 'speckv/web';

export const graph = new Uint8Array(readFileSync(new URL('../model/speckv_mlp16_gamma.onnx', import.meta.url)));

export const runtimes = [
  { name: 'onnxruntime-node', entry: node, open: () => node.openSelector() },
  { name: 'onnxruntime-web (wasm)', entry: web, open: () => web.openSelector(graph) }, // Node fetches no file address
];
