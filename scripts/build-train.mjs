// Compiles kernels/train into a Node addon, with a C++ compiler and the `node-api-headers` package only; the way of
// build-native.mjs. The file's name holds a hash of all that went into it: an existing one is up to date by definition.
//
//   node scripts/build-train.mjs            build unless up to date; never exits with an error
//   node scripts/build-train.mjs --strict   the same, but a failed build is an error
import { execFile, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { homedir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const sources = join(root, 'kernels', 'train');

// -ffp-contract=off: a fused multiply-add rounds once and would change bits; those that cannot are written out.
const BASE = [
  '-std=c++17',
  '-O3',
  '-fPIC',
  '-fvisibility=hidden',
  '-ffp-contract=off',
  '-fno-math-errno',
  '-fno-trapping-math',
  '-Wno-psabi',
];

/** Instruction sets: source, flags, and the macro that announces it to isa.cc. */
const ISAS = {
  x64: [
    ['isa_avx2.cc', ['-mavx2', '-mfma'], 'BITNET_WITH_AVX2'],
    ['isa_avx512.cc', ['-mavx512f', '-mavx512bw', '-mavx512vl', '-mavx512dq', '-mavx2', '-mfma'], 'BITNET_WITH_AVX512'],
  ],
  arm64: [['isa_neon.cc', [], 'BITNET_WITH_NEON']],
};

function buildKey() {
  const hash = createHash('sha256').update(JSON.stringify([process.platform, process.arch, BASE, ISAS]));
  const files = readdirSync(sources)
    .sort()
    .map((name) => join(sources, name));
  for (const file of [...files, join(root, 'kernels', 'cpu', 'vec16.h')]) hash.update(readFileSync(file));
  return hash.digest('hex').slice(0, 16);
}

function folders() {
  const cache = process.env.XDG_CACHE_HOME || join(homedir(), '.cache');
  return [join(root, 'build', 'native'), join(cache, 'bitnet-gf3-mcp', 'native')];
}

/** The up-to-date addon, or undefined. */
export function findTrainAddon() {
  const file = `train-${buildKey()}.node`;
  return folders()
    .map((folder) => join(folder, file))
    .find((path) => existsSync(path));
}

function compilerName() {
  return [process.env.CXX, 'c++', 'g++', 'clang++'].find((name) => name && spawnSync(name, ['--version']).status === 0);
}

const run = (command, args) =>
  new Promise((resolve) => {
    execFile(command, args, (error, _, stderr) =>
      resolve({
        ok: error === null,
        text: (stderr || error?.message || '').trim().split('\n').slice(0, 3).join(' | '),
      }),
    );
  });

/** Builds unless up to date. Returns {path, without: [instruction sets]} or {reason}. */
export async function buildTrainAddon() {
  const existing = findTrainAddon();
  if (existing) return { path: existing, without: [] };
  const compiler = compilerName();
  if (compiler === undefined) return { reason: 'no C++ compiler was found (looked for $CXX, c++, g++, clang++)' };
  let include;
  try {
    include = createRequire(import.meta.url)('node-api-headers').include_dir;
  } catch {
    return { reason: 'the package node-api-headers is not installed' };
  }
  let work;
  let folder;
  for (folder of folders()) {
    try {
      mkdirSync(folder, { recursive: true });
      work = mkdtempSync(join(folder, '.work-'));
      break;
    } catch {
      // A read-only installation: the user's cache is next.
    }
  }
  if (work === undefined) return { reason: `no writable folder for the build: ${folders().join(', ')}` };
  try {
    const compile = async (source, flags) => {
      const object = join(work, `${source}.o`);
      const done = await run(compiler, [...BASE, ...flags, '-I', include, '-c', join(sources, source), '-o', object]);
      return { source, object, ...done };
    };
    const isas = ISAS[process.arch] ?? [];
    const [plain, special] = await Promise.all([
      Promise.all(['isa_scalar.cc', 'addon.cc'].map((source) => compile(source, []))),
      Promise.all(isas.map(([source, flags]) => compile(source, flags))),
    ]);
    // An older compiler may not know an instruction set: the others still work.
    const macros = isas.filter((_, i) => special[i].ok).map(([, , macro]) => `-D${macro}`);
    const table = await compile('isa.cc', macros);
    const needed = [...plain, table];
    const failed = needed.find(({ ok }) => !ok);
    if (failed) return { reason: `${compiler} could not compile ${failed.source}: ${failed.text}` };
    const made = join(work, 'train.node');
    const flags =
      process.platform === 'darwin'
        ? ['-bundle', '-undefined', 'dynamic_lookup']
        : ['-shared', '-static-libstdc++', '-static-libgcc', '-pthread'];
    const objects = [...needed, ...special.filter(({ ok }) => ok)].map(({ object }) => object);
    const linked = await run(compiler, [...flags, ...objects, '-o', made]);
    if (!linked.ok) return { reason: `${compiler} could not link the addon: ${linked.text}` };
    const path = join(folder, `train-${buildKey()}.node`);
    renameSync(made, path);
    for (const old of readdirSync(folder)) {
      if (/^train-[0-9a-f]+\.node$/.test(old) && !path.endsWith(old)) rmSync(join(folder, old), { force: true });
    }
    return { path, without: special.filter(({ ok }) => !ok).map(({ source }) => source.replace(/^isa_|\.cc$/g, '')) };
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { path, reason, without } = await buildTrainAddon();
  const strict = process.argv.includes('--strict');
  if (path === undefined) {
    process.stderr.write(`native training kernels were not built, training runs in JavaScript: ${reason}\n`);
    if (strict) process.exit(1);
  } else if (strict) {
    process.stderr.write(`${path}${without.length > 0 ? `, without ${without.join(', ')}` : ''}\n`);
  }
}
