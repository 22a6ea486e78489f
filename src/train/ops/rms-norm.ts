// RMSNorm and its gradient. T rows (tokens), C columns.
//
//   y[t, i] = (x[t, i] * r[t]) * w[i],  r[t] = 1 / sqrt(mean_i x[t, i]^2 + eps)
//   dx[t, i] = r (w[i] dy[t, i]) - x[t, i] r^3 / C * sum_j w[j] dy[t, j] x[t, j]
//   dw[i]    = sum_t dy[t, i] (x[t, i] r[t])
// Source: arXiv:1910.07467; the forward pass is the engine's, bit for bit.

import { laneDot } from '../../engine/js/math.ts';
import { inverseRms } from '../../engine/js/ops.ts';

const fround = Math.fround;

/** out (T, C) and r (T,), which the backward pass needs. */
export function rmsNormForward(
  x: Float32Array,
  weight: Float32Array,
  eps: number,
  T: number,
  C: number,
  r: Float32Array,
  out: Float32Array,
): void {
  for (let t = 0; t < T; t += 1) {
    const at = t * C;
    const scale = inverseRms(x, at, C, eps);
    r[t] = scale;
    for (let i = 0; i < C; i += 1) out[at + i] = fround(x[at + i]! * scale) * weight[i]!;
  }
}

/** Adds to dx (T, C) and, row after row, to dWeight (C,). dx may not be dy. */
export function rmsNormBackward(
  x: Float32Array,
  weight: Float32Array,
  r: Float32Array,
  dy: Float32Array,
  T: number,
  C: number,
  dx: Float32Array,
  dWeight: Float32Array,
): void {
  const g = new Float32Array(C);
  for (let t = 0; t < T; t += 1) {
    const at = t * C;
    const scale = r[t]!;
    for (let i = 0; i < C; i += 1) g[i] = dy[at + i]! * weight[i]!;
    const cubed = fround(fround(scale * scale) * scale);
    const pull = fround(fround(cubed * laneDot(g, 0, x, at, C)) / C);
    for (let i = 0; i < C; i += 1) {
      dx[at + i] = dx[at + i]! + fround(fround(scale * g[i]!) - fround(x[at + i]! * pull));
      dWeight[i] = dWeight[i]! + fround(dy[at + i]! * fround(x[at + i]! * scale));
    }
  }
}
