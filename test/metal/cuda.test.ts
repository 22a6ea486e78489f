// A second compiler's opinion: the very kernel text as CUDA. Running it needs an NVIDIA GPU: scripts/metal-cuda-check.mjs.

import { describe, expect, test } from 'vitest';
import { checkCuda, findTools, joinKernels, readKernels } from '../../scripts/metal-tools.mjs';

const { nvccMissing } = findTools();
if (nvccMissing !== undefined)
  process.stderr.write(`\nSKIPPED: the Metal kernels are not compiled as CUDA: ${nvccMissing}\n\n`);

describe.skipIf(nvccMissing !== undefined)('CUDA', () => {
  test('the kernels compile as CUDA', { timeout: 240_000 }, () => {
    const ptx = checkCuda();
    for (const { name } of readKernels(joinKernels().text)) expect(ptx).toContain(`global_${name}`);
  });
});
