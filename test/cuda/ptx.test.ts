// The committed PTX is what nvcc makes of the committed kernels.

import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { makePtx, NVCC_FLAGS, nvcc, WGMMA_REGISTERS, whyNoNvcc } from '../../scripts/build-cuda.mjs';

const missing = whyNoNvcc();
if (missing !== undefined) process.stderr.write(`\nSKIPPED: kernels.ptx is not compared: ${missing}\n\n`);

const path = join(import.meta.dirname, '../../kernels/cuda/kernels.ptx');

test('it takes drivers from CUDA 11.8 and cards from 8.0 on, and ends in the 0 that the driver needs', () => {
  const text = readFileSync(path, 'latin1');
  expect(text).toMatch(/^\.version 7\.8$/m);
  expect(text).toMatch(/^\.target sm_80$/m);
  expect(text.endsWith('\n\0')).toBe(true);
  // One rounding an operation: a fused one would change bits.
  expect(text).not.toMatch(/\bfma\.rn\.f32\b/);
});

test.skipIf(missing !== undefined)('it is up to date: node scripts/build-cuda.mjs --ptx', { timeout: 300_000 }, () => {
  expect(makePtx() === readFileSync(path, 'latin1')).toBe(true);
});

test.skipIf(missing !== undefined)(
  'registers of wgmma are written before its fence, and kept',
  { timeout: 300_000 },
  () => {
    const folder = mkdtempSync(join(tmpdir(), 'wgmma-'));
    try {
      const source = join(folder, 'tiles.cu');
      writeFileSync(
        source,
        '#include "hybrid.cuh"\n#include "one-products.cuh"\n#include "products_many.cuh"\nTILES_KERNEL tiles(GIVEN Instruction given) { ternary_tiles(given); }\n',
      );
      const cuda = join(import.meta.dirname, '../../kernels/cuda');
      const args = [...NVCC_FLAGS, '-arch=sm_90a', '-cubin', '-I', cuda, source, '-o', join(folder, 'tiles.cubin')];
      const { status, stdout, stderr } = spawnSync(nvcc(), args, { encoding: 'utf8' });
      expect(status, stderr).toBe(0);
      expect(stdout + stderr).not.toMatch(WGMMA_REGISTERS);
    } finally {
      rmSync(folder, { recursive: true });
    }
  },
);
