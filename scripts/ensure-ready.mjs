// Makes a fresh clone ready: installs the locked dependencies when they are missing or older than the lock
// file, compiles src/ to dist/ when a source is newer, and builds the native kernels where a C++ compiler is.
// The README's commands call it, so that each of them works alone on a machine that has only Node and npm.
//   node scripts/ensure-ready.mjs           all steps
//   node scripts/ensure-ready.mjs --tests   the kernels of training, too
//   node scripts/ensure-ready.mjs --built   all but the first (npm runs it as `prepare`, dependencies are there)
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const onlyBuild = process.argv.includes('--built');

const newestTime = (path) => {
  if (!existsSync(path)) return 0;
  const stat = statSync(path);
  if (!stat.isDirectory()) return stat.mtimeMs;
  return readdirSync(path).reduce((newest, name) => Math.max(newest, newestTime(join(path, name))), 0);
};

// Output goes to stderr: stdout belongs to the command that follows.
const run = (command, args) => {
  const shell = process.platform === 'win32';
  const done = spawnSync(command, args, { cwd: root, stdio: ['ignore', 2, 2], shell });
  if (done.status !== 0) {
    process.stderr.write(`${command} ${args.join(' ')} failed (${done.error?.message ?? `exit ${done.status}`})\n`);
    process.exit(1);
  }
};

const installedMark = join(root, 'node_modules', '.package-lock.json');
if (!onlyBuild && newestTime(installedMark) < newestTime(join(root, 'package-lock.json'))) {
  run('npm', ['ci', '--no-audit', '--no-fund']);
}

const compiler = join(root, 'node_modules', 'typescript', 'bin', 'tsc');
const built = join(root, 'dist', 'cli', 'main.js');
const sources = Math.max(newestTime(join(root, 'src')), newestTime(join(root, 'tsconfig.build.json')));
// A packed tarball has dist/ and no src/: nothing to compile there.
if (existsSync(join(root, 'src')) && existsSync(compiler) && newestTime(built) < sources) {
  run(process.execPath, [compiler, '-p', 'tsconfig.build.json']);
}

// What starts sooner when it lies in few files. Installed without development dependencies, it starts as compiled.
const bundler = join(root, 'scripts', 'bundle-dist.mjs');
const isBundled = existsSync(built) && readFileSync(built, 'utf8').includes('bundle-dist');
if (existsSync(bundler) && existsSync(join(root, 'node_modules', 'esbuild')) && existsSync(built) && !isBundled) {
  run(process.execPath, [bundler]);
}

// The native kernels. Without a C++ compiler the program runs on WebAssembly, so this step never fails.
const kernels = join(root, 'dist', 'native', 'build.js');
run(process.execPath, [kernels]);

// A start compiles the program and keeps its code for the next one; the first that somebody waits for finds it. Whatever
// this lacks or fails at, that start does itself.
if (readFileSync(built, 'utf8').includes('bundle-dist') && !existsSync(join(root, 'dist', 'bundle', 'code'))) {
  const ask = (id, method, params) => `${JSON.stringify({ jsonrpc: '2.0', id, method, params })}\n`;
  const client = {
    protocolVersion: '2025-06-18',
    capabilities: {},
    clientInfo: { name: 'ensure-ready', version: '1' },
  };
  const input = ask(1, 'initialize', client) + ask(undefined, 'notifications/initialized') + ask(2, 'tools/list');
  for (const args of [['infer', 'Hello', '--max-tokens', '1'], ['serve']]) {
    spawnSync(process.execPath, [built, ...args], {
      cwd: root,
      input,
      stdio: ['pipe', 'ignore', 'ignore'],
      timeout: 60_000,
    });
  }
}

// Those of training are wanted by the tests; else they are compiled when a training first runs.
if (process.argv.includes('--tests')) run(process.execPath, [kernels, 'train']);
