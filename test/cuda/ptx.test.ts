// The committed PTX is what nvcc makes of the committed kernels.

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { makePtx, whyNoNvcc } from '../../scripts/build-cuda.mjs';

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
