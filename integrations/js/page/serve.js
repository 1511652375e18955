/** Serves the package folder on this machine for the page: `npm run page`. */

import { createReadStream, statSync } from 'node:fs';
import { createServer } from 'node:http';
import { extname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const ROOT = fileURLToPath(new URL('..', import.meta.url));
/** @type {Record<string, string>} */
const TYPES = {
  '.html': 'text/html; charset=utf-8',
  '.js': 'text/javascript',
  '.json': 'application/json',
  '.mjs': 'text/javascript',
  '.wasm': 'application/wasm',
  '.onnx': 'application/octet-stream',
};

/**
 * @param {number} port 0 for a free one
 * @returns {Promise<import('node:http').Server>} listening on the loopback address only
 */
export function serve(port) {
  const server = createServer((request, response) => {
    // URL resolves every `..`: the path stays below ROOT.
    const { pathname } = new URL(request.url ?? '/', 'http://localhost');
    if (pathname === '/') return response.writeHead(302, { location: '/page/' }).end();
    const file = join(ROOT, pathname, pathname.endsWith('/') ? 'index.html' : '');
    const type = TYPES[extname(file)];
    if (!type || !file.startsWith(ROOT) || !statSync(file, { throwIfNoEntry: false })?.isFile()) {
      return response.writeHead(404).end();
    }
    response.writeHead(200, { 'content-type': type, 'cache-control': 'no-cache' });
    return createReadStream(file).pipe(response);
  });
  return new Promise((resolve, reject) => {
    server.once('error', reject).listen(port, '127.0.0.1', () => resolve(server));
  });
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const port = Number(process.env['PORT'] ?? 8000);
  try {
    await serve(port);
    console.log(`http://127.0.0.1:${port}/page/  (Ctrl+C ends it)`);
  } catch (error) {
    console.error(`error: port ${port} cannot be used (${String(error)}): set PORT to another one`);
    process.exitCode = 2;
  }
}
