// A few steps do not wait for a compiler, many do; and what was compiled meanwhile is used from then on.

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeEach, expect, test, vi } from 'vitest';
import { JS_KERNELS, type TrainKernels } from '../../src/train/kernels.ts';
import type { KernelOptions } from '../../src/train/native-kernels.ts';
import { Worlds } from '../../src/world/worlds.ts';
import { writeTinyModel } from '../train/tiny-model.ts';

const asked: (boolean | undefined)[] = [];
let compiled = false;
let nativeSteps = 0;
const NATIVE: TrainKernels = {
  ...JS_KERNELS,
  name: 'native',
  embeddingForward: (...args) => {
    nativeSteps += 1;
    JS_KERNELS.embeddingForward(...args);
  },
};
vi.mock('../../src/train/native-kernels.ts', () => ({
  loadTrainKernels: async ({ now, onFallback }: KernelOptions) => {
    asked.push(now);
    // Who may wait gets what the compiler makes.
    if (compiled || !now) return NATIVE;
    onFallback?.('the native training kernels are being compiled');
    return JS_KERNELS;
  },
}));

const folder = mkdtempSync(join(tmpdir(), 'bitnet-kernels-later-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
beforeEach(() => {
  asked.length = 0;
  compiled = false;
  nativeSteps = 0;
});

const request = { tokens: [[3, 14, 15, 9]], lr: 0.01, optimizer: 'sgd', conserve: false } as const;

test('one step is computed in JavaScript at once; the next one finds the kernels', async () => {
  const model = await writeTinyModel(join(folder, 'model'), { seed: 78 });
  const told: string[] = [];
  const worlds = await Worlds.open({ folder: join(folder, 'store'), onFallback: (reason) => told.push(reason) });
  const first = await worlds.step({ ...request, model, steps: 1 });
  expect(asked).not.toContain(false);
  expect(nativeSteps).toBe(0);
  expect(told).toEqual(['the native training kernels are being compiled']);
  compiled = true;
  await worlds.step({ ...request, world: first.after.id, steps: 1 });
  expect(nativeSteps).toBeGreaterThan(0);
  const { length } = asked;
  await worlds.step({ ...request, model, steps: 2 });
  expect(asked.length, 'asked no more').toBe(length);
  expect(told.length, 'told once').toBe(1);
});

test('many steps wait for them', async () => {
  const model = await writeTinyModel(join(folder, 'other'), { seed: 79 });
  const worlds = await Worlds.open({ folder: join(folder, 'store-2') });
  await worlds.step({ ...request, model, steps: 5 });
  expect(asked.at(-1)).toBe(false);
  expect(nativeSteps).toBeGreaterThan(0);
});
