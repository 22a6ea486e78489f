// The operations of hybrid and mixture models (Qwen3.5's gated delta net, rotated weights, experts); see engine/program.ts
// for what each computes and in which order.

import { expF32, laneDot, laneSum, sigmoidF32, softplusF32 } from './math.ts';

const fround = Math.fround;

/**
 * In place: the Walsh-Hadamard transform of x[at..at + n), block by block, normalized. Source: Sylvester's construction.
 * `block` is a power of two that divides n.
 */
export function walshHadamard(x: Float32Array, at: number, n: number, block: number): void {
  const norm = fround(1 / Math.sqrt(block));
  for (let base = at; base < at + n; base += block) {
    for (let stride = 1; stride < block; stride *= 2) {
      for (let i = base; i < base + block; i += 2 * stride) {
        for (let j = i; j < i + stride; j += 1) {
          const a = x[j]!;
          const b = x[j + stride]!;
          x[j] = a + b;
          x[j + stride] = a - b;
        }
      }
    }
  }
  for (let i = at; i < at + n; i += 1) x[i] = x[i]! * norm;
}

/** Where heads of headDim elements go: r * keyHeads + k to k * (width / (keyHeads * headDim)) + r. */
export type HeadMove = { readonly keyHeads: number; readonly headDim: number };

/** Rows x (T, C) into out (T, C): H(signs * P(x)); P is the identity without `move`. */
export function rotateForward(
  x: Float32Array,
  signs: Float32Array,
  block: number,
  move: HeadMove | undefined,
  T: number,
  C: number,
  out: Float32Array,
): void {
  for (let t = 0; t < T; t += 1) {
    const at = t * C;
    if (move === undefined) {
      for (let i = 0; i < C; i += 1) out[at + i] = x[at + i]!;
    } else {
      const { keyHeads, headDim } = move;
      const heads = C / headDim;
      const repeats = heads / keyHeads;
      for (let h = 0; h < heads; h += 1) {
        const to = (h % keyHeads) * repeats + Math.floor(h / keyHeads);
        for (let d = 0; d < headDim; d += 1) out[at + to * headDim + d] = x[at + h * headDim + d]!;
      }
    }
    for (let i = 0; i < C; i += 1) out[at + i] = out[at + i]! * signs[i]!;
    walshHadamard(out, at, C, block);
  }
}

/** Rows x (T, C) into out (T, C): signs * H(x). */
export function rotateBack(
  x: Float32Array,
  signs: Float32Array,
  block: number,
  T: number,
  C: number,
  out: Float32Array,
): void {
  if (out !== x) out.set(x.subarray(0, T * C));
  for (let t = 0; t < T; t += 1) {
    walshHadamard(out, t * C, C, block);
    for (let i = 0; i < C; i += 1) out[t * C + i] = out[t * C + i]! * signs[i]!;
  }
}

/** x (T, H, [first D, second D]) into first (T, H, D) and second (T, H, D). */
export function splitHeads(
  x: Float32Array,
  T: number,
  H: number,
  D: number,
  first: Float32Array,
  second: Float32Array,
): void {
  for (let head = 0; head < T * H; head += 1) {
    first.set(x.subarray(2 * head * D, (2 * head + 1) * D), head * D);
    second.set(x.subarray((2 * head + 1) * D, (2 * head + 2) * D), head * D);
  }
}

/**
 * Rows x [from, to) of one sequence (each C wide) into out: silu of the causal convolution with weight [taps, C].
 * `state` holds the taps - 1 rows before, oldest first, and then those of the last rows.
 */
export function causalConv(
  x: Float32Array,
  from: number,
  to: number,
  C: number,
  weight: Float32Array,
  taps: number,
  state: Float32Array,
  out: Float32Array,
): void {
  const past = taps - 1;
  /** Input of channel c, `back` rows before row t. */
  const input = (t: number, back: number, c: number) =>
    t - back >= from ? x[(t - back) * C + c]! : state[(past + t - back - from) * C + c]!;
  for (let t = from; t < to; t += 1) {
    for (let c = 0; c < C; c += 1) {
      let u = 0;
      for (let j = 0; j < taps; j += 1) u = fround(u + fround(weight[j * C + c]! * input(t, past - j, c)));
      out[t * C + c] = u / fround(1 + expF32(-u));
    }
  }
  const last = Float32Array.from({ length: past * C }, (_, i) => input(to - 1, past - 1 - Math.floor(i / C), i % C));
  state.set(last);
}

/** In place on heads of x (T, width) from column `offset`: each divided by its length, times `scale`. */
export function l2NormHeads(
  x: Float32Array,
  T: number,
  width: number,
  offset: number,
  H: number,
  D: number,
  eps: number,
  scale: number,
): void {
  for (let t = 0; t < T; t += 1) {
    for (let h = 0; h < H; h += 1) {
      const at = t * width + offset + h * D;
      const r = fround(1 / fround(Math.sqrt(fround(laneDot(x, at, x, at, D) + eps))));
      for (let d = 0; d < D; d += 1) x[at + d] = fround(x[at + d]! * r) * scale;
    }
  }
}

export type DeltaShape = {
  readonly keyHeads: number;
  readonly valueHeads: number;
  readonly headDim: number;
  readonly order: 'tiled' | 'grouped';
};

/**
 * Rows [from, to) of one sequence. x (T, (2 keyHeads + valueHeads) D): q, k, v; beta and alpha (T, valueHeads);
 * state [valueHeads, D key, D value], moved on; out (T, valueHeads * D).
 */
export function gatedDelta(
  x: Float32Array,
  from: number,
  to: number,
  beta: Float32Array,
  alpha: Float32Array,
  decay: Float32Array,
  bias: Float32Array,
  { keyHeads, valueHeads, headDim: D, order }: DeltaShape,
  state: Float32Array,
  out: Float32Array,
): void {
  const width = (2 * keyHeads + valueHeads) * D;
  const delta = new Float32Array(D);
  for (let h = 0; h < valueHeads; h += 1) {
    const keyHead = order === 'tiled' ? h % keyHeads : Math.floor(h / (valueHeads / keyHeads));
    const S = state.subarray(h * D * D, (h + 1) * D * D);
    for (let t = from; t < to; t += 1) {
      const q = t * width + keyHead * D;
      const k = q + keyHeads * D;
      const v = t * width + (2 * keyHeads + h) * D;
      const gate = t * valueHeads + h;
      const b = sigmoidF32(beta[gate]!);
      const g = expF32(fround(decay[h]! * softplusF32(fround(alpha[gate]! + bias[h]!))));
      delta.fill(0);
      for (let i = 0; i < D; i += 1) {
        for (let j = 0; j < D; j += 1) {
          const decayed = fround(g * S[i * D + j]!);
          S[i * D + j] = decayed;
          delta[j] = delta[j]! + fround(decayed * x[k + i]!);
        }
      }
      for (let j = 0; j < D; j += 1) delta[j] = b * fround(x[v + j]! - delta[j]!);
      const o = (t * valueHeads + h) * D;
      out.fill(0, o, o + D);
      for (let i = 0; i < D; i += 1) {
        for (let j = 0; j < D; j += 1) {
          const updated = fround(S[i * D + j]! + fround(x[k + i]! * delta[j]!));
          S[i * D + j] = updated;
          out[o + j] = out[o + j]! + fround(updated * x[q + i]!);
        }
      }
    }
  }
}

/**
 * For each row of logits (T, E) its K largest, in falling order, equal ones by rising index, into experts (T, K) with their
 * share of the softmax among them, weights (T, K). Returns the first row that holds NaN or infinity, or -1.
 */
export function routeExperts(
  logits: Float32Array,
  T: number,
  E: number,
  K: number,
  least: number,
  experts: Int32Array,
  weights: Float32Array,
): number {
  const e = new Float32Array(E);
  for (let t = 0; t < T; t += 1) {
    const row = logits.subarray(t * E, (t + 1) * E);
    let largest = -Infinity;
    for (const logit of row) {
      if (!Number.isFinite(logit)) return t;
      largest = Math.max(largest, logit);
    }
    for (let i = 0; i < E; i += 1) e[i] = expF32(fround(row[i]! - largest));
    const total = laneSum(e, 0, E);
    const chosen = Array.from(row.keys())
      .sort((a, b) => row[b]! - row[a]! || a - b)
      .slice(0, K);
    let sum = 0;
    const shares = chosen.map((expert) => fround(e[expert]! / total));
    for (const share of shares) sum = fround(sum + share);
    const divisor = Math.max(sum, least);
    chosen.forEach((expert, i) => {
      experts[t * K + i] = expert;
      weights[t * K + i] = shares[i]! / divisor;
    });
  }
  return -1;
}

/** x (T, C) += sum over the K choices of weights (T, K) * y (T * K, C), in their order from +0. */
export function addExperts(
  x: Float32Array,
  y: Float32Array,
  weights: Float32Array,
  T: number,
  K: number,
  C: number,
): void {
  for (let t = 0; t < T; t += 1) {
    for (let c = 0; c < C; c += 1) {
      let sum = 0;
      for (let i = 0; i < K; i += 1) sum = fround(sum + fround(weights[t * K + i]! * y[(t * K + i) * C + c]!));
      x[t * C + c] = x[t * C + c]! + sum;
    }
  }
}
