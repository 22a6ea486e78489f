// BitLinear with straight-through quantizers. T rows (tokens), R rows / C columns of the weight.
//
//   codes, scale = absmax(x)    trits, m = absmean(w)
//   y[t, r]  = (sum_c codes[t, c] trits[r, c]) * (m / scale[t])
//   dx[t, c] = m * sum_r dy[t, r] trits[r, c]
//   dw[r, c] = sum_t dy[t, r] (codes[t, c] / scale[t])
// Both quantizers let the gradient pass unchanged, to every latent, and no gradient goes through m or scale; the other
// operand is the quantized one. Source: arXiv:2402.17764 section 2, arXiv:2310.11453 section 2.2.
//
// The products of the first two sums need no rounding (integers; a float times -1, 0 or 1), so a fused multiply-add
// gives the same bits there. The third rounds the product, then the sum.

import { absmeanScale, ternarize } from '../../quant/absmean.ts';

const fround = Math.fround;

export type LatentMatrix = {
  readonly name: string;
  readonly w: Float32Array;
  /** As long as w; overwritten. */
  readonly trits: Int8Array;
};

/** Takes the trits of latent matrices; returns their scales m. Refuses NaN and infinity. */
export function quantizeMatrices(matrices: readonly LatentMatrix[]): number[] {
  return matrices.map(({ name, w, trits }) => {
    const scale = absmeanScale(w, name);
    ternarize(w, scale, trits);
    return scale;
  });
}

/** out (T, R), as the engine's ternaryMatmul. */
export function bitLinearForward(
  codes: Int8Array,
  scale: Float32Array,
  trits: Int8Array,
  weightScale: number,
  T: number,
  R: number,
  C: number,
  out: Float32Array,
): void {
  const m = fround(weightScale);
  for (let t = 0; t < T; t += 1) {
    const factor = fround(m / scale[t]!);
    for (let r = 0; r < R; r += 1) {
      let sum = 0;
      for (let c = 0; c < C; c += 1) sum += codes[t * C + c]! * trits[r * C + c]!;
      // + 0: an integer sum has no -0.
      out[t * R + r] = fround(sum + 0) * factor;
    }
  }
}

/** Adds to dx (T, C); the sum over r runs in order from +0. */
export function bitLinearBackwardInput(
  dy: Float32Array,
  trits: Int8Array,
  weightScale: number,
  T: number,
  R: number,
  C: number,
  dx: Float32Array,
): void {
  const m = fround(weightScale);
  const sum = new Float32Array(C);
  for (let t = 0; t < T; t += 1) {
    sum.fill(0);
    for (let r = 0; r < R; r += 1) {
      const d = dy[t * R + r]!;
      for (let c = 0; c < C; c += 1) sum[c] = sum[c]! + d * trits[r * C + c]!;
    }
    for (let c = 0; c < C; c += 1) dx[t * C + c] = dx[t * C + c]! + fround(sum[c]! * m);
  }
}

/** Adds to dWeight (R, C), row after row of the batch: two halves of a batch in turn give the bits of the whole. */
export function bitLinearBackwardWeight(
  dy: Float32Array,
  codes: Int8Array,
  scale: Float32Array,
  T: number,
  R: number,
  C: number,
  dWeight: Float32Array,
): void {
  const x = new Float32Array(C);
  for (let t = 0; t < T; t += 1) {
    for (let c = 0; c < C; c += 1) x[c] = codes[t * C + c]! / scale[t]!;
    for (let r = 0; r < R; r += 1) {
      const d = dy[t * R + r]!;
      for (let c = 0; c < C; c += 1) dWeight[r * C + c] = dWeight[r * C + c]! + fround(d * x[c]!);
    }
  }
}
