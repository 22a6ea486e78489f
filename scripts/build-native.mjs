// Compiles kernels/ into a Node addon with nothing but a C++ compiler and the `node-api-headers` package: node-gyp
// would download headers from a host that a closed network does not reach.
//
//   node scripts/build-native.mjs            build unless up to date; never exits with an error (WASM takes over)
//   node scripts/build-native.mjs --strict   the same, but a failed build is an error; prints what was built
//
// The file's name holds a hash of all that went into it, so an existing file is up to date by definition and builds
// of several processes cannot disturb one another.
import { spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { createRequire } from 'node:module';
import { availableParallelism, homedir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const kernels = join(root, 'kernels');

// -ffp-contract=off: no fused multiply-add, whose single rounding would change bits; see kernels/cpu/vec16.h.
const BASE = [
  '-std=c++17',
  '-O3',
  '-fPIC',
  '-fvisibility=hidden',
  '-ffp-contract=off',
  '-fno-math-errno',
  // Where an inner loop lies decides on some CPUs whether their prefetcher follows its loads: by chance, a third slower.
  ...(process.arch === 'x64' ? ['-falign-functions=64', '-falign-loops=64'] : []),
  '-Wno-psabi',
];

/** Translation units: source, extra flags, and for an instruction set the macro that announces it to isa.cc. */
function unitsFor(arch) {
  const isa =
    arch === 'x64'
      ? [
          ['isa_avx2.cc', ['-mavx2', '-mf16c'], 'BITNET_WITH_AVX2'],
          ['isa_avxvnni.cc', ['-mavx2', '-mf16c', '-mavxvnni'], 'BITNET_WITH_AVXVNNI'],
          ['isa_avx512.cc', AVX512, 'BITNET_WITH_AVX512'],
          ['isa_amx.cc', [...AVX512, '-mamx-tile', '-mamx-int8'], 'BITNET_WITH_AMX'],
        ]
      : arch === 'arm64'
        ? [
            ['isa_neon.cc', [], 'BITNET_WITH_NEON'],
            ['isa_neon_dot.cc', ['-march=armv8.2-a+dotprod'], 'BITNET_WITH_NEON_DOT'],
            ['isa_neon_i8mm.cc', ['-march=armv8.2-a+dotprod+i8mm'], 'BITNET_WITH_NEON_I8MM'],
          ]
        : [];
  return {
    plain: ['engine', 'grouped_repack', 'isa_scalar', 'masters', 'pool', 'host', 'selftest']
      .map((name) => `cpu/${name}.cc`)
      .concat('addon/addon.cc'),
    isa: isa.filter(([source]) => existsSync(join(kernels, 'cpu', source))),
  };
}
const AVX512 = ['-mavx512f', '-mavx512bw', '-mavx512vl', '-mavx512dq', '-mavx512vnni', '-mavx2', '-mf16c'];

function filesUnder(folder) {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && /\.(cc|h)$/.test(entry.name))
    .map((entry) => join(entry.parentPath ?? entry.path, entry.name))
    .sort();
}

function findCompiler() {
  for (const name of [process.env.CXX, 'c++', 'g++', 'clang++']) {
    if (!name) continue;
    const version = spawnSync(name, ['--version'], { encoding: 'utf8' });
    if (version.status === 0) return { name, version: version.stdout.split('\n')[0] };
  }
  return undefined;
}

function headersFolder() {
  return createRequire(import.meta.url)('node-api-headers').include_dir;
}

function outputFolders() {
  const cache = process.env.XDG_CACHE_HOME || join(homedir(), '.cache');
  return [join(root, 'build', 'native'), join(cache, 'bitnet-gf3-mcp', 'native')];
}

const sourceFolders = ['include', 'cpu', 'addon'].map((folder) => join(kernels, folder));

/** All files that are part of the addon. */
function sourceFiles() {
  // The others are programs of their own.
  return sourceFolders.flatMap(filesUnder).filter((file) => !/(kernel_bench|engine_check|choice_check)\.cc$/.test(file));
}

function buildKey(files = sourceFiles()) {
  const hash = createHash('sha256');
  hash.update(JSON.stringify([process.platform, process.arch, BASE, unitsFor(process.arch)]));
  for (const file of files) {
    hash.update(file.slice(kernels.length).replaceAll('\\', '/'));
    hash.update(readFileSync(file));
  }
  return hash.digest('hex').slice(0, 16);
}

/** The up-to-date addon, or undefined. What is found is noted, so that a start need not look. */
export function findNative() {
  const files = sourceFiles();
  // Before anything is read: what is written meanwhile then has another state.
  const sources = [...sourceFolders, ...files, fileURLToPath(import.meta.url)].map((path) => [path, stateOf(path)]);
  const name = `bitnet-${buildKey(files)}.node`;
  const folder = outputFolders().find((candidate) => existsSync(join(candidate, name)));
  if (folder === undefined) return undefined;
  writeStamp(folder, { root, platform: process.platform, arch: process.arch, sources, addon: join(folder, name) });
  return join(folder, name);
}

/** As in src/engine/cpu/native-stamp.ts, which says what the note is for. */
function stateOf(path) {
  const { size, mtimeMs, ctimeMs } = statSync(path);
  return `${size} ${mtimeMs} ${ctimeMs}`;
}

/** A file system's clock may be this coarse: two writes within it can leave the same state. */
const CLOCK_MS = 2000;

function writeStamp(folder, stamp) {
  const newest = Math.max(...stamp.sources.map(([, state]) => Number(state.split(' ')[2])));
  if (Date.now() - newest < CLOCK_MS) return;
  const path = join(folder, `stamp-${root.replace(/\W+/g, '-').slice(-120)}.json`);
  try {
    writeFileSync(`${path}.${process.pid}`, JSON.stringify(stamp));
    renameSync(`${path}.${process.pid}`, path);
  } catch {
    // A read-only folder: every start looks again.
    rmSync(`${path}.${process.pid}`, { force: true });
  }
}

function run(command, args) {
  return new Promise((resolve) => {
    const child = spawn(command, args, { stdio: ['ignore', 'ignore', 'pipe'] });
    let text = '';
    child.stderr.on('data', (data) => {
      text += data;
    });
    child.on('error', (error) => resolve({ ok: false, text: error.message }));
    child.on('close', (code) => resolve({ ok: code === 0, text }));
  });
}

function firstWritable(folders) {
  for (const folder of folders) {
    try {
      mkdirSync(folder, { recursive: true });
      return { folder, work: mkdtempSync(join(folder, '.work-')) };
    } catch {
      // A read-only installation: the user's cache is next.
    }
  }
  return undefined;
}

/** What is missing for a build, in one sentence; undefined when nothing is. */
export function whyNotBuilt() {
  if (!findCompiler()) return 'no C++ compiler was found (looked for $CXX, c++, g++, clang++)';
  try {
    headersFolder();
  } catch {
    return 'the package node-api-headers is not installed';
  }
  return undefined;
}

/** Builds unless up to date. Returns {path, built: seconds | 0, without: [instruction sets]} or {reason}. */
export async function buildNative() {
  const existing = findNative();
  if (existing) return { path: existing, seconds: 0, without: [] };
  const reason = whyNotBuilt();
  if (reason !== undefined) return { reason };
  const compiler = findCompiler();
  const include = headersFolder();
  const place = firstWritable(outputFolders());
  if (!place) return { reason: `no writable folder for the build: ${outputFolders().join(', ')}` };
  const started = performance.now();
  try {
    const { plain, isa } = unitsFor(process.arch);
    const compile = async (source, flags) => {
      const object = join(place.work, `${source.replaceAll('/', '_')}.o`);
      const done = await run(compiler.name, [
        ...BASE,
        ...flags,
        '-I',
        include,
        '-c',
        join(kernels, source),
        '-o',
        object,
      ]);
      return { object, ...done };
    };
    const queue = [];
    for (const [source, flags, macro] of isa) queue.push({ source: `cpu/${source}`, flags, macro });
    for (const source of plain) queue.push({ source, flags: [] });
    const results = new Map();
    const next = async () => {
      for (let unit = queue.shift(); unit; unit = queue.shift()) {
        results.set(unit, await compile(unit.source, unit.flags));
      }
    };
    await Promise.all(Array.from({ length: availableParallelism() }, next));

    const objects = [];
    const macros = [];
    const without = [];
    for (const [unit, result] of results) {
      if (result.ok) {
        objects.push(result.object);
        if (unit.macro) macros.push(`-D${unit.macro}`);
      } else if (unit.macro) {
        // An older compiler: the other instruction sets still work.
        without.push(unit.source.replace(/^.*isa_|\.cc$/g, ''));
      } else {
        return { reason: `${compiler.name} could not compile ${unit.source}: ${firstLines(result.text)}` };
      }
    }
    const table = await compile('cpu/isa.cc', macros);
    if (!table.ok) return { reason: `${compiler.name} could not compile cpu/isa.cc: ${firstLines(table.text)}` };
    objects.push(table.object);
    const made = join(place.work, 'bitnet.node');
    const link =
      process.platform === 'darwin'
        ? ['-bundle', '-undefined', 'dynamic_lookup']
        : ['-shared', '-static-libstdc++', '-static-libgcc', '-pthread'];
    const linked = await run(compiler.name, [...link, ...objects, '-o', made]);
    if (!linked.ok) return { reason: `${compiler.name} could not link the addon: ${firstLines(linked.text)}` };
    const path = join(place.folder, `bitnet-${buildKey()}.node`);
    renameSync(made, path);
    removeOld(place.folder, path);
    findNative();
    return { path, seconds: (performance.now() - started) / 1000, without };
  } finally {
    rmSync(place.work, { recursive: true, force: true });
  }
}

/** Addons of earlier sources, once nothing that runs now can still want them: two builds may be under way at once. */
function removeOld(folder, current) {
  const dayAgo = Date.now() - 24 * 60 * 60 * 1000;
  for (const name of readdirSync(folder)) {
    const path = join(folder, name);
    if (!/^bitnet-[0-9a-f]+\./.test(name) || path === current) continue;
    try {
      if (statSync(path).mtimeMs < dayAgo) rmSync(path, { force: true });
    } catch {
      // Removed by another build, or in use (Windows).
    }
  }
}

function firstLines(text) {
  return text.trim().split('\n').slice(0, 3).join(' | ');
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const result = await buildNative();
  if (result.path === undefined) {
    process.stderr.write(`native kernels were not built, WebAssembly takes over: ${result.reason}\n`);
    if (process.argv.includes('--strict')) process.exit(1);
  } else if (process.argv.includes('--strict')) {
    const missing = result.without.length > 0 ? `, without ${result.without.join(', ')}` : '';
    process.stderr.write(`${result.path}${missing} (${result.seconds.toFixed(1)} s)\n`);
  }
  if (process.platform === 'darwin') {
    const { buildMetal } = await import('./build-metal.mjs');
    const metal = buildMetal();
    if (metal.path === undefined) process.stderr.write(`Metal was not built, the CPU takes over: ${metal.reason}\n`);
  }
}
