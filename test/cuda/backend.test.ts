// Whether CUDA is used at all: the driver's and the card's refusals, the self-test, and faults planted in the kernels, which it
// or a golden case has to find.

import { describe, expect, test } from 'vitest';
import { createCudaBackend, cudaBackend } from '../../src/engine/cuda/backend.ts';
import { whyNoDriver } from '../../src/engine/cuda/platform.ts';
import { buildDriver, FAKE_MISSING, fakeAddon, NO_KERNELS, withSettings } from './fake-driver.ts';
import { driverWithFaults, type FaultName, withFault } from './planted-faults.ts';

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

  test('kernels that never end are not waited for', async () => {
    const backend = createCudaBackend({
      loadAddon: async () => ({ addon: fakeAddon() }),
      library: buildDriver(),
      kernels: NO_KERNELS,
      selfTestLimitMs: 1000,
    });
    const reason = await withSettings({ FAKE_CUDA_HANGS: '1' }, () => backend.unavailable());
    expect(reason).toContain('CUDA: the device has not ended its work in 1 s');
  });

  test('no library', async () => {
    expect(await over('/nowhere/libcuda.so.1').unavailable()).toMatch(/there is no NVIDIA driver here/);
  });

  test('sound kernels pass the self-test', { timeout: 300_000 }, async () => {
    expect(await over(buildDriver()).unavailable()).toBeUndefined();
  });

  test('so do those with faults, while none is turned on', { timeout: 300_000 }, async () => {
    expect(await over(driverWithFaults()).unavailable()).toBeUndefined();
  });

  test.each<FaultName>([
    'a wrong field of a word',
    'a sum of something else',
    'a missing barrier',
    'a maximum for each score',
    'the code sum forgotten',
    'a lane left out',
    'the code sum of some rows forgotten',
    'codes that begin at 0',
  ])('a planted fault is found: %s', { timeout: 300_000 }, async (name) => {
    const reason = await withFault(name, () => over(driverWithFaults()).unavailable());
    expect(reason).toMatch(/in its self-test \d+ of \d+ logits are not the reference's/);
  });
});
