// The package as npm users get it: packed, installed into an empty folder, started by npx.

import { spawnSync } from 'node:child_process';
import {
  chmodSync,
  cpSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { whyNotCurrent } from '../../scripts/prebuild.mjs';
import { CUBINS, findCubin } from '../../src/engine/cuda/kernels.ts';
import { targetName } from '../../src/native/machine.ts';
import { ALL_TOOLS } from '../../src/tools/all-tools.ts';
import { ROOT } from '../mcp/server-process.ts';
import { FIRST_COLORS, run, temporaryFolder, useAsServer } from './packed-program.ts';

type Packed = {
  readonly filename: string;
  readonly size: number;
  readonly unpackedSize: number;
  readonly files: { readonly path: string }[];
};

const folder = temporaryFolder();
let packed: Packed;

beforeAll(() => {
  // `npm test` has compiled dist/ already; --ignore-scripts keeps `prepare` from doing it twice.
  const pack = run('npm', ['pack', '--json', '--ignore-scripts', '--pack-destination', folder.path], ROOT);
  expect(pack.status, pack.stderr).toBe(0);
  const [first] = Object.values(JSON.parse(pack.stdout)) as Packed[];
  packed = first!;
  writeFileSync(join(folder.path, 'package.json'), '{ "private": true }');
  const tarball = join(folder.path, packed.filename);
  const install = run(
    'npm',
    ['install', '--prefer-offline', '--no-audit', '--no-fund', '--ignore-scripts', tarball],
    folder.path,
  );
  if (/ENOTCACHED|ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ETIMEDOUT|network/.test(install.stderr) && install.status !== 0) {
    console.warn('npm reaches no registry: the dependencies are linked from this checkout instead of installed');
    installByHand(tarball);
  } else {
    expect(install.status, install.stderr).toBe(0);
  }
}, 300_000);
/** What npm would do, with this checkout's copies of exactly the dependencies that the package declares. */
function installByHand(tarball: string): void {
  const modules = join(folder.path, 'node_modules');
  const installed = join(modules, 'bitnet-gf3-mcp');
  mkdirSync(join(modules, '.bin'), { recursive: true });
  expect(run('tar', ['xzf', tarball, '-C', folder.path], folder.path).status).toBe(0);
  renameSync(join(folder.path, 'package'), installed);
  for (const bin of ['bitnet-gf3', 'bitnet-gf3-mcp']) {
    chmodSync(join(installed, 'dist/cli/main.js'), 0o755);
    symlinkSync('../bitnet-gf3-mcp/dist/cli/main.js', join(modules, '.bin', bin));
  }
  const wanted = [installed];
  const seen = new Set<string>();
  for (let at = wanted.pop(); at !== undefined; at = wanted.pop()) {
    const { dependencies = {} } = JSON.parse(readFileSync(join(at, 'package.json'), 'utf8')) as {
      dependencies?: Record<string, string>;
    };
    for (const name of Object.keys(dependencies)) {
      if (seen.has(name)) continue;
      seen.add(name);
      const source = join(ROOT, 'node_modules', name);
      cpSync(source, join(modules, name), { recursive: true });
      wanted.push(source);
    }
  }
}

afterAll(() => folder[Symbol.dispose]());

test('holds what it needs and nothing else', () => {
  const paths = packed.files.map(({ path }) => path);
  for (const path of [
    'LICENSE',
    'README.md',
    'package.json',
    'mcp.json',
    'dist/cli/main.js',
    'dist/index.js',
    'dist/index.d.ts',
    'dist/generate/engine-process.js',
    'kernels/wasm/bitnet-simd.wasm',
    'models/default/model.safetensors',
    'models/default/tokenizer.json',
    'schemas/color_at.json',
    'dist/native/build.js',
    'kernels/cpu/engine.cc',
    'kernels/cuda/kernels.ptx',
    'kernels/cuda/addon.cc',
    '.claude-plugin/plugin.json',
    'skills/mlx-bitnet-gf3/SKILL.md',
    'skills/triads.json',
  ]) {
    expect(paths, path).toContain(path);
  }
  const rooms = new Set(paths.map((path) => path.split('/')[0]));
  // There once `npm run prebuilds` has run.
  rooms.delete('prebuilds');
  expect([...rooms].sort()).toEqual(
    [
      '.claude-plugin',
      'CHANGELOG.md',
      'CONTRIBUTING.md',
      'LICENSE',
      'README.md',
      'SECURITY.md',
      'dist',
      'docs',
      'examples',
      'kernels',
      'mcp.json',
      'models',
      'package.json',
      'plugin',
      'schemas',
      'skills',
    ].sort(),
  );
  const odd = /(^|\/)(test|src|scripts|golden|master|node_modules)\/|\.(tgz|log)$|^(?!prebuilds\/).*\.node$/;
  expect(paths.filter((path) => odd.test(path))).toEqual([]);
  // Code that V8 made here is of no use elsewhere.
  expect(paths.filter((path) => path.startsWith('dist/bundle/'))).not.toEqual([]);
  expect(paths.filter((path) => path.startsWith('dist/bundle/code'))).toEqual([]);
  expect(packed.size, 'bytes to download').toBeLessThan(16e6);
});

test('takes as much of the disk as the README says', () => {
  const said = /A clone takes (\d+) MB .* at most (\d+) MB to download, (\d+) installed/.exec(
    readFileSync(join(ROOT, 'README.md'), 'utf8'),
  );
  const [clone, download, installed] = said!.slice(1).map((megabytes) => Number(megabytes) * 1e6) as [
    number,
    number,
    number,
  ];
  expect(packed.size).toBeLessThan(download);
  const here = bytesIn(join(folder.path, 'node_modules'));
  expect(here).toBeLessThan(installed);
  expect(here).toBeGreaterThan(installed / 2);
  // Not what is there on request, nor what other tools keep there.
  const modules = bytesIn(join(ROOT, 'node_modules'), /^(onnxruntime-.*|\..*)$/);
  const files = run('git', ['ls-files', '-z'], ROOT)
    .stdout.split('\0')
    .filter((path) => path !== '' && existsSync(join(ROOT, path)));
  const tree = files.reduce((bytes, path) => bytes + bytesIn(join(ROOT, path)), 0);
  // Its history is the rest.
  expect(modules + tree).toBeLessThan(clone);
  expect(modules + tree).toBeGreaterThan((2 * clone) / 3);
});

function bytesIn(path: string, without?: RegExp): number {
  const stat = lstatSync(path);
  if (!stat.isDirectory()) return stat.size;
  return readdirSync(path)
    .filter((name) => without?.test(name) !== true)
    .reduce((bytes, name) => bytes + bytesIn(join(path, name)), 0);
}

test('npx starts it: help, a color, text', () => {
  const npx = (...args: string[]) => run('npx', ['--offline', 'bitnet-gf3', ...args], folder.path);
  const help = npx('--help');
  expect(help.status, help.stderr).toBe(0);
  for (const word of ['infer', 'serve', 'palette', 'analyze']) expect(help.stdout).toContain(word);
  expect(npx('color', '1').stdout).toContain(FIRST_COLORS[0]);
  // WASM: compiling the native kernels would only measure the compiler.
  const text = npx('infer', 'Once upon a time', '--max-tokens', '4', '--backend', 'wasm', '--json');
  expect(text.status, text.stderr).toBe(0);
  const { trace, completion } = JSON.parse(text.stdout) as {
    trace: { color: string; token: string }[];
    completion: string;
  };
  expect(trace.map(({ color }) => color)).toEqual(FIRST_COLORS);
  expect(trace.map(({ token }) => token).join('')).toBe(completion);
  expect(run('npx', ['--offline', 'bitnet-gf3-mcp', 'color', '1'], folder.path).stdout).toContain(FIRST_COLORS[0]);
});

test('npx serves MCP on stdio', async () => {
  const { version } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8'));
  const used = await useAsServer('npx', ['--offline', 'bitnet-gf3-mcp'], folder.path, {
    HOME: process.env.HOME ?? folder.path,
    // As above.
    BITNET_BACKEND: 'wasm',
  });
  expect(used).toEqual({ tools: ALL_TOOLS.map((tool) => tool.name), version });
});

const whyNoPrebuilt = whyNotCurrent(targetName());

test.skipIf(whyNoPrebuilt !== undefined)(
  'native code runs and trains where no compiler is',
  () => {
    const main = join(folder.path, 'node_modules/bitnet-gf3-mcp/dist/cli/main.js');
    const env = { PATH: join(folder.path, 'none'), XDG_CACHE_HOME: join(folder.path, 'cache'), HOME: folder.path };
    const start = (...args: string[]) => spawnSync(process.execPath, [main, ...args], { env, encoding: 'utf8' });
    const native = start('infer', 'Once upon a time', '--max-tokens', '6');
    expect(native.stderr).toMatch(/\/s \(cpu /);
    expect(native.stderr).not.toMatch(/using the/);
    expect(native.stdout).toBe(start('infer', 'Once upon a time', '--max-tokens', '6', '--backend', 'wasm').stdout);
    const step = start('world', 'step', '--text', 'The little fox ran home.', '--json');
    expect(step.status, step.stderr).toBe(0);
    expect(step.stderr).not.toContain('JavaScript');
  },
  120_000,
);

test.runIf(whyNoPrebuilt !== undefined)(`skipped: native code without a compiler (${whyNoPrebuilt})`, () => {
  expect(whyNoPrebuilt).toBeTypeOf('string');
});

const whyNoCubins = whyNotCurrent('cuda');

test.skipIf(whyNoCubins !== undefined)('the CUDA kernels come as machine code for every card that has some', () => {
  const installed = join(folder.path, 'node_modules/bitnet-gf3-mcp');
  for (const capability of CUBINS) expect(findCubin(capability, installed)).toHaveProperty('bytes');
});

test.runIf(whyNoCubins !== undefined)(`skipped: machine code of the CUDA kernels (${whyNoCubins})`, () => {
  expect(whyNoCubins).toBeTypeOf('string');
});

test('the library has its names and types', () => {
  const installed = join(folder.path, 'node_modules/bitnet-gf3-mcp');
  expect(existsSync(join(installed, 'dist/index.d.ts'))).toBe(true);
  const told = run(
    process.execPath,
    [
      '--input-type=module',
      '-e',
      "const { colorAt } = await import('bitnet-gf3-mcp'); console.log(colorAt({ seed: 1069n, index: 1, scheme: 'trace' }).hex)",
    ],
    folder.path,
  );
  expect(told.stdout.trim(), told.stderr).toBe(FIRST_COLORS[0]);
  expect(statSync(join(installed, 'dist/cli/main.js')).size).toBeGreaterThan(0);
});
