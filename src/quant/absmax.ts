// absmax: activations to int8, one scale per token. Source: arXiv:2402.17764 section 2; ActQuant of
// huggingface/transformers. The division comes first (127 / max), then the multiplication: x / (max / 127) moves codes
// that lie on a tie.

import { NonFiniteValueError } from './errors.ts';
import { rint } from './rint.ts';

/** Smallest maximum that is used: an all-zero row gets the scale 1.27e7 and codes 0. */
export const ABSMAX_FLOOR = Math.fround(1e-5);

/**
 * One row: codes[i] = clamp(rint(float32(x[i] * s)), -128, 127) with s = float32(127 / max(max |x|, 1e-5)), so x is
 * near code / s. Returns s. x is unmodified; `codes` has the length of x. NaN and infinity are refused.
 */
export function absmaxQuantize(x: Float32Array, codes: Int8Array): number {
  let max = 0;
  for (let i = 0; i < x.length; i++) {
    const magnitude = Math.abs(x[i]!);
    if (!(magnitude < Number.POSITIVE_INFINITY)) {
      throw new NonFiniteValueError({ name: 'an activation row', index: i, value: x[i]! });
    }
    if (magnitude > max) max = magnitude;
  }
  const scale = Math.fround(127 / Math.max(max, ABSMAX_FLOOR));
  for (let i = 0; i < x.length; i++) {
    codes[i] = Math.max(-128, Math.min(127, rint(Math.fround(x[i]! * scale))));
  }
  return scale;
}
