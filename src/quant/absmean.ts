// absmean: float weights to trits with one scale per matrix. Source: arXiv:2402.17764 section 2; the float32 steps
// follow WeightQuant of huggingface/transformers.

import { NonFiniteValueError, PackedSizeError } from './errors.ts';

/** Smallest mean that is used: keeps the reciprocal finite for an all-zero matrix. */
export const ABSMEAN_FLOOR = Math.fround(1e-5);

/**
 * Scale of absmean: m = max(mean |w|, 1e-5) as float32; the sum is kept in double, so it does not depend on length.
 * NaN, infinity and a sum beyond float32 are refused (the reference turns the whole matrix into NaN there).
 */
export function absmeanScale(w: Float32Array, name = 'the weight matrix'): number {
  let sum = 0;
  for (let i = 0; i < w.length; i++) sum += Math.abs(w[i]!);
  if (!Number.isFinite(Math.fround(sum))) {
    const index = w.findIndex((value) => !Number.isFinite(value));
    throw new NonFiniteValueError({ name, index: Math.max(index, 0), value: index < 0 ? sum : w[index]! });
  }
  return Math.max(w.length === 0 ? 0 : Math.fround(sum / w.length), ABSMEAN_FLOOR);
}

/**
 * Trits of w under `scale`: clamp(rint(float32(w * float32(1 / scale))), -1, 1), into `trits` (same length), which is
 * returned. Ties (|w| exactly half the scale) go to 0.
 */
export function ternarize(w: Float32Array, scale: number, trits: Int8Array): Int8Array {
  const reciprocal = Math.fround(1 / scale);
  for (let i = 0; i < w.length; i++) {
    // |v| <= 0.5 rounds to 0 (a tie goes to even), anything larger to the sign: the clamp is part of the comparison.
    const v = Math.fround(w[i]! * reciprocal);
    trits[i] = v > 0.5 ? 1 : v < -0.5 ? -1 : 0;
  }
  return trits;
}

/** w (rows, columns) float32, unmodified, to trits (rows, columns) and scale m, so that w is near m * trit. */
export function absmean(
  w: Float32Array,
  rows: number,
  columns: number,
  name?: string,
): { trits: Int8Array<ArrayBuffer>; scale: number } {
  if (w.length !== rows * columns) {
    throw new PackedSizeError({
      layout: 'F32',
      shape: [rows, columns],
      expectedBytes: rows * columns * 4,
      actualBytes: w.byteLength,
    });
  }
  const scale = absmeanScale(w, name);
  const trits = new Int8Array(w.length);
  ternarize(w, scale, trits);
  return { trits, scale };
}
