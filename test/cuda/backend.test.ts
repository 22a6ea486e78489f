// Whether CUDA is used at all: the driver's and the card's refusals, the self-test, and faults planted in the kernels, which it
// or a golden case has to find.

import { describe, expect, test } from 'vitest';
import { createCudaBackend, cudaBackend } from '../../src/engine/cuda/backend.ts';
import { whyNoDriver } from '../../src/engine/cuda/platform.ts';
import { buildDriver, driverWith, FAKE_MISSING, fakeAddon, NO_KERNELS, withSettings } from './fake-driver.ts';

const over = (library: string) =>
  createCudaBackend({ loadAddon: async () => ({ addon: fakeAddon() }), library, kernels: NO_KERNELS });

test.skipIf(whyNoDriver() === undefined)('without a driver it says so in a line, and builds nothing', async () => {
  expect(await cudaBackend.unavailable()).toMatch(/^(there is no NVIDIA driver|CUDA needs Linux or Windows)/);
});

describe.skipIf(FAKE_MISSING !== undefined)('on the emulated driver', () => {
  test.each([
    [{ FAKE_CUDA_COUNT: '0' }, 'the NVIDIA driver finds no card'],
    [{ FAKE_CUDA_DRIVER: '11040' }, 'the NVIDIA driver is for CUDA 11.4, 11.8 is needed'],
    [
      { FAKE_CUDA_CAPABILITY: '75' },
      'Emulator has compute capability 7.5, the kernels need 8.0 and 98304 bytes of shared memory',
    ],
    [{ FAKE_CUDA_FAIL: 'cuInit' }, 'cuInit: CUDA_ERROR_NO_DEVICE'],
    [{ FAKE_CUDA_FAIL: 'cuModuleLoadData' }, 'CUDA: cuModuleLoadData: CUDA_ERROR'],
  ])('%j', async (settings, reason) => {
    await withSettings(settings as Record<string, string>, async () => {
      expect(await over(buildDriver()).unavailable()).toContain(reason);
    });
  });

  test('no library', async () => {
    expect(await over('/nowhere/libcuda.so.1').unavailable()).toMatch(/there is no NVIDIA driver here/);
  });

  test('sound kernels pass the self-test', { timeout: 300_000 }, async () => {
    expect(await over(buildDriver()).unavailable()).toBeUndefined();
  });

  test.each([
    [
      'a wrong field of a word',
      'products.cuh',
      'return 0x03030303u << (2 * f);',
      'return 0x03030303u << (2 * (f ^ 1));',
    ],
    ['a sum of something else', 'rows.cuh', 's = s + v.x * v.x;', 's = s + v.x * v.y;'],
    ['a missing barrier', 'products.cuh', '  mark(8);\n  sync();\n', '  mark(8);\n'],
    ['a maximum for each score', 'attention.cuh', '= block_max(score);', '= score + 0.0f * block_max(score);'],
    ['the code sum forgotten', 'products.cuh', ' - code_sum) * factor', ') * factor'],
    ['a lane left out', 'attention_rows.cuh', 'a[k / 4][k % 4] = two[k / 4][k % 4] + a', 'a[k / 4][k % 4] = a'],
    [
      'the code sum of some rows forgotten',
      'products_many.cuh',
      ' - of.code_sum) * divide(scale, of.scale)',
      ') * divide(scale, of.scale)',
    ],
    ['codes that begin at 0', 'products.cuh', '(2 * (in >> 4)) & 3) - 1) * code;', '(2 * (in >> 4)) & 3)) * code;'],
  ])('a planted fault is found: %s', { timeout: 300_000 }, async (_, file, from, to) => {
    const reason = await over(driverWith({ file, from, to })).unavailable();
    expect(reason).toMatch(/in its self-test \d+ of \d+ logits are not the reference's/);
  });
});
