// Nobody who asks for text waits for a compiler: with `auto` a first start answers with WebAssembly while the native
// kernels are built beside it. Runs the compiled files in a copy of the package whose builder is a stand-in.

import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { cp, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { selectBackend } from '../../src/engine/select.ts';
import { packageRoot } from '../../src/hub/package-root.ts';

let copy = '';
beforeAll(async () => {
  copy = await mkdtemp(join(tmpdir(), 'select-'));
  // Not the kept code: other tests start the program meanwhile, which writes files there and renames them.
  const filter = (path: string) => !path.startsWith(join(packageRoot(), 'dist', 'bundle', 'code'));
  await cp(join(packageRoot(), 'dist'), join(copy, 'dist'), { recursive: true, filter });
  await cp(join(packageRoot(), 'kernels', 'wasm'), join(copy, 'kernels', 'wasm'), { recursive: true });
  await cp(join(packageRoot(), 'package.json'), join(copy, 'package.json'));
  await mkdir(join(copy, 'scripts'));
});
afterAll(() => rm(copy, { recursive: true, force: true }));

/** Calls selectBackend in the copy, with a builder that says `why` it cannot build, or marks that it was started. */
async function select(why: string | undefined): Promise<{ chosen: string; line: string; ms: number }> {
  const mark = join(copy, 'started');
  await rm(mark, { force: true });
  await writeFile(
    join(copy, 'scripts', 'build-native.mjs'),
    `import { writeFileSync } from 'node:fs';
     import { fileURLToPath } from 'node:url';
     export const findNative = () => undefined;
     export const whyNotBuilt = () => ${JSON.stringify(why)};
     export const buildNative = async () => ({ reason: ${JSON.stringify(why ?? 'nobody should have waited')} });
     if (process.argv[1] === fileURLToPath(import.meta.url)) writeFileSync(${JSON.stringify(mark)}, '');`,
  );
  const script = `
    const { selectBackend } = await import(${JSON.stringify(pathToFileURL(join(copy, 'dist', 'engine', 'select.js')).href)});
    let line = '';
    const start = performance.now();
    const { backend } = await selectBackend('auto', { warn: (text) => { line = text; } });
    console.log(JSON.stringify({ chosen: backend.name, line, ms: performance.now() - start }));`;
  return JSON.parse(execFileSync(process.execPath, ['--input-type=module', '-e', script], { encoding: 'utf8' }));
}

const appears = async (path: string) => {
  for (let i = 0; i < 1500 && !existsSync(path); i += 1) await new Promise((resolve) => setTimeout(resolve, 20));
  return existsSync(path);
};

describe.skipIf(process.platform === 'darwin')('a first start', () => {
  test('answers with WebAssembly at once, says so, and begins the build', async () => {
    const { chosen, line } = await select(undefined);
    expect(chosen).toBe('wasm');
    expect(line).toMatch(/using the wasm backend: the native kernels are being compiled/);
    expect(await appears(join(copy, 'started'))).toBe(true);
  });

  test('says why where nothing can be built', async () => {
    const { chosen, line } = await select('no C++ compiler was found');
    expect(chosen).toBe('wasm');
    expect(line).toBe('using the wasm backend: no C++ compiler was found');
  });
});

test('an unknown backend is an argument error that lists the known ones', async () => {
  await expect(selectBackend('gpu' as never)).rejects.toThrow(/unknown backend "gpu".*auto, metal, cpu, wasm, js/);
});
