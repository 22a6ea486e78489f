// What each addon is made of: its sources, their flags, and the key that says whether a binary was made of them.

import { createHash } from 'node:crypto';
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import type { AddonKind } from './kind.ts';

/** A translation unit, by its path in kernels/. */
export type Unit = {
  readonly source: string;
  readonly flags: readonly string[];
  /** Announces an instruction set to the table of them; the others work without it. */
  readonly macro?: string;
};

export type Recipe = {
  /** Folders in kernels/ whose sources are hashed. */
  readonly folders: readonly string[];
  /** Single files beside them. */
  readonly files: readonly string[];
  /** Sources in the folders that are programs of their own. */
  readonly others: RegExp;
  readonly flags: (arch: string) => readonly string[];
  readonly units: (root: string, arch: string) => readonly Unit[];
  /** Compiled last, with the macros of all instruction sets that could be. */
  readonly table?: string;
  readonly link: readonly string[];
};

const AVX512 = ['-mavx512f', '-mavx512bw', '-mavx512vl', '-mavx512dq', '-mavx512vnni', '-mavx2', '-mf16c'];

const COMMON = [
  '-std=c++17',
  '-O3',
  '-fPIC',
  '-fvisibility=hidden',
  // No fused multiply-add, whose single rounding would change bits; see kernels/cpu/vec16.h.
  '-ffp-contract=off',
  '-fno-math-errno',
];

/** Instruction sets of the CPU addon: source, flags, macro. */
const CPU_ISAS: Readonly<Record<string, readonly Unit[]>> = {
  x64: [
    { source: 'cpu/isa_avx2.cc', flags: ['-mavx2', '-mf16c'], macro: 'BITNET_WITH_AVX2' },
    { source: 'cpu/isa_avxvnni.cc', flags: ['-mavx2', '-mf16c', '-mavxvnni'], macro: 'BITNET_WITH_AVXVNNI' },
    { source: 'cpu/isa_avx512.cc', flags: AVX512, macro: 'BITNET_WITH_AVX512' },
    { source: 'cpu/isa_amx.cc', flags: [...AVX512, '-mamx-tile', '-mamx-int8'], macro: 'BITNET_WITH_AMX' },
  ],
  arm64: [
    { source: 'cpu/isa_neon.cc', flags: [], macro: 'BITNET_WITH_NEON' },
    { source: 'cpu/isa_neon_dot.cc', flags: ['-march=armv8.2-a+dotprod'], macro: 'BITNET_WITH_NEON_DOT' },
    { source: 'cpu/isa_neon_i8mm.cc', flags: ['-march=armv8.2-a+dotprod+i8mm'], macro: 'BITNET_WITH_NEON_I8MM' },
  ],
};

const TRAIN_ISAS: Readonly<Record<string, readonly Unit[]>> = {
  x64: [
    { source: 'train/isa_avx2.cc', flags: ['-mavx2', '-mfma'], macro: 'BITNET_WITH_AVX2' },
    {
      source: 'train/isa_avx512.cc',
      flags: ['-mavx512f', '-mavx512bw', '-mavx512vl', '-mavx512dq', '-mavx2', '-mfma'],
      macro: 'BITNET_WITH_AVX512',
    },
  ],
  arm64: [{ source: 'train/isa_neon.cc', flags: [], macro: 'BITNET_WITH_NEON' }],
};

const plain = (source: string): Unit => ({ source, flags: [] });

export const RECIPES: Readonly<Record<AddonKind, Recipe>> = {
  bitnet: {
    folders: ['include', 'cpu', 'addon'],
    files: ['windows/delay_load.cc'],
    others: /(kernel_bench|engine_check|choice_check)\.cc$/,
    flags: (arch) => [
      ...COMMON,
      // Where an inner loop lies decides on some CPUs whether their prefetcher follows its loads: by chance, a third slower.
      ...(arch === 'x64' ? ['-falign-functions=64', '-falign-loops=64'] : []),
      '-Wno-psabi',
    ],
    units: (root, arch) => [
      ...(CPU_ISAS[arch] ?? []),
      ...['cpu', 'addon']
        .flatMap((folder) => namesIn(root, folder).map((name) => `${folder}/${name}`))
        .filter((source) => source.endsWith('.cc') && !RECIPES.bitnet.others.test(source))
        .filter((source) => !/\/isa(_(?!scalar)\w+)?\.cc$/.test(source))
        .map(plain),
    ],
    table: 'cpu/isa.cc',
    link: ['-pthread'],
  },
  train: {
    folders: ['train'],
    files: ['cpu/vec16.h', 'windows/delay_load.cc'],
    others: /selftest\.cc$/,
    flags: () => [...COMMON, '-fno-trapping-math', '-Wno-psabi'],
    units: (_, arch) => [...(TRAIN_ISAS[arch] ?? []), ...['train/isa_scalar.cc', 'train/addon.cc'].map(plain)],
    table: 'train/isa.cc',
    link: ['-pthread'],
  },
  metal: {
    folders: [],
    files: ['metal/addon.mm'],
    others: /^$/,
    flags: () => ['-x', 'objective-c++', '-std=c++17', '-O2', '-fvisibility=hidden', '-DNAPI_VERSION=8'],
    units: () => [plain('metal/addon.mm')],
    // MTLCreateSystemDefaultDevice finds no device in a program that does not link Core Graphics.
    link: ['-framework', 'Foundation', '-framework', 'Metal', '-framework', 'CoreGraphics'],
  },
  // Nothing of CUDA: the driver is opened at run time.
  cuda: {
    folders: [],
    files: ['cuda/addon.cc', 'windows/delay_load.cc'],
    others: /^$/,
    flags: () => ['-std=c++17', '-O2', '-fPIC', '-fvisibility=hidden', '-DNAPI_VERSION=8'],
    units: () => [plain('cuda/addon.cc')],
    // Of the GNU C library before 2.34; others know it by another name (`spell`) or need none.
    link: ['-ldl'],
  },
};

/** Flags of one system, for compiling and for linking an addon. */
export const SYSTEM_FLAGS: Readonly<
  Record<string, { readonly compile: readonly string[]; readonly link: readonly string[] }>
> = {
  darwin: {
    compile: ['-mmacosx-version-min=12.0'],
    link: ['-bundle', '-undefined', 'dynamic_lookup', '-mmacosx-version-min=12.0'],
  },
  linux: { compile: [], link: ['-shared', '-static-libstdc++', '-static-libgcc'] },
};

export const kernelsFolder = (root: string): string => join(root, 'kernels');

function namesIn(root: string, folder: string): readonly string[] {
  return readdirSync(join(kernelsFolder(root), folder)).sort();
}

/** Folders and files, below kernels/, that decide what the addon is; undefined where the sources did not come along. */
export function sourcePaths(
  kind: AddonKind,
  root: string,
): { readonly folders: readonly string[]; readonly files: readonly string[] } | undefined {
  const { folders, files, others } = RECIPES[kind];
  try {
    const inFolders = folders.flatMap((folder) =>
      namesIn(root, folder)
        .filter((name) => /\.(cc|h)$/.test(name) && !others.test(name))
        .map((name) => `${folder}/${name}`),
    );
    // Throws where one is missing.
    for (const file of files) statSync(join(kernelsFolder(root), file));
    return { folders, files: [...inFolders, ...files] };
  } catch {
    return undefined;
  }
}

/** Hash of the sources alone: whoever compiled them, for whatever system. Throws where one cannot be read. */
export function sourcesKey(root: string, files: readonly string[]): string {
  const hash = createHash('sha256');
  for (const file of files)
    hash
      .update(`${file}\0`)
      .update(readFileSync(join(kernelsFolder(root), file)))
      .update('\0');
  return hash.digest('hex').slice(0, 32);
}

/** In the name of what is compiled here: the sources, and how this system compiles them. */
export function buildKey(kind: AddonKind, root: string, files: readonly string[]): string {
  const { flags, units, link } = RECIPES[kind];
  const { platform, arch } = process;
  const how = [platform, arch, flags(arch), units(root, arch), link, SYSTEM_FLAGS[platform] ?? SYSTEM_FLAGS.linux];
  return createHash('sha256').update(JSON.stringify(how)).update(sourcesKey(root, files)).digest('hex').slice(0, 16);
}
