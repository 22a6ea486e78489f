import fc from 'fast-check';
import { expect, test } from 'vitest';
import { gf3Residue } from '../../src/gf3/sums.ts';
import { quantizeMatrices } from '../../src/train/ops/bit-linear.ts';
import { type ConservedMatrix, conserve, MAX_EXTRA_FLIPS, tritDeltaSum } from '../../src/world/conserve.ts';
import { Numbers } from '../train/tiny.ts';

function matrixOf(name: string, w: Float32Array, before: Int8Array): ConservedMatrix {
  const trits = new Int8Array(w.length);
  const [scale] = quantizeMatrices([{ name, w, trits }]);
  return { name, w, trits, scale: scale!, before };
}

/** Conserves, then looks at nothing but the latents: what a stored world will be quantized to. */
function check(matrices: ConservedMatrix[]): void {
  const plain = matrices.map(({ trits }) => trits.slice());
  const latents = matrices.map(({ w }) => w.slice());
  const flips = conserve(matrices);
  const after = matrices.map(({ name, w, before }) => matrixOf(name, w, before));
  expect(gf3Residue(tritDeltaSum(after))).toBe(0);
  let changed = 0;
  after.forEach(({ trits, scale }, m) => {
    expect(trits).toEqual(matrices[m]!.trits);
    expect(scale).toBe(matrices[m]!.scale);
    trits.forEach((trit, i) => {
      if (trit !== plain[m]![i]) changed += 1;
    });
  });
  expect(changed).toBe(flips.length);
  expect(changed).toBeLessThanOrEqual(MAX_EXTRA_FLIPS);
  // Only latents whose trits flipped were touched.
  const moved = matrices.flatMap(({ w }, m) => [...w.keys()].filter((i) => w[i] !== latents[m]![i]));
  expect(moved.length).toBeLessThanOrEqual(flips.length);
}

test('whatever the latents and the trits before: residue 0 with at most two more flips', () => {
  const matrix = fc
    .array(fc.float({ min: -2, max: 2, noNaN: true }), { minLength: 4, maxLength: 60 })
    .chain((w) =>
      fc
        .array(fc.constantFrom(-1, 0, 1), { minLength: w.length, maxLength: w.length })
        .map((before) => ({ w, before })),
    );
  fc.assert(
    fc.property(fc.array(matrix, { minLength: 1, maxLength: 3 }), (parts) => {
      check(parts.map(({ w, before }, i) => matrixOf(`m${i}`, Float32Array.from(w), Int8Array.from(before))));
    }),
    { numRuns: 2000 },
  );
});

test('matrices of one to three elements, zeros, equal magnitudes and very small and large floats included', () => {
  const values = [0, 1, -1, 0.5, -0.5, 2 ** -149, -(2 ** -149), 1e-5, 1e37, -1e-30];
  const small = fc.array(fc.constantFrom(...values), { minLength: 1, maxLength: 3 });
  fc.assert(
    fc.property(small, fc.array(fc.constantFrom(-1, 0, 1), { minLength: 3, maxLength: 3 }), (w, before) => {
      const latents = Float32Array.from(w);
      const sum = latents.reduce((total, value) => total + Math.abs(value), 0);
      fc.pre(Number.isFinite(Math.fround(sum)));
      check([matrixOf('m', latents, Int8Array.from(before).subarray(0, w.length))]);
    }),
    { numRuns: 2000 },
  );
});

test('the least certain trit is the one that flips, and by itself', () => {
  const n = new Numbers(3);
  for (let round = 0; round < 60; round += 1) {
    const w = n.floats(64 * 32, 0.4);
    const matrix = matrixOf('m', w, n.integers(w.length, -1, 1));
    const residue = gf3Residue(tritDeltaSum([matrix]));
    const { scale } = matrix;
    const trits = matrix.trits.slice();
    const latents = w.slice();
    const flips = conserve([matrix]);
    if (residue === 0) {
      expect(flips).toEqual([]);
      continue;
    }
    expect(flips).toHaveLength(1);
    const [flip] = flips;
    const change = residue === 1 ? -1 : 1;
    expect(gf3Residue(flip!.to - flip!.from - change)).toBe(0);
    // No other latent that could have made the same change lies nearer to its boundary.
    const nearest = Math.min(
      ...[...latents.keys()]
        .filter((i) => Math.abs(trits[i]! + change) <= 1)
        .map((i) => Math.abs((latents[i]! / scale) * change - (trits[i] === 0 ? 0.5 : -0.5))),
    );
    expect(flip!.distance).toBeCloseTo(nearest, 6);
    expect(Math.abs(w[flip!.index]! - latents[flip!.index]!)).toBeLessThan(0.02);
  }
});

test('a step that is conserved already is left alone', () => {
  const w = Float32Array.of(1, -1, 0.1, 0.9);
  const matrix = matrixOf('m', w, Int8Array.of(1, -1, 0, 1));
  expect(conserve([matrix])).toEqual([]);
  expect([...w]).toEqual([...Float32Array.of(1, -1, 0.1, 0.9)]);
});
