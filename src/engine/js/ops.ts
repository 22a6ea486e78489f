// Every operation of a recorded program, one function each, on plain typed arrays. These define the results; the
// other backends reproduce them bit for bit. T rows (tokens), R rows / C columns of a matrix, H heads, D headDim.
// The caller owns all memory; `out` comes last.

import { expF32, laneDot, laneSum, laneSumAbs, rintF32, sigmoidF32 } from './math.ts';

const fround = Math.fround;
const EPSILON_ABSMAX = fround(1e-5);

/** float32 of a bf16 bit pattern is that pattern in the upper half of the word. */
const word = new Uint32Array(1);
const wordAsFloat = new Float32Array(word.buffer);

function halfToFloat(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? Number.NaN : sign * Infinity;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

/** A dense matrix as its file stores it: float32 words, or the 16-bit patterns of f16 / bf16. */
export type DenseRows =
  | { readonly dtype: 'f32'; readonly values: Float32Array }
  | { readonly dtype: 'f16' | 'bf16'; readonly values: Uint16Array };

/** Row r of a dense (R, C) matrix as float32 into out (C,), which starts at outAt. */
export function denseRow(table: DenseRows, r: number, C: number, out: Float32Array, outAt: number): void {
  const base = r * C;
  if (table.dtype === 'f32') {
    out.set(table.values.subarray(base, base + C), outAt);
  } else if (table.dtype === 'bf16') {
    for (let c = 0; c < C; c += 1) {
      word[0] = table.values[base + c]! << 16;
      out[outAt + c] = wordAsFloat[0]!;
    }
  } else {
    for (let c = 0; c < C; c += 1) out[outAt + c] = halfToFloat(table.values[base + c]!);
  }
}

/** 1 / sqrt(mean of the squares of x[at .. at + C) + eps): what RMSNorm multiplies a row with. */
export function inverseRms(x: Float32Array, at: number, C: number, eps: number): number {
  const mean = fround(laneDot(x, at, x, at, C) / C);
  return fround(1 / fround(Math.sqrt(fround(mean + fround(eps)))));
}

/** RMSNorm of x (T, C) with weight (C,) into out (T, C). Source: arXiv:1910.07467; the order of Hugging Face's Llama. */
export function rmsNorm(
  x: Float32Array,
  weight: Float32Array,
  eps: number,
  T: number,
  C: number,
  out: Float32Array,
): void {
  for (let t = 0; t < T; t += 1) {
    const at = t * C;
    const r = inverseRms(x, at, C, eps);
    for (let i = 0; i < C; i += 1) out[at + i] = fround(x[at + i]! * r) * weight[i]!;
  }
}

/**
 * absmax quantization of x (T, C) to codes (T, C) in -128..127 and scale (T,), so that x is about codes / scale.
 * Returns the first row that holds a NaN or infinity, or -1. Source: arXiv:2402.17764 section 2; ties to even.
 */
export function quantizeRows(x: Float32Array, T: number, C: number, codes: Int8Array, scale: Float32Array): number {
  for (let t = 0; t < T; t += 1) {
    const at = t * C;
    let largest = 0;
    // Math.max keeps a NaN.
    for (let i = 0; i < C; i += 1) largest = Math.max(largest, Math.abs(x[at + i]!));
    if (!(largest < Infinity)) return t;
    const s = fround(127 / Math.max(largest, EPSILON_ABSMAX));
    scale[t] = s;
    for (let i = 0; i < C; i += 1) {
      codes[at + i] = Math.min(rintF32(fround(x[at + i]! * s)), 127);
    }
  }
  return -1;
}

/**
 * out (T, R) = trits (R, C) . codes (T, C), times weightScale / scale[t]. `packed` is `rowquad`: byte [r, c] holds
 * rows r, r + Q, r + 2Q, r + 3Q of column c (Q = ceil(R / 4)), lowest bits first, as trit + 1; so the sum of the codes
 * is taken off once per row. The sums are below 2^25 for C < 2^17, so int32 holds them and float32 their differences.
 */
export function ternaryMatmul(
  packed: Uint8Array,
  weightScale: number,
  codes: Int8Array,
  scale: Float32Array,
  T: number,
  R: number,
  C: number,
  out: Float32Array,
): void {
  const Q = Math.ceil(R / 4);
  for (let t = 0; t < T; t += 1) {
    const x = Int32Array.from(codes.subarray(t * C, t * C + C));
    const factor = fround(fround(weightScale) / scale[t]!);
    let codeSum = 0;
    for (let c = 0; c < C; c += 1) codeSum += x[c]!;
    for (let r = 0; r < Q; r += 1) {
      let row0 = 0;
      let row1 = 0;
      let row2 = 0;
      let row3 = 0;
      // `| 0` and Math.imul keep the loop in integer registers.
      for (let c = 0, at = r * C; c < C; c += 1, at += 1) {
        const byte = packed[at]!;
        const code = x[c]!;
        row0 = (row0 + Math.imul(byte & 3, code)) | 0;
        row1 = (row1 + Math.imul((byte >> 2) & 3, code)) | 0;
        row2 = (row2 + Math.imul((byte >> 4) & 3, code)) | 0;
        row3 = (row3 + Math.imul(byte >> 6, code)) | 0;
      }
      const at = t * R + r;
      out[at] = fround(row0 - codeSum) * factor;
      if (r + Q < R) out[at + Q] = fround(row1 - codeSum) * factor;
      if (r + 2 * Q < R) out[at + 2 * Q] = fround(row2 - codeSum) * factor;
      if (r + 3 * Q < R) out[at + 3 * Q] = fround(row3 - codeSum) * factor;
    }
  }
}

/** RMSNorm of each of the H heads of x (T, H, D) with the one weight (D,) into out. Source: Qwen3 (transformers). */
export function rmsNormHeads(
  x: Float32Array,
  weight: Float32Array,
  eps: number,
  T: number,
  H: number,
  D: number,
  out: Float32Array,
): void {
  // Heads lie one behind the other, as rows do.
  rmsNorm(x, weight, eps, T * H, D, out);
}

const MOST_CODE16 = 32639;

/**
 * Rounds x (T, C) to codes (T, C) in -32639..32639 and scale (T,), so that x is about codes * scale. Returns the first
 * row that holds a NaN or infinity, or -1. A row of zeros, or one whose 32639 / max is not finite, gets the scale 0.
 */
export function quantizeRows16(x: Float32Array, T: number, C: number, codes: Int16Array, scale: Float32Array): number {
  for (let t = 0; t < T; t += 1) {
    const at = t * C;
    let largest = 0;
    for (let i = 0; i < C; i += 1) largest = Math.max(largest, Math.abs(x[at + i]!));
    if (!(largest < Infinity)) return t;
    const s = fround(MOST_CODE16 / largest);
    if (!(s < Infinity)) {
      scale[t] = 0;
      codes.fill(0, at, at + C);
      continue;
    }
    scale[t] = fround(largest / MOST_CODE16);
    for (let i = 0; i < C; i += 1) {
      const code = rintF32(fround(x[at + i]! * s));
      codes[at + i] = Math.max(-MOST_CODE16, Math.min(code, MOST_CODE16));
    }
  }
  return -1;
}

/** A grouped matrix (R, C): `panel64` bytes (kernels/include/layouts.h), and its scales [panel, group, 64]. */
export type GroupedRows = {
  readonly bytes: Uint8Array;
  readonly columns: number;
  readonly group: number;
  readonly scales:
    | { readonly type: 'f16'; readonly values: Uint16Array }
    | { readonly type: 'f32'; readonly values: Float32Array };
};

const PANEL_ROWS = 64;

function groupScale({ scales, columns, group }: GroupedRows, r: number, g: number): number {
  const at = (Math.floor(r / PANEL_ROWS) * (columns / group) + g) * PANEL_ROWS + (r % PANEL_ROWS);
  return scales.type === 'f32' ? scales.values[at]! : halfToFloat(scales.values[at]!);
}

/** Codes 0..3 of row r into out (C,). Row r of a panel is lane r mod 16 of the field r div 16. */
function groupedCodes({ bytes, columns }: GroupedRows, r: number, out: Uint8Array): void {
  const inPanel = r % PANEL_ROWS;
  const shift = 2 * (inPanel >> 4);
  const base = Math.floor(r / PANEL_ROWS) * Math.ceil(columns / 4) * 64 + 4 * (inPanel & 15);
  for (let c = 0; c < columns; c += 1) out[c] = (bytes[base + (c >> 2) * 64 + (c & 3)]! >> shift) & 3;
}

/** Row r of a grouped matrix (R, C) as float32 into out (C,), which starts at outAt. `codes` is scratch (C,). */
export function groupedRow(table: GroupedRows, r: number, codes: Uint8Array, out: Float32Array, outAt: number): void {
  groupedCodes(table, r, codes);
  const { columns, group } = table;
  for (let g = 0; g * group < columns; g += 1) {
    const scale = groupScale(table, r, g);
    for (let c = g * group; c < (g + 1) * group; c += 1) out[outAt + c] = scale * (codes[c]! - 1);
  }
}

/**
 * out (T, R) = (codes of the matrix - 1) . codes (T, C), group by group: each group's integer sum as a float, times its
 * scale, added in order; times scale[t] at the end. Sums are below 2^31 for groups of up to 32768 columns. `row` is
 * scratch (C,).
 */
export function groupedMatmul(
  table: GroupedRows,
  codes: Int16Array,
  scale: Float32Array,
  T: number,
  R: number,
  row: Uint8Array,
  out: Float32Array,
): void {
  const { columns: C, group } = table;
  for (let r = 0; r < R; r += 1) {
    groupedCodes(table, r, row);
    for (let t = 0; t < T; t += 1) {
      let total = 0;
      for (let g = 0, c = 0; c < C; g += 1) {
        let sum = 0;
        for (const end = c + group; c < end; c += 1) sum = (sum + Math.imul(row[c]! - 1, codes[t * C + c]!)) | 0;
        total = fround(total + fround(fround(sum) * groupScale(table, r, g)));
      }
      out[t * R + r] = total * scale[t]!;
    }
  }
}

/**
 * Rotates the first N elements of each head of x (T, H, D) in place; row t by its position's cos and sin
 * (positions, N/2). Source: arXiv:2104.09864.
 */
export function rope(
  x: Float32Array,
  positions: Int32Array,
  cos: Float32Array,
  sin: Float32Array,
  T: number,
  H: number,
  D: number,
  N = D,
): void {
  const half = N / 2;
  for (let t = 0; t < T; t += 1) {
    const table = positions[t]! * half;
    for (let h = 0; h < H; h += 1) {
      const at = (t * H + h) * D;
      for (let j = 0; j < half; j += 1) {
        const c = cos[table + j]!;
        const s = sin[table + j]!;
        const a = x[at + j]!;
        const b = x[at + half + j]!;
        x[at + j] = fround(a * c) - fround(b * s);
        x[at + half + j] = fround(b * c) + fround(a * s);
      }
    }
  }
}

/** Absolute positions whose exponentials and values are summed before they join the rest; see EXACTNESS. */
export const ATTENTION_BLOCK = 64;

/**
 * One row of causal attention: q (H, D) against keys and values (positions, kvHeads, D) first..end-1, into out (H, D).
 * `scores` is scratch of at least `end - first`, `block` of D. Source: arXiv:1706.03762; grouped heads: arXiv:2305.13245.
 */
export function attentionRow(
  q: Float32Array,
  qAt: number,
  keys: Float32Array,
  values: Float32Array,
  first: number,
  end: number,
  heads: number,
  kvHeads: number,
  D: number,
  scale: number,
  scores: Float32Array,
  block: Float32Array,
  out: Float32Array,
  outAt: number,
): void {
  const group = heads / kvHeads;
  const width = kvHeads * D;
  for (let h = 0; h < heads; h += 1) {
    const head = Math.floor(h / group) * D;
    let largest = -Infinity;
    for (let j = first; j < end; j += 1) {
      const score = fround(laneDot(q, qAt + h * D, keys, j * width + head, D) * scale);
      scores[j - first] = score;
      largest = Math.max(largest, score);
    }
    for (let j = first; j < end; j += 1) scores[j - first] = expF32(fround(scores[j - first]! - largest));
    const to = outAt + h * D;
    out.fill(0, to, to + D);
    let total = 0;
    for (let start = first; start < end; ) {
      const stop = Math.min(end, (Math.floor(start / ATTENTION_BLOCK) + 1) * ATTENTION_BLOCK);
      total = fround(total + laneSum(scores, start - first, stop - start));
      block.fill(0, 0, D);
      for (let j = start; j < stop; j += 1) {
        const weight = scores[j - first]!;
        const from = j * width + head;
        for (let d = 0; d < D; d += 1) block[d] = block[d]! + fround(weight * values[from + d]!);
      }
      for (let d = 0; d < D; d += 1) out[to + d] = out[to + d]! + block[d]!;
      start = stop;
    }
    for (let d = 0; d < D; d += 1) out[to + d] = out[to + d]! / total;
  }
}

/** out = max(gate, 0)^2 * up, elementwise. Source: BitNet b1.58 2B4T (arXiv:2504.12285), squared ReLU of Primer. */
export function relu2Gate(gate: Float32Array, up: Float32Array, n: number, out: Float32Array): void {
  for (let i = 0; i < n; i += 1) {
    // Math.max keeps a NaN, so that the next quantization reports it.
    const g = Math.max(gate[i]!, 0);
    out[i] = fround(g * g) * up[i]!;
  }
}

/** out = silu(gate) * up, elementwise; silu(x) = x / (1 + exp(-x)). Source: arXiv:2002.05202 (SwiGLU). */
export function siluGate(gate: Float32Array, up: Float32Array, n: number, out: Float32Array): void {
  for (let i = 0; i < n; i += 1) {
    const g = gate[i]!;
    out[i] = fround(g / fround(1 + expF32(-g))) * up[i]!;
  }
}

/** out = sigmoid(gate) * up, elementwise: the output gate of Qwen3.5's attention. */
export function sigmoidGate(gate: Float32Array, up: Float32Array, n: number, out: Float32Array): void {
  for (let i = 0; i < n; i += 1) out[i] = sigmoidF32(gate[i]!) * up[i]!;
}

/** out = silu(min(gate, limit)) * clamp(up, -limit, limit), elementwise: Maple's experts. */
export function clampedSiluGate(
  gate: Float32Array,
  up: Float32Array,
  limit: number,
  n: number,
  out: Float32Array,
): void {
  for (let i = 0; i < n; i += 1) {
    const g = Math.min(gate[i]!, limit);
    out[i] = fround(g / fround(1 + expF32(-g))) * Math.min(Math.max(up[i]!, -limit), limit);
  }
}

/** x += y over n elements. */
export function addInPlace(x: Float32Array, y: Float32Array, n: number): void {
  for (let i = 0; i < n; i += 1) x[i] = x[i]! + y[i]!;
}

/** out (T, R) = x (T, C) . table (R, C), each a lane sum. `row` is scratch (C,). */
export function denseMatmul(
  x: Float32Array,
  table: DenseRows,
  T: number,
  R: number,
  C: number,
  row: Float32Array,
  out: Float32Array,
): void {
  for (let r = 0; r < R; r += 1) {
    denseRow(table, r, C, row, 0);
    for (let t = 0; t < T; t += 1) out[t * R + r] = laneDot(x, t * C, row, 0, C);
  }
}

/** out (T, R) = codes (T, C) . table codes (R, C), times rowScale[r] / scale[t]. */
export function int8Matmul(
  codes: Int8Array,
  scale: Float32Array,
  table: Int8Array,
  rowScale: Float32Array,
  T: number,
  R: number,
  C: number,
  out: Float32Array,
): void {
  for (let t = 0; t < T; t += 1) {
    for (let r = 0; r < R; r += 1) {
      let sum = 0;
      for (let c = 0; c < C; c += 1) sum += codes[t * C + c]! * table[r * C + c]!;
      out[t * R + r] = fround(sum) * fround(rowScale[r]! / scale[t]!);
    }
  }
}

/**
 * Counts the trits of each row of x (T, C) by the absmean rule into counts[t * stride + at + 0..2] = minus, zero, plus.
 * Source of the rule: arXiv:2402.17764 section 2, there for weights.
 */
export function countTrits(
  x: Float32Array,
  T: number,
  C: number,
  counts: Int32Array,
  stride: number,
  at: number,
): void {
  for (let t = 0; t < T; t += 1) {
    const mean = fround(laneSumAbs(x, t * C, C) / C);
    const s = fround(1 / Math.max(mean, EPSILON_ABSMAX));
    let minus = 0;
    let plus = 0;
    for (let i = 0; i < C; i += 1) {
      const scaled = fround(x[t * C + i]! * s);
      // Half to even: exactly +-0.5 is the trit 0.
      if (scaled > 0.5) plus += 1;
      else if (scaled < -0.5) minus += 1;
    }
    counts[t * stride + at] = minus;
    counts[t * stride + at + 1] = C - minus - plus;
    counts[t * stride + at + 2] = plus;
  }
}
