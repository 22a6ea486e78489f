// Rotary position embedding of x (T, H, D), in place; its gradient is the rotation by the opposite angle.
// cos, sin (positions, D/2). Source: arXiv:2104.09864.

import { rope } from '../../engine/js/ops.ts';

const fround = Math.fround;

export const ropeForward = rope;

/** Rotates the gradient dx (T, H, D) back, in place. */
export function ropeBackward(
  dx: Float32Array,
  positions: Int32Array,
  cos: Float32Array,
  sin: Float32Array,
  T: number,
  H: number,
  D: number,
): void {
  const half = D / 2;
  for (let t = 0; t < T; t += 1) {
    const table = positions[t]! * half;
    for (let h = 0; h < H; h += 1) {
      const at = (t * H + h) * D;
      for (let j = 0; j < half; j += 1) {
        const c = cos[table + j]!;
        const s = sin[table + j]!;
        const a = dx[at + j]!;
        const b = dx[at + half + j]!;
        dx[at + j] = fround(a * c) + fround(b * s);
        dx[at + half + j] = fround(b * c) - fround(a * s);
      }
    }
  }
}
