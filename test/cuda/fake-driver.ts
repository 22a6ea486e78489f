// The addon over the driver of test/cuda/native, whose kernels run in the emulator; built once per set of sources.

import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { beforeAll } from 'vitest';
import { buildCuda } from '../../scripts/build-cuda.mjs';
import { buildOnce } from '../../scripts/metal-tools.mjs';
import type { CudaAddon } from '../../src/engine/cuda/addon.ts';
import { CudaExecutable, type CudaOptions } from '../../src/engine/cuda/executable.ts';
import { Gpu } from '../../src/engine/cuda/gpu.ts';
import type { KernelSource } from '../../src/engine/cuda/kernels.ts';
import type { Program } from '../../src/engine/program.ts';
import { withSettings } from '../kernels/with-settings.ts';

export { withSettings };

const root = join(import.meta.dirname, '../..');
export const KERNELS = join(root, 'kernels/cuda');
const NATIVE = join(import.meta.dirname, 'native');

const FLAGS = [
  '-std=c++17',
  '-fPIC',
  '-shared',
  '-ffp-contract=off',
  '-fvisibility=hidden',
  '-DBITNET_EMULATOR',
  '-O2',
];

/** Why the emulator cannot be built here; undefined where it can. */
export const FAKE_MISSING =
  process.platform !== 'linux' || process.arch !== 'x64'
    ? `the emulator's fibers are for Linux on x86-64, this is ${process.platform} on ${process.arch}`
    : spawnSync(compiler(), ['--version']).status === 0
      ? undefined
      : `there is no C++ compiler (${compiler()})`;

if (FAKE_MISSING !== undefined) {
  process.stderr.write(`\nSKIPPED: the CUDA kernels are not checked on this machine: ${FAKE_MISSING}\n\n`);
}

function compiler(): string {
  return process.env.CXX || 'c++';
}

/** The driver with these kernels in it, built once per set of sources. */
export function buildDriver(kernels = KERNELS): string {
  const sources = [kernels, NATIVE].flatMap((folder) =>
    readdirSync(folder)
      .filter((name) => /\.(cuh?|h|cc)$/.test(name) && name !== 'addon.cc')
      .map((name) => join(folder, name)),
  );
  const hash = createHash('sha256').update(JSON.stringify(FLAGS));
  for (const path of sources) hash.update(readFileSync(path));
  const name = `fake-cuda-${hash.digest('hex').slice(0, 16)}.so`;
  return buildOnce(join(root, 'build/native', name), (folder) => {
    const args = [...FLAGS, `-I${NATIVE}`, `-I${kernels}`, join(NATIVE, 'driver.cc'), '-o', join(folder, name)];
    const done = spawnSync(compiler(), args, { encoding: 'utf8' });
    if (done.status !== 0) throw new Error(done.stderr);
  });
}

/** An addon of its own: the addon holds one driver and one device. */
export function fakeAddon(): CudaAddon {
  const { path } = buildCuda();
  if (path === undefined) throw new Error('the addon was not built');
  // A copy under another name is loaded anew.
  const folder = mkdtempSync(join(tmpdir(), 'cuda-'));
  const copy = join(folder, 'addon.node');
  cpSync(path, copy);
  const addon = createRequire(import.meta.url)(copy) as CudaAddon;
  rmSync(folder, { recursive: true });
  return addon;
}

export const NO_KERNELS: KernelSource = {
  cubin: () => ({ reason: 'the kernels are compiled into the driver' }),
  ptx: () => Buffer.from('// compiled into the driver\0'),
};

export async function newGpu(library = buildDriver()): Promise<Gpu> {
  const addon = fakeAddon();
  return Gpu.open(addon, addon.probe(library), NO_KERNELS.ptx());
}

let gpu: Gpu | undefined;

// Before the tests and not in one: the first build takes longer than a test may.
if (FAKE_MISSING === undefined) {
  beforeAll(async () => {
    gpu ??= await newGpu();
  }, 300_000);
}

export const fakeGpu = (): Gpu => gpu!;

export const loadOnFake = (program: Program, options: CudaOptions = {}): CudaExecutable =>
  new CudaExecutable(fakeGpu(), program, options);

/** Orders in which the emulator runs threads: in order, from the last, shuffled. */
export const SCHEDULES = [0, 1, 2] as const;
