// Vectors over GF(3), element by element. The caller owns `out`, which may be an input, and gets it back.
// Elements must be trits; they are not checked, as these run over whole weight matrices.

import { ArgumentError } from '../errors.ts';
import { toTrit } from './field.ts';
import type { Trit } from './trit.ts';

/** Sum of two balanced trits (index + 2) as a balanced trit. */
const REDUCED = Int8Array.of(1, -1, 0, 1, -1);

function checkLengths(expected: number, ...actual: number[]): void {
  for (const length of actual) {
    if (length !== expected) {
      throw new ArgumentError({
        what: `trit vectors must have one length, got ${expected} and ${length}`,
        fix: 'pass vectors (and out) of equal length',
      });
    }
  }
}

/** out = a + b; all (N,) int8. */
export function addVectors(a: Int8Array, b: Int8Array, out: Int8Array): Int8Array {
  checkLengths(a.length, b.length, out.length);
  for (let i = 0; i < a.length; i++) out[i] = REDUCED[a[i]! + b[i]! + 2]!;
  return out;
}

/** out = a - b; all (N,) int8. addVectors(b, out) gives a back: this is how a step of weights is undone. */
export function subtractVectors(a: Int8Array, b: Int8Array, out: Int8Array): Int8Array {
  checkLengths(a.length, b.length, out.length);
  for (let i = 0; i < a.length; i++) out[i] = REDUCED[a[i]! - b[i]! + 2]!;
  return out;
}

/** out = factor * a; both (N,) int8. */
export function scaleVector(a: Int8Array, factor: Trit, out: Int8Array): Int8Array {
  checkLengths(a.length, out.length);
  for (let i = 0; i < a.length; i++) out[i] = a[i]! * factor;
  return out;
}

/** The inner product in GF(3); both (N,) int8. */
export function dotVectors(a: Int8Array, b: Int8Array): Trit {
  checkLengths(a.length, b.length);
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i]! * b[i]!;
  return toTrit(sum);
}
