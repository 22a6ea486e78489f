// A second compiler's opinion: the very kernel text as CUDA. Running it needs an NVIDIA GPU: scripts/metal-cuda-check.mjs.

import { describe, expect, test } from 'vitest';
import { buildCuda, findTools } from '../../scripts/metal-tools.mjs';

const { nvccMissing } = findTools();
if (nvccMissing !== undefined)
  process.stderr.write(`\nSKIPPED: the Metal kernels are not compiled as CUDA: ${nvccMissing}\n\n`);

describe.skipIf(nvccMissing !== undefined)('CUDA', () => {
  test('the kernels compile as CUDA', { timeout: 240_000 }, () => {
    expect(buildCuda()).toMatch(/metal_cuda_check$/);
  });
});
