// A binary that is not what it should be costs one line that says why, once a child process, and never the program: it
// runs WebAssembly with the same result. In a copy of the package as it is installed where no compiler is.

import { execFileSync, spawnSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest';
import { compileAddon, findCompiler } from '../../src/native/compile.ts';
import { targetName } from '../../src/native/machine.ts';
import { fileHash, type PrebuiltManifest } from '../../src/native/prebuilt.ts';
import { sourcePaths, sourcesKey } from '../../src/native/recipe.ts';
import { whyUnusable } from '../../src/native/try-in-child.ts';
import { packageRoot } from '../../src/package/root.ts';
import { packageVersion } from '../../src/package/version.ts';

const home = mkdtempSync(join(tmpdir(), 'hostile binaries ü '));
afterAll(() => rmSync(home, { recursive: true, force: true }));
const copy = join(home, 'package');
const folder = join(copy, 'prebuilds', targetName());
const cache = join(home, 'cache');
const compiler = findCompiler();

/** Compiled here: whatever comes prebuilt is made of the same sources. */
let good: Buffer;

beforeAll(async () => {
  for (const path of ['dist', 'kernels', 'models/default', 'package.json']) {
    cpSync(join(packageRoot(), path), join(copy, path), {
      recursive: true,
      filter: (source) => !/[/\\](code|master)$/.test(source),
    });
  }
  const { path } = await compileAddon('bitnet', packageRoot());
  if (path !== undefined) good = readFileSync(path);
}, 300_000);

beforeEach(() => {
  rmSync(cache, { recursive: true, force: true });
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
});

function put(addon: Buffer, manifest: { sha256?: string; sources?: string; version?: string } = {}) {
  const path = join(folder, 'bitnet.node');
  writeFileSync(path, addon);
  const { files } = sourcePaths('bitnet', copy)!;
  const { version = packageVersion(), sha256 = fileHash(path), sources = sourcesKey(copy, files) } = manifest;
  const addons = { bitnet: { sha256, bytes: addon.length, sources } };
  writeFileSync(
    join(folder, 'manifest.json'),
    JSON.stringify({ format: 1, version, target: targetName(), built_with: 'test', addons } satisfies PrebuiltManifest),
  );
}

/** A start without any compiler. */
function start({ args = ['infer', 'Once', '--max-tokens', '3'], env = {} } = {}) {
  const done = spawnSync(process.execPath, [join(copy, 'dist', 'cli', 'main.js'), ...args], {
    encoding: 'utf8',
    // A PATH that leads nowhere.
    env: { PATH: join(home, 'none'), HOME: home, XDG_CACHE_HOME: cache, NO_COLOR: '1', ...env },
  });
  expect(done.status, done.stderr).toBe(0);
  const lines = done.stderr.split('\n').filter((line) => line.startsWith('using the '));
  return { text: done.stdout, lines, backend: /\/s \((\w+)/.exec(done.stderr)![1] };
}

const notes = () =>
  existsSync(join(cache, 'bitnet-gf3-mcp/native')) ? readdirSync(join(cache, 'bitnet-gf3-mcp/native')) : [];

/** A shared library whose constructor does this. */
function library(body: string, exports = ''): Buffer {
  const source = join(home, 'library.cc');
  const output = join(home, 'library.node');
  writeFileSync(
    source,
    `#include <unistd.h>\n#include <stdlib.h>\n__attribute__((constructor)) static void begin() { ${body} }\n${exports}`,
  );
  execFileSync(compiler!.command, ['-shared', '-fPIC', '-O0', source, '-o', output]);
  return readFileSync(output);
}

describe.skipIf(compiler === undefined || process.platform !== 'linux')('a prebuilt binary', () => {
  test('runs where no compiler is, with the tokens of WebAssembly; the second start asks nothing again', () => {
    put(good);
    const first = start();
    expect(first).toMatchObject({ backend: 'cpu', lines: [] });
    expect(first.text).toBe(start({ args: ['infer', 'Once', '--max-tokens', '3', '--backend', 'wasm'] }).text);
    const tried = notes().filter((name) => name.startsWith('tried-'));
    expect(tried.length).toBe(1);
    expect(start().backend).toBe('cpu');
    expect(notes().filter((name) => name.startsWith('tried-'))).toEqual(tried);
  });

  const elf = (change: (bytes: Buffer) => void) => {
    const bytes = Buffer.from(good);
    change(bytes);
    return bytes;
  };
  test.each<[string, () => Buffer, RegExp]>([
    // AArch64 on x86-64 and the other way round, by the field that the loader looks at.
    [
      'for another processor',
      () => elf((bytes) => bytes.writeUInt16LE(process.arch === 'x64' ? 183 : 62, 18)),
      /cannot be loaded: .*bitnet\.node: .*(ELF|file)/i,
    ],
    ['cut off', () => good.subarray(0, good.length >> 1), /cannot be loaded|crashed when/],
    ['cut off in its head', () => good.subarray(0, 40), /cannot be loaded: .*(short|ELF)/],
    ['empty', () => Buffer.alloc(0), /cannot be loaded: .*(short|ELF)/],
    ['not a library', () => Buffer.from('#!/bin/sh\necho hello\n'), /cannot be loaded: .*(invalid ELF|short)/],
    ['that crashes', () => library('*(volatile int*)0 = 0;'), /crashed when it was tried in a child process: SIGSEGV/],
    ['with instructions that this CPU lacks', () => library('__builtin_trap();'), /child process: SIG(ILL|TRAP)/],
    ['that ends the process', () => library('_exit(0);'), /crashed when it was tried.*without an answer/],
    ['that ends it with an error', () => library('_exit(7);'), /crashed when it was tried.*exit code 7/],
    [
      'that wants a newer C library',
      () => library('', 'extern "C" int no_such_thing_2_99();int x = no_such_thing_2_99();'),
      /undefined symbol: no_such_thing_2_99/,
    ],
    ['of another program', () => library(''), /cannot be loaded: .*(self-register|Module did not)/],
  ])('%s: WebAssembly, one line that says why, and no second try', (_, make, why) => {
    put(make());
    const first = start();
    expect(first.backend).toBe('wasm');
    expect(first.lines).toEqual([expect.stringMatching(why)]);
    expect(first.lines[0]).toMatch(/bitnet\.node .*; no C\+\+ compiler was found/);
    const second = start();
    expect(second.backend).toBe('wasm');
    expect(second.lines).toEqual([expect.stringMatching(/found at an earlier start; to try again, remove .*tried-/)]);
    expect(second.lines[0]).toMatch(why);
  });

  test('that hangs is waited for once', async () => {
    put(library('for (;;) sleep(1);'));
    vi.stubEnv('XDG_CACHE_HOME', cache);
    const path = join(folder, 'bitnet.node');
    const told = await whyUnusable('bitnet', { path, sha256: fileHash(path) }, { tryMs: 400 });
    vi.unstubAllEnvs();
    expect(told).toBe(`${path} did not answer within 0.4 s when it was tried in a child process`);
    // A start would wait longer than this test may.
    expect(start()).toMatchObject({
      backend: 'wasm',
      lines: [expect.stringMatching(/within 0\.4 s.*found at an earlier/)],
    });
  });

  test.each<[string, Parameters<typeof put>[1], RegExp]>([
    [
      'with other bytes than were packed',
      { sha256: '0'.repeat(64) },
      /is not the file that was packed: its sha256 differs/,
    ],
    ['of other sources', { sources: 'x' }, /was made of other sources/],
  ])('%s is not even tried', (_, manifest, why) => {
    put(good, manifest);
    expect(start()).toMatchObject({ backend: 'wasm', lines: [expect.stringMatching(why)] });
    expect(notes()).toEqual([]);
  });

  test.each(['', '{', 'null', '[]', '{"addons":null}'])('a manifest like %j is told', (text) => {
    put(good);
    writeFileSync(join(folder, 'manifest.json'), text);
    const { backend, lines } = start();
    expect(backend).toBe('wasm');
    expect(lines).toEqual([expect.stringMatching(/manifest\.json is damaged; no C\+\+ compiler/)]);
  });

  test('that replaces one that worked is tried again: the mark is of the content', () => {
    put(good);
    expect(start().backend).toBe('cpu');
    put(library('*(volatile int*)0 = 0;'));
    expect(start()).toMatchObject({ backend: 'wasm', lines: [expect.stringMatching(/SIGSEGV/)] });
    put(good);
    expect(start()).toMatchObject({ backend: 'cpu', lines: [] });
  });

  test('without the sources beside it is taken by its version', () => {
    put(good);
    for (const path of ['cpu', 'include', 'addon']) rmSync(join(copy, 'kernels', path), { recursive: true });
    try {
      expect(start()).toMatchObject({ backend: 'cpu', lines: [] });
      writeFileSync(
        join(folder, 'manifest.json'),
        readFileSync(join(folder, 'manifest.json'), 'utf8').replace(`"${packageVersion()}"`, '"0.0.1"'),
      );
      expect(start().lines).toEqual([expect.stringMatching(/is of version 0\.0\.1, the package/)]);
      rmSync(folder, { recursive: true });
      expect(start().lines).toEqual([
        expect.stringMatching(/no prebuilt binary of the native kernels for this system/),
      ]);
    } finally {
      for (const path of ['cpu', 'include', 'addon']) {
        cpSync(join(packageRoot(), 'kernels', path), join(copy, 'kernels', path), { recursive: true });
      }
    }
  });

  test('is not tried with the options of somebody who debugs', () => {
    put(good);
    const env = { NODE_OPTIONS: '--trace-uncaught' };
    expect(start({ env })).toMatchObject({ backend: 'cpu', lines: [] });
  });
});
