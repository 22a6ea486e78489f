// The two optimizers' updates of one tensor, elementwise, and the norm that clipping needs. Every constant arrives as
// float32; each operation rounds once.

import { LANES } from '../../engine/js/math.ts';

const fround = Math.fround;

/** p <- p * keep - lr * (g * gradScale); keep = 1 - lr * decay. */
export function sgdUpdate(
  p: Float32Array,
  g: Float32Array,
  constants: { readonly lr: number; readonly keep: number; readonly gradScale: number },
): void {
  const lr = fround(constants.lr);
  const keep = fround(constants.keep);
  const gradScale = fround(constants.gradScale);
  for (let i = 0; i < p.length; i += 1) p[i] = fround(p[i]! * keep) - fround(lr * fround(g[i]! * gradScale));
}

export type AdamWConstants = {
  readonly beta1: number;
  readonly beta2: number;
  readonly eps: number;
  /** 1 - lr * decay. */
  readonly keep: number;
  /** lr / (1 - beta1^step). */
  readonly stepSize: number;
  /** 1 / sqrt(1 - beta2^step). */
  readonly secondScale: number;
  readonly gradScale: number;
};

/**
 * AdamW with decoupled decay: m <- b1 m + (1 - b1) g; v <- b2 v + (1 - b2) g^2;
 * p <- p keep - stepSize m / (sqrt(v) secondScale + eps). Source: arXiv:1711.05101, algorithm 2.
 */
export function adamWUpdate(
  p: Float32Array,
  g: Float32Array,
  m: Float32Array,
  v: Float32Array,
  constants: AdamWConstants,
): void {
  const beta1 = fround(constants.beta1);
  const beta2 = fround(constants.beta2);
  const rest1 = fround(1 - constants.beta1);
  const rest2 = fround(1 - constants.beta2);
  const eps = fround(constants.eps);
  const keep = fround(constants.keep);
  const stepSize = fround(constants.stepSize);
  const secondScale = fround(constants.secondScale);
  const gradScale = fround(constants.gradScale);
  for (let i = 0; i < p.length; i += 1) {
    const grad = fround(g[i]! * gradScale);
    const first = fround(fround(m[i]! * beta1) + fround(grad * rest1));
    const second = fround(fround(v[i]! * beta2) + fround(fround(grad * grad) * rest2));
    m[i] = first;
    v[i] = second;
    const root = fround(fround(fround(Math.sqrt(second)) * secondScale) + eps);
    p[i] = fround(p[i]! * keep) - fround(stepSize * fround(first / root));
  }
}

/** Sum of x[i]^2 in double, in the lane order of `laneSum`. */
export function sumSquares(x: Float32Array): number {
  const lanes = new Float64Array(LANES);
  for (let i = 0; i < x.length; i += 1) lanes[i % LANES] = lanes[i % LANES]! + x[i]! * x[i]!;
  for (let half = LANES / 2; half >= 1; half /= 2) {
    for (let i = 0; i < half; i += 1) lanes[i] = lanes[i]! + lanes[i + half]!;
  }
  return lanes[0]!;
}
