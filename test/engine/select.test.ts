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
import { packageRoot } from '../../src/package/root.ts';

let copy = '';
beforeAll(async () => {
  copy = await mkdtemp(join(tmpdir(), 'select-'));
  // Not the kept code: other tests start the program meanwhile, which writes files there and renames them.
  const filter = (path: string) => !path.startsWith(join(packageRoot(), 'dist', 'bundle', 'code'));
  await cp(join(packageRoot(), 'dist'), join(copy, 'dist'), { recursive: true, filter });
  await cp(join(packageRoot(), 'kernels', 'wasm'), join(copy, 'kernels', 'wasm'), { recursive: true });
  await cp(join(packageRoot(), 'package.json'), join(copy, 'package.json'));
  for (const folder of ['include', 'cpu', 'addon', 'windows']) {
    await cp(join(packageRoot(), 'kernels', folder), join(copy, 'kernels', folder), { recursive: true });
  }
  // What would compile.
  await writeFile(
    join(copy, 'dist', 'native', 'build.js'),
    `import { writeFileSync } from 'node:fs'; writeFileSync(${JSON.stringify(mark())}, process.argv[2]);`,
  );
  await cp(join(packageRoot(), 'node_modules', 'node-api-headers'), join(copy, 'node_modules', 'node-api-headers'), {
    recursive: true,
  });
});
afterAll(() => rm(copy, { recursive: true, force: true }));

/** Calls selectBackend in the copy, with or without a compiler. What stands for the build leaves a mark. */
async function select(compiler: boolean): Promise<{ chosen: string; line: string }> {
  await rm(mark(), { force: true });
  const bin = join(copy, 'bin');
  await mkdir(bin, { recursive: true });
  if (compiler) await writeFile(join(bin, 'c++'), '#!/bin/sh\necho stand-in 1\n', { mode: 0o755 });
  else await rm(join(bin, 'c++'), { force: true });
  const script = `
    const { selectBackend } = await import(${JSON.stringify(pathToFileURL(join(copy, 'dist', 'engine', 'select.js')).href)});
    let line = '';
    const { backend } = await selectBackend('auto', { warn: (text) => { line = text; } });
    console.log(JSON.stringify({ chosen: backend.name, line }));`;
  const env = { PATH: bin, XDG_CACHE_HOME: join(copy, 'cache') };
  return JSON.parse(execFileSync(process.execPath, ['--input-type=module', '-e', script], { encoding: 'utf8', env }));
}

const mark = () => join(copy, 'started');

const appears = async (path: string) => {
  for (let i = 0; i < 1500 && !existsSync(path); i += 1) await new Promise((resolve) => setTimeout(resolve, 20));
  return existsSync(path);
};

describe.skipIf(process.platform !== 'linux')('a first start', () => {
  test('answers with WebAssembly at once, says so, and begins the build', async () => {
    const { chosen, line } = await select(true);
    expect(chosen).toBe('wasm');
    expect(line).toMatch(/using the wasm backend: the native kernels are being compiled/);
    expect(await appears(mark())).toBe(true);
  });

  test('says why where nothing can be built', async () => {
    const { chosen, line } = await select(false);
    expect(chosen).toBe('wasm');
    expect(line).toBe('using the wasm backend: no C++ compiler was found (looked for $CXX, c++, g++, clang++)');
  });
});

test('an unknown backend is an argument error that lists the known ones', async () => {
  await expect(selectBackend('gpu' as never)).rejects.toThrow(
    /unknown backend "gpu".*auto, metal, cuda, cpu, wasm, js/,
  );
});
