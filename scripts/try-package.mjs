// The packed program as a stranger gets it: installed from a tarball into an empty folder without running scripts, then
// used offline. Needs nothing but Node and npm, and nothing of this repository but itself.
//   node scripts/try-package.mjs TARBALL|FOLDER              --native: native code must run, too
//   node scripts/try-package.mjs TARBALL --time              a cold `npx` to its first token, in seconds
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';

const [given = 'build/release', ...flags] = process.argv.slice(2);
const file = statSync(given).isDirectory()
  ? join(given, readdirSync(given).find((name) => /^bitnet-gf3-mcp-.*\.tgz$/.test(name)) ?? 'no tarball')
  : given;
const tarball = resolve(file);
const folder = mkdtempSync(join(tmpdir(), 'try bitnet ü '));
const empty = join(folder, 'bin');
mkdirSync(empty);
writeFileSync(join(folder, 'package.json'), '{"private":true}');

/** The colors of any trace of seed 1069. */
const COLORS = ['#6404C3', '#EB6AF7', '#7F1747', '#4A4744'];

const windows = process.platform === 'win32';
function run(command, args, env = {}) {
  const { status, stdout, stderr, error } = spawnSync(command, args, {
    cwd: folder,
    encoding: 'utf8',
    timeout: 300_000,
    shell: windows && command === 'npm',
    env: { ...process.env, XDG_CACHE_HOME: join(folder, 'cache'), NO_COLOR: '1', ...env },
  });
  return { status, stdout: stdout ?? '', stderr: `${stderr ?? ''}${error?.message ?? ''}` };
}

const bytesUnder = (path) =>
  readdirSync(path, { withFileTypes: true }).reduce((sum, entry) => {
    const inside = join(path, entry.name);
    return sum + (entry.isDirectory() ? bytesUnder(inside) : entry.isFile() ? statSync(inside).size : 0);
  }, 0);

let failures = 0;
function check(label, good, told) {
  if (!good) failures += 1;
  process.stdout.write(good ? `ok   ${label}\n` : `FAIL ${label}\n${told}\n`);
}

try {
  const started = performance.now();
  const install = run('npm', [
    'install',
    '--ignore-scripts',
    '--no-audit',
    '--no-fund',
    windows ? `"${tarball}"` : tarball,
  ]);
  check('npm install', install.status === 0, install.stderr);
  const installSeconds = (performance.now() - started) / 1000;
  const megabytes = bytesUnder(join(folder, 'node_modules')) / 1e6;
  check(`installed with its dependencies: ${megabytes.toFixed(1)} MB of at most 60`, megabytes <= 60, '');
  const main = join(folder, 'node_modules', 'bitnet-gf3-mcp', 'dist', 'cli', 'main.js');
  // No compiler is found, and nothing is reached.
  const offline = { PATH: empty, Path: empty, CXX: '', HF_HUB_OFFLINE: '1' };
  const infer = (...more) =>
    run(process.execPath, [main, 'infer', 'Once upon a time', '--max-tokens', '4', '--json', ...more], offline);
  const first = infer();
  const seconds = (performance.now() - started) / 1000;
  check('the first start writes, without a compiler', first.status === 0, first.stderr);
  const colorsOf = ({ stdout }) =>
    JSON.parse(stdout)
      .trace.map(({ color }) => color)
      .join();
  check('its colors are the golden ones', first.status === 0 && colorsOf(first) === COLORS.join(), first.stdout);
  const wasm = infer('--backend', 'wasm');
  if (flags.includes('--native')) {
    const native = infer('--backend', 'cpu');
    check('native code runs', native.status === 0, native.stderr);
    const textOf = ({ stdout }) => JSON.parse(stdout).completion;
    check(
      'and writes what WebAssembly writes',
      native.status === 0 && textOf(native) === textOf(wasm),
      native.stdout + wasm.stdout,
    );
    const step = run(process.execPath, [main, 'world', 'step', '--text', 'The little fox ran home.', '--json'], {
      ...offline,
      BITNET_WORLDS: join(folder, 'worlds'),
    });
    check('a morphism step, with native training', step.status === 0 && !/JavaScript/.test(step.stderr), step.stderr);
  }
  const doctor = run(process.execPath, [main, 'doctor'], offline);
  check('doctor', doctor.status === 0, doctor.stdout + doctor.stderr);
  if (flags.includes('--time')) {
    process.stdout.write(`install ${installSeconds.toFixed(1)} s, to the first tokens ${seconds.toFixed(1)} s\n`);
  }
} finally {
  rmSync(folder, { recursive: true, force: true });
}
process.exit(failures === 0 ? 0 : 1);
