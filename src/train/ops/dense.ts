// The output head: a float matrix w (R, C), in tied models the embedding itself. T rows (tokens).
//
//   y[t, r] = sum_c x[t, c] w[r, c]    dx[t, c] = sum_r dy[t, r] w[r, c]    dw[r, c] = sum_t dy[t, r] x[t, c]

import { laneDot } from '../../engine/js/math.ts';

const fround = Math.fround;

/** out (T, R), each a lane sum, as the engine's denseMatmul. */
export function denseForward(
  x: Float32Array,
  w: Float32Array,
  T: number,
  R: number,
  C: number,
  out: Float32Array,
): void {
  for (let t = 0; t < T; t += 1) {
    for (let r = 0; r < R; r += 1) out[t * R + r] = laneDot(x, t * C, w, r * C, C);
  }
}

/** Overwrites dx (T, C); the sum over r runs in order from +0. */
export function denseBackwardInput(
  dy: Float32Array,
  w: Float32Array,
  T: number,
  R: number,
  C: number,
  dx: Float32Array,
): void {
  for (let t = 0; t < T; t += 1) {
    const row = dx.subarray(t * C, t * C + C).fill(0);
    for (let r = 0; r < R; r += 1) {
      const d = dy[t * R + r]!;
      for (let c = 0; c < C; c += 1) row[c] = row[c]! + fround(d * w[r * C + c]!);
    }
  }
}

/** Adds to dWeight (R, C), row after row of the batch. */
export function denseBackwardWeight(
  dy: Float32Array,
  x: Float32Array,
  T: number,
  R: number,
  C: number,
  dWeight: Float32Array,
): void {
  for (let t = 0; t < T; t += 1) {
    for (let r = 0; r < R; r += 1) {
      const d = dy[t * R + r]!;
      for (let c = 0; c < C; c += 1) dWeight[r * C + c] = dWeight[r * C + c]! + fround(d * x[t * C + c]!);
    }
  }
}
