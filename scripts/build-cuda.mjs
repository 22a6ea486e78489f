// The addon of the cuda backend, and its kernels.
//
//   node scripts/build-cuda.mjs            builds kernels/cuda/addon.cc unless up to date: a C++ compiler, nothing of CUDA
//   node scripts/build-cuda.mjs --ptx      makes kernels/cuda/kernels.ptx, which is committed; needs nvcc
//
// Machine code for packages is made by scripts/cubins.mjs.
// The addon's file name holds a hash of all that went into it, as in build-native.mjs.
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { homedir, tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const folder = join(root, 'kernels', 'cuda');
const source = join(folder, 'addon.cc');

const FLAGS = ['-std=c++17', '-O2', '-fPIC', '-shared', '-fvisibility=hidden', '-DNAPI_VERSION=8'];
const LINK = process.platform === 'linux' ? ['-ldl'] : [];

/** {path} of the addon, or {reason}. */
export function buildCuda() {
  const name = `cuda-${createHash('sha256')
    .update(JSON.stringify([process.platform, process.arch, FLAGS, LINK]))
    .update(readFileSync(source))
    .digest('hex')
    .slice(0, 16)}.node`;
  const cache = process.env.XDG_CACHE_HOME || join(homedir(), '.cache');
  const places = [join(root, 'build', 'native'), join(cache, 'bitnet-gf3-mcp', 'native')];
  const existing = places.map((place) => join(place, name)).find((path) => existsSync(path));
  if (existing) return { path: existing };
  let include;
  try {
    include = createRequire(import.meta.url)('node-api-headers').include_dir;
  } catch {
    return { reason: 'the package node-api-headers is not installed' };
  }
  for (const place of places) {
    let work;
    try {
      mkdirSync(place, { recursive: true });
      work = mkdtempSync(join(place, '.work-'));
    } catch {
      continue; // a read-only installation: the user's cache is next
    }
    try {
      const made = join(work, name);
      const command = process.env.CXX || 'c++';
      const done = spawnSync(command, [...FLAGS, '-isystem', include, source, '-o', made, ...LINK], {
        encoding: 'utf8',
      });
      if (done.error) return { reason: `no C++ compiler for the CUDA addon (${done.error.message})` };
      if (done.status !== 0) {
        const first = done.stderr.trim().split('\n').slice(0, 3).join(' | ');
        return { reason: `${command} could not compile kernels/cuda/addon.cc: ${first}` };
      }
      const path = join(place, name);
      renameSync(made, path);
      return { path };
    } finally {
      rmSync(work, { recursive: true, force: true });
    }
  }
  return { reason: `no writable folder for the build: ${places.join(', ')}` };
}

// ---- kernels

/** Without fused multiply-adds: one rounding an operation. */
export const NVCC_FLAGS = ['-O3', '-std=c++17', '-fmad=false', '--expt-relaxed-constexpr'];
/** nvcc writes its own newest version, which only the newest drivers take; nothing in the kernels is newer than this one. */
const PTX_VERSION = '7.8';

/**
 * What the compiler says where registers of a `wgmma` are touched as it does not want them: then it serializes (C7510), or adds fences (C7519)
 * and has been seen to write into registers that are still being multiplied.
 */
export const WGMMA_REGISTERS = /\(C75\d\d\)/;

export const nvcc = () => process.env.NVCC || 'nvcc';

/** Why kernels cannot be built here; undefined where they can. */
export function whyNoNvcc() {
  const done = spawnSync(nvcc(), ['--version'], { encoding: 'utf8' });
  return done.status === 0 ? undefined : `nvcc is not here (${done.error?.message ?? done.stderr})`;
}

/** 13.0.88, say. */
export function nvccVersion() {
  return (
    /V(\d+\.\d+\.\d+)/.exec(spawnSync(nvcc(), ['--version'], { encoding: 'utf8' }).stdout)?.[1] ?? 'of unknown version'
  );
}

function run(args) {
  const done = spawnSync(nvcc(), args, { encoding: 'utf8', cwd: folder });
  if (done.status !== 0) throw new Error(`nvcc ${args.join(' ')}: ${done.error?.message ?? done.stderr}`);
}

/** The PTX text of kernels.cu, ending in the 0 that the driver looks for. */
export function makePtx() {
  const work = mkdtempSync(join(tmpdir(), 'cuda-'));
  try {
    const path = join(work, 'kernels.ptx');
    run([...NVCC_FLAGS, '-arch=compute_80', '-ptx', 'kernels.cu', '-o', path]);
    const text = readFileSync(path, 'utf8')
      .replace(/^\.version .*$/m, `.version ${PTX_VERSION}`)
      // A hint that older versions do not know.
      .replace(/^\s*\.pragma "used_bytes_mask [^\n]*\n/gm, '')
      // Names of internal functions hold a hash of the compiler's own.
      .replace(/_INTERNAL_[0-9a-f]{8}_(\d+)_kernels_cu_[0-9a-f]{8}/g, '_INTERNAL_00000000_$1_kernels_cu_00000000');
    return `${text.trimEnd()}\n\0`;
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  if (process.argv.includes('--ptx')) {
    writeFileSync(join(folder, 'kernels.ptx'), makePtx());
    process.stderr.write(`${join(folder, 'kernels.ptx')}\n`);
  }
  if (!process.argv.includes('--ptx')) {
    const built = buildCuda();
    process.stderr.write(`${built.path ?? `CUDA addon not built: ${built.reason}`}\n`);
    if (built.path === undefined && process.argv.includes('--strict')) process.exit(1);
  }
}
