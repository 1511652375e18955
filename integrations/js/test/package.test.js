/** The package as npm packs it: what is in it, and that a program elsewhere runs and compiles against it. */

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';

const here = fileURLToPath(new URL('..', import.meta.url));
const elsewhere = mkdtempSync(join(tmpdir(), 'speckv-package-'));
const installed = join(elsewhere, 'node_modules', 'speckv');
after(() => rmSync(elsewhere, { recursive: true }));

before(() => {
  // `prepare` has run at install; running it again would rewrite files that other tests are reading.
  execFileSync('npm', ['pack', '--silent', '--ignore-scripts', '--pack-destination', elsewhere], { cwd: here });
  const [tarball] = readdirSync(elsewhere).filter((name) => name.endsWith('.tgz'));
  mkdirSync(installed, { recursive: true });
  execFileSync('tar', ['-xzf', join(elsewhere, String(tarball)), '-C', installed, '--strip-components=1']);
  for (const name of readdirSync(join(here, 'node_modules')).filter((name) => /^onnxruntime-|^@types$/.test(name))) {
    symlinkSync(join(here, 'node_modules', name), join(elsewhere, 'node_modules', name));
  }
  writeFileSync(join(elsewhere, 'package.json'), '{ "type": "module" }');
});

test('it holds sources, declarations, the graph and the licences, and nothing else', () => {
  const files = readdirSync(installed, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
  const folders = new Set(files.map((entry) => entry.parentPath.slice(installed.length)));
  assert.deepEqual([...folders].sort(), ['', '/model', '/src', '/types']);
  assert.deepEqual(readdirSync(join(installed, 'model')).sort(), ['LICENSE', 'MANIFEST.json', 'speckv_mlp16_gamma.onnx']);
  assert.deepEqual(
    files.filter((entry) => entry.parentPath === installed).map((entry) => entry.name).sort(),
    ['LICENSE', 'README.md', 'package.json'],
  );
});

test('a program elsewhere decides with it', () => {
  const script = `import { selectGamma } from 'speckv'; console.log((await selectGamma([0, 0, 0, 0], 'fp16')).gamma)`;
  const output = execFileSync(process.execPath, ['--input-type=module', '-e', script], { cwd: elsewhere });
  assert.match(String(output), /^[2468]\n$/);
});

for (const [what, file, damage, message] of /** @type {[string, string, (content: string) => string | null, RegExp][]} */ ([
  ['a damaged graph', 'speckv_mlp16_gamma.onnx', (content) => `${content}\0`, /gamma.onnx differs from its sha256 in MANIFEST.json: /],
  ['no graph', 'speckv_mlp16_gamma.onnx', () => null, /gamma.onnx cannot be read \(ENOENT.*: reinstall speckv/],
  ['another graph’s hash', 'MANIFEST.json', (content) => content.replace(/[0-9a-f]{64}/g, '0'.repeat(64)), /differs from its sha256/],
  ['a manifest of other files', 'MANIFEST.json', () => '{ "files": {} }', /MANIFEST.json does not list speckv_mlp16_gamma.onnx: /],
  ['a manifest that is none', 'MANIFEST.json', () => '<html>', /MANIFEST.json does not list/],
  ['no manifest', 'MANIFEST.json', () => null, /MANIFEST.json cannot be read \(ENOENT/],
])) {
  test(`${what} is refused, and the next call looks again`, () => {
    const place = join(installed, 'model', file);
    const content = readFileSync(place);
    const damaged = damage(content.toString('latin1'));
    const script = `
      import { selectGamma } from 'speckv';
      import { renameSync } from 'node:fs';
      const decide = () => selectGamma([0, 0, 0, 0], 'fp16').then(({ gamma }) => gamma, String);
      console.log(await decide());
      renameSync(${JSON.stringify(`${place}.good`)}, ${JSON.stringify(place)});
      console.log(await decide());`;
    writeFileSync(`${place}.good`, content);
    if (damaged === null) rmSync(place);
    else writeFileSync(place, damaged, 'latin1');
    const output = execFileSync(process.execPath, ['--input-type=module', '-e', script], { cwd: elsewhere });
    const [refusal, gamma] = String(output).split('\n');
    assert.match(String(refusal), /^SpeckvError: /);
    assert.match(String(refusal), message);
    assert.match(String(gamma), /^[2468]$/);
  });
}

test('a strict TypeScript program compiles against its declarations, the libraries’ own included', () => {
  copyFileSync(join(here, 'test', 'consumer.ts'), join(elsewhere, 'consumer.ts'));
  const options = ['--strict', '--noEmit', '--target', 'es2022', '--module', 'nodenext', '--types', 'node', 'consumer.ts'];
  execFileSync(process.execPath, [join(here, 'node_modules/typescript/bin/tsc'), ...options], {
    cwd: elsewhere,
    stdio: 'pipe',
  });
});
