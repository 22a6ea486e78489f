// Machine code of the CUDA kernels for packages: prebuilds/cuda, made where nvcc is and never committed.
//
//   npm run prebuilds -- cuda          all cards that packages are for: minutes
//   node scripts/cubins.mjs 90         for one card alone, to try; no package takes that
//
// Cubins of one generation lie in one file: each compressed alone they are half as large again.
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { promisify } from 'node:util';
import { brotliCompressSync, constants } from 'node:zlib';
import { NVCC_FLAGS, nvcc, nvccVersion, WGMMA_REGISTERS, whyNoNvcc } from './build-cuda.mjs';

const root = fileURLToPath(new URL('..', import.meta.url));
const own = (module) => import(pathToFileURL(join(root, 'dist', module)).href);

const { CUBINS, cubinFolder, findCubin, kernelSources } = await own('engine/cuda/kernels.js');
const { sourcesKey } = await own('native/recipe.js');

const sha256 = (bytes) => createHash('sha256').update(bytes).digest('hex');
const version = (from) => JSON.parse(readFileSync(join(from, 'package.json'), 'utf8')).version;

/** Some of prebuilds/cuda's neighbors are found again only far back: the window holds a whole file. */
const BROTLI = { [constants.BROTLI_PARAM_QUALITY]: 11, [constants.BROTLI_PARAM_LGWIN]: 24 };

/**
 * Writes prebuilds/cuda below `to`, whole or not at all.
 * @param {ReadonlyMap<number, Uint8Array>} cubins by compute capability
 */
export function packCubins(cubins, to, builtWith) {
  const folder = cubinFolder(to);
  mkdirSync(join(folder, '..'), { recursive: true });
  const work = mkdtempSync(join(folder, '..', '.cuda-'));
  try {
    const generations = new Map();
    for (const capability of [...cubins.keys()].sort((a, b) => a - b)) {
      const file = `kernels-${Math.floor(capability / 10)}.br`;
      generations.set(file, [...(generations.get(file) ?? []), capability]);
    }
    const files = {};
    const packed = [];
    for (const [file, capabilities] of generations) {
      let offset = 0;
      for (const capability of capabilities) {
        const bytes = cubins.get(capability);
        packed.push({ capability, file, offset, bytes: bytes.length, sha256: sha256(bytes) });
        offset += bytes.length;
      }
      const whole = Buffer.concat(capabilities.map((capability) => cubins.get(capability)));
      const compressed = brotliCompressSync(whole, {
        params: { ...BROTLI, [constants.BROTLI_PARAM_SIZE_HINT]: whole.length },
      });
      writeFileSync(join(work, file), compressed);
      files[file] = { sha256: sha256(compressed), bytes: compressed.length };
    }
    const manifest = {
      format: 1,
      version: version(to),
      built_with: builtWith,
      flags: NVCC_FLAGS,
      sources: sourcesKey(to, kernelSources(to)),
      files,
      cubins: packed,
    };
    writeFileSync(join(work, 'manifest.json'), `${JSON.stringify(manifest, null, 2)}\n`);
    rmSync(folder, { recursive: true, force: true });
    // A temporary folder is its owner's alone.
    chmodSync(work, 0o755);
    renameSync(work, folder);
    return manifest;
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

/** Compiles and packs; says in one sentence why not where nvcc is missing. */
export async function makeCubins(capabilities = CUBINS) {
  const missing = whyNoNvcc();
  if (missing !== undefined) return `cuda: ${missing}`;
  const work = mkdtempSync(join(tmpdir(), 'cubins-'));
  try {
    const cubins = new Map();
    const queue = [...capabilities];
    const next = async () => {
      for (let capability = queue.shift(); capability !== undefined; capability = queue.shift()) {
        const path = join(work, `${capability}.cubin`);
        // What only 9.0 has (wgmma) is in no later machine code either.
        const arch = capability === 90 ? 'sm_90a' : `sm_${capability}`;
        const args = [...NVCC_FLAGS, `-arch=${arch}`, '-cubin', 'kernels.cu', '-o', path];
        const { stderr } = await promisify(execFile)(nvcc(), args, {
          cwd: join(root, 'kernels', 'cuda'),
          maxBuffer: 64 << 20,
        });
        if (WGMMA_REGISTERS.test(stderr)) throw new Error(`cuda: ${arch}: ${stderr.trim()}`);
        cubins.set(capability, readFileSync(path));
      }
    };
    // Half a gigabyte each.
    await Promise.all(Array.from({ length: Math.min(3, availableParallelism()) }, next));
    const { files } = packCubins(cubins, root, `nvcc ${nvccVersion()}`);
    for (const [capability, bytes] of cubins) {
      const found = findCubin(capability, root);
      if (found.reason !== undefined) throw new Error(`cuda: ${found.reason}`);
      if (Buffer.compare(found.bytes, bytes) !== 0) throw new Error(`cuda: what is found for ${capability} is another`);
    }
    const sizes = Object.entries(files).map(([file, { bytes }]) => `${file} ${(bytes / 1e3).toFixed(0)} kB`);
    process.stderr.write(`cuda: ${sizes.join(', ')}; not run: a card runs it (nvcc ${nvccVersion()})\n`);
    return undefined;
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

function readManifest(path) {
  try {
    const manifest = JSON.parse(readFileSync(path, 'utf8'));
    return manifest?.files === undefined ? undefined : manifest;
  } catch {
    return undefined;
  }
}

/** What is wrong with the cubins that are there, if anything: absent, damaged, of other sources, flags or version, too few. */
export function whyCubinsNotCurrent(from = root) {
  const path = join(cubinFolder(from), 'manifest.json');
  if (!existsSync(path)) return 'cuda is not built';
  const manifest = readManifest(path);
  if (manifest === undefined) return 'cuda/manifest.json is damaged';
  if (manifest.version !== version(root)) return `cuda is of version ${manifest.version}`;
  // Compared with the sources here, which a package without them could not say.
  if (manifest.sources !== sourcesKey(root, kernelSources(root))) return 'cuda is of other sources';
  if (JSON.stringify(manifest.flags) !== JSON.stringify(NVCC_FLAGS)) return 'cuda was made with other flags';
  for (const [file, { sha256: wanted }] of Object.entries(manifest.files)) {
    const place = join(cubinFolder(from), file);
    if (!existsSync(place)) return `cuda lacks ${file}`;
    if (sha256(readFileSync(place)) !== wanted) return `cuda/${file} is not what its manifest says`;
  }
  for (const capability of CUBINS) {
    const { reason } = findCubin(capability, from);
    if (reason !== undefined) return `cuda: ${reason}`;
  }
  return undefined;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const named = process.argv.slice(2).map(Number);
  const why = named.every((n) => CUBINS.includes(n))
    ? await makeCubins(named.length > 0 ? named : CUBINS)
    : `cards are ${CUBINS.join(', ')}`;
  if (why !== undefined) {
    process.stderr.write(`${why}\n`);
    process.exitCode = 1;
  }
}
