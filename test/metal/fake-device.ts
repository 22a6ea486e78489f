// The addon over the fake device of test/metal/native, built once per set of sources and kept in build/.

import { createRequire } from 'node:module';
import { beforeAll } from 'vitest';
import { buildFake, findTools } from '../../scripts/metal-tools.mjs';
import type { MetalAddon } from '../../src/engine/metal/addon.ts';
import { MetalExecutable, type MetalOptions } from '../../src/engine/metal/executable.ts';
import { Gpu } from '../../src/engine/metal/gpu.ts';
import { readKernelText } from '../../src/engine/metal/shaders.ts';
import type { Program } from '../../src/engine/program.ts';
import { withSettings } from '../kernels/with-settings.ts';

export { withSettings };

/** Why the fake device cannot be built here; undefined where it can. */
export const FAKE_MISSING = findTools().fakeMissing;

if (FAKE_MISSING !== undefined) {
  process.stderr.write(`\nSKIPPED: the Metal kernels are not checked on this machine. ${FAKE_MISSING}\n\n`);
}

let addon: MetalAddon | undefined;

// Before the tests and not in one: the first build takes longer than a test may.
if (FAKE_MISSING === undefined) beforeAll(() => void fakeAddon(), 300_000);

export function fakeAddon(): MetalAddon {
  addon ??= createRequire(import.meta.url)(buildFake()) as MetalAddon;
  return addon;
}

export function loadOnFake(program: Program, options: MetalOptions = {}): MetalExecutable {
  return new MetalExecutable(new Gpu(fakeAddon(), readKernelText()), program, options);
}

/** Orders in which the emulator runs threads: in order, reversed and greedy, shuffled, shuffled and greedy. */
export const SCHEDULES = [0, 1, 2, 3] as const;

export const withSchedule = <T>(schedule: number, work: () => Promise<T> | T): Promise<T> =>
  withSettings({ FAKE_METAL_SCHEDULE: String(schedule) }, work);

/** What the fake device counted so far. */
export type Figure =
  | 'buffers'
  | 'bytes'
  | 'commandBuffers'
  | 'dispatches'
  | 'weightBytes'
  | 'cacheBytes'
  | 'idleGroups'
  | 'switches';

export function figures(): Record<Figure, number> {
  const entries = (process.env.FAKE_METAL_FIGURES ?? '').split(' ').map((entry) => entry.split('='));
  return Object.fromEntries(entries.map(([name, value]) => [name, Number(value)])) as ReturnType<typeof figures>;
}
