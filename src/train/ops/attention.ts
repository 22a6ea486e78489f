// Causal attention with grouped heads over whole sequences, and its gradient. Sequence i of a batch is the rows
// starts[i] .. starts[i + 1] - 1 and sees only itself. H query heads, G key/value heads, D head dimension.
//
//   e_j = exp(q . k_j * scale - max),  o = (sum_j e_j v_j) / (sum_j e_j),  p_j = e_j / sum e
//   ds_j = p_j (do . v_j - do . o) * scale;  dq += ds_j k_j;  dk_j += ds_j q;  dv_j += p_j do
// Weights are computed again in the backward pass rather than kept: they take memory by the square of the length.
// Source: arXiv:1706.03762, arXiv:2305.13245; the recomputation: arXiv:2205.14135.

import { expF32, laneDot, laneSum } from '../../engine/js/math.ts';

const fround = Math.fround;

export type AttentionShape = {
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  /** float32 value of D^-0.5. */
  readonly scale: number;
};

/**
 * q (T, H, D), k and v (T, G, D) to out (T, H, D). The engine's attention, but for the order of sums over more than 64
 * keys: here they are one laneSum and one run of values.
 */
export function attentionForward(
  q: Float32Array,
  k: Float32Array,
  v: Float32Array,
  starts: Int32Array,
  shape: AttentionShape,
  out: Float32Array,
): void {
  const { heads, kvHeads, headDim: D } = shape;
  const width = heads * D;
  const kvWidth = kvHeads * D;
  for (let i = 0; i + 1 < starts.length; i += 1) {
    const start = starts[i]!;
    const end = starts[i + 1]!;
    const keys = k.subarray(start * kvWidth, end * kvWidth);
    const values = v.subarray(start * kvWidth, end * kvWidth);
    const scores = new Float32Array(end - start);
    for (let t = start; t < end; t += 1) {
      const row = (all: Float32Array) => all.subarray(t * width, (t + 1) * width);
      attentionRow(row(q), keys, values, t - start + 1, shape, scores, row(out));
    }
  }
}

/** One row: q (H, D) against `count` keys and values (count, kvHeads, D), into out (H, D). `scores`: scratch of `count`. */
function attentionRow(
  q: Float32Array,
  keys: Float32Array,
  values: Float32Array,
  count: number,
  { heads, kvHeads, headDim: D, scale }: AttentionShape,
  scores: Float32Array,
  out: Float32Array,
): void {
  const group = heads / kvHeads;
  const width = kvHeads * D;
  out.fill(0);
  for (let h = 0; h < heads; h += 1) {
    const head = Math.floor(h / group) * D;
    let largest = -Infinity;
    for (let j = 0; j < count; j += 1) {
      scores[j] = laneDot(q, h * D, keys, j * width + head, D) * scale;
      largest = Math.max(largest, scores[j]!);
    }
    for (let j = 0; j < count; j += 1) scores[j] = expF32(fround(scores[j]! - largest));
    const total = laneSum(scores, 0, count);
    for (let j = 0; j < count; j += 1) {
      const weight = scores[j]!;
      const from = j * width + head;
      for (let d = 0; d < D; d += 1) out[h * D + d] = out[h * D + d]! + fround(weight * values[from + d]!);
    }
    for (let d = 0; d < D; d += 1) out[h * D + d] = out[h * D + d]! / total;
  }
}

/** Overwrites dq (T, H, D), dk and dv (T, G, D). dk and dv add up by query head, then by row. */
export function attentionBackward(
  q: Float32Array,
  k: Float32Array,
  v: Float32Array,
  out: Float32Array,
  dOut: Float32Array,
  starts: Int32Array,
  shape: AttentionShape,
  dq: Float32Array,
  dk: Float32Array,
  dv: Float32Array,
): void {
  const { heads, kvHeads, headDim: D, scale } = shape;
  const group = heads / kvHeads;
  const width = heads * D;
  const kvWidth = kvHeads * D;
  const rows = starts[starts.length - 1]!;
  dq.fill(0, 0, rows * width);
  dk.fill(0, 0, rows * kvWidth);
  dv.fill(0, 0, rows * kvWidth);
  for (let i = 0; i + 1 < starts.length; i += 1) {
    const start = starts[i]!;
    const e = new Float32Array(starts[i + 1]! - start);
    for (let h = 0; h < heads; h += 1) {
      const keyHead = Math.floor(h / group) * D;
      for (let t = start; t < starts[i + 1]!; t += 1) {
        const at = t * width + h * D;
        const count = t - start + 1;
        let largest = -Infinity;
        for (let j = 0; j < count; j += 1) {
          e[j] = laneDot(q, at, k, (start + j) * kvWidth + keyHead, D) * scale;
          largest = Math.max(largest, e[j]!);
        }
        for (let j = 0; j < count; j += 1) e[j] = expF32(fround(e[j]! - largest));
        const total = laneSum(e, 0, count);
        const mean = laneDot(dOut, at, out, at, D);
        for (let j = 0; j < count; j += 1) {
          const key = (start + j) * kvWidth + keyHead;
          const p = fround(e[j]! / total);
          const ds = fround(fround(p * fround(laneDot(dOut, at, v, key, D) - mean)) * scale);
          for (let d = 0; d < D; d += 1) {
            dv[key + d] = dv[key + d]! + fround(p * dOut[at + d]!);
            dk[key + d] = dk[key + d]! + fround(ds * q[at + d]!);
            dq[at + d] = dq[at + d]! + fround(ds * k[key + d]!);
          }
        }
      }
    }
  }
}
