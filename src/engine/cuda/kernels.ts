// The kernels as the driver takes them: machine code (a cubin) for the card where the package has it, else the PTX text, which
// the driver compiles (half a minute or more at first; it keeps the result).
//
// prebuilds/cuda holds the cubins, those of a generation one behind the other in one file: they are nearly alike, and compressed
// together take little more than one. The manifest says what each must be; what is of other sources or another version, or has
// other bytes, is not taken.

import { createHash } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { brotliDecompressSync } from 'node:zlib';
import { sourcesKey } from '../../native/recipe.ts';
import { packageRoot } from '../../package/root.ts';

/** Compute capabilities that a cubin is made for: 90 for 9.0. */
export const CUBINS = [80, 86, 89, 90, 120] as const;

export type CubinManifest = {
  readonly format: 1;
  /** Of the package that the cubins belong to. */
  readonly version: string;
  readonly built_with: string;
  readonly flags: readonly string[];
  /** `kernelSources`, hashed. */
  readonly sources: string;
  /** By their names in prebuilds/cuda. */
  readonly files: Readonly<Record<string, { readonly sha256: string; readonly bytes: number }>>;
  readonly cubins: readonly PackedCubin[];
};

export type PackedCubin = {
  readonly capability: number;
  readonly file: string;
  /** Of the cubin in what the file unpacks to. */
  readonly offset: number;
  readonly bytes: number;
  readonly sha256: string;
};

export type Cubin = { readonly bytes: Uint8Array } | { readonly reason: string };

/** Where the kernels come from: the package, or what a test has. */
export type KernelSource = {
  /** For exactly this card, or one sentence why there is none. */
  cubin(capability: number): Cubin;
  /** PTX text, ending in 0. */
  ptx(): Uint8Array;
};

/** A file of cubins has 8 MB. */
const MAX_UNPACKED_BYTES = 64 << 20;

export const cubinFolder = (root: string): string => join(root, 'prebuilds', 'cuda');

/** 9.0 for 90. */
export const capabilityText = (capability: number): string => `${Math.floor(capability / 10)}.${capability % 10}`;

/** The kernels' sources, below kernels/; undefined where they did not come along. */
export function kernelSources(root: string): readonly string[] | undefined {
  try {
    const names = readdirSync(join(root, 'kernels', 'cuda')).filter((name) => /\.cuh?$/.test(name));
    return names.length === 0 ? undefined : names.sort().map((name) => `cuda/${name}`);
  } catch {
    return undefined;
  }
}

/**
 * The cubin for a card of this compute capability. One of an earlier minor version would run on desktop cards and not on the
 * others (8.7 is Orin's), so it is this one or none.
 */
export function findCubin(capability: number, root: string): Cubin {
  const folder = cubinFolder(root);
  const manifestPath = join(folder, 'manifest.json');
  let text: string;
  try {
    text = readFileSync(manifestPath, 'utf8');
  } catch {
    return { reason: 'no machine code came with the package' };
  }
  let manifest: CubinManifest;
  let entry: PackedCubin | undefined;
  try {
    manifest = JSON.parse(text) as CubinManifest;
    entry = manifest.cubins.find((one) => one.capability === capability);
  } catch {
    return { reason: `${manifestPath} is damaged` };
  }
  const sources = kernelSources(root);
  if (sources === undefined) {
    const own = (JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { version: string }).version;
    if (manifest.version !== own) return { reason: `${folder} is of version ${manifest.version}, the package ${own}` };
  } else if (sourcesKey(root, sources) !== manifest.sources) {
    return { reason: `${folder} was made of other sources` };
  }
  if (entry === undefined) {
    return { reason: `no machine code for compute capability ${capabilityText(capability)} came with the package` };
  }
  const path = join(folder, String(entry.file));
  let all: Buffer;
  try {
    all = brotliDecompressSync(readFileSync(path), { maxOutputLength: MAX_UNPACKED_BYTES });
  } catch (error) {
    return {
      reason: `${path} cannot be unpacked: ${(error as NodeJS.ErrnoException).code ?? (error as Error).message}`,
    };
  }
  const bytes = all.subarray(entry.offset, entry.offset + entry.bytes);
  if (createHash('sha256').update(bytes).digest('hex') !== entry.sha256) {
    return { reason: `${path} is not the file that was packed: the sha256 of its cubin differs` };
  }
  return { bytes };
}

export const packageKernels: KernelSource = {
  cubin: (capability) => findCubin(capability, packageRoot()),
  ptx: () => readFileSync(join(packageRoot(), 'kernels', 'cuda', 'kernels.ptx')),
};
