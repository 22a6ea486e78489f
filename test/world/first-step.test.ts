// The first step on a machine waits for its kernels to be compiled, which takes half a minute.

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test, vi } from 'vitest';
import { JS_KERNELS } from '../../src/train/kernels.ts';
import { Worlds } from '../../src/world/worlds.ts';
import { writeTinyModel } from '../train/tiny-model.ts';

let compiled: (kernels: typeof JS_KERNELS) => void = () => {};
const compiling = new Promise((resolve) => {
  compiled = resolve;
});
vi.mock('../../src/train/native-kernels.ts', () => ({ loadTrainKernels: () => compiling }));

const folder = mkdtempSync(join(tmpdir(), 'bitnet-first-step-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

test('a step that waits for its kernels says so, and goes on when they are there', async () => {
  const model = await writeTinyModel(join(folder, 'model'), { seed: 77 });
  const worlds = await Worlds.open({ folder: join(folder, 'store') });
  const told: [number, string][] = [];
  const onProgress = (done: number, _total: number, message: string) => {
    told.push([done, message]);
    if (told.length === 2) compiled(JS_KERNELS);
  };
  const request = { model, tokens: [[3, 14, 15, 9]], lr: 0.01, optimizer: 'sgd', steps: 1, conserve: false } as const;
  await worlds.step(request, { onProgress });
  expect(told[0]).toEqual([0.001, 'getting ready since 1 s: the first step compiles the training kernels']);
  expect(told[1]![0]).toBeGreaterThan(told[0]![0]);
  // Then it is told what the step does.
  expect(told.at(-1)![1]).not.toContain('getting ready');
});
