// A model's forward pass as data: a flat list of operations over named buffers, recorded once by `model/` and
// replayed by a backend for every step. `engine/js/` interprets it and is the readable specification of every
// operation; a faster backend is right when its logits equal those bit for bit (see EXACTNESS below).
//
// B sequences, T rows (tokens) of a step, R rows / C columns of a matrix, H heads, D head dimension, V vocabulary, E experts,
// K of them chosen for a token.
//
// EXACTNESS. All floats are float32 with one rounding per operation (no fused multiply-add); numbers of an operation (eps,
// scale, limit, least) are rounded to float32 first.
// - Integer sums (ternary x int8, int8 x int8, codes x int16 within a group) are exact, so their order is free.
// - A group-scaled product adds its groups in order, from column 0 upward, starting from +0: each group's integer sum
//   becomes a float (half to even), is multiplied by the group's scale, then added; the row's activation scale comes last.
// - A float sum over a vector (`laneSum`) runs in 16 lanes: lane i adds elements i, i+16, ... in order, starting from
//   +0; then lanes 8..15 are added to 0..7, 4..7 to 0..3, 2..3 to 0..1, and lane 1 to lane 0.
// - Attention takes the maximum over all its keys, then works in blocks of 64 absolute positions (0..63, 64..127, ...):
//   within a block the exponentials are a laneSum over the block's keys, counted from the first of them that is seen, and
//   the weighted values are added one key after the other, upward, per dimension, from +0. The blocks' sums are added one
//   after the other, upward, from +0.
// - A rotation (`hadamard`) goes through strides 1, 2, 4, ... (a, b) -> (a + b, a - b), then multiplies once.
// - A convolution adds its taps from the oldest input to the newest, from +0.
// - The delta rule sums over the key dimension from 0 upward, from +0, per value dimension.
// - The outputs of experts are added in the order in which they were chosen, from +0, then to the residual stream.
// - exp is `expF32` and log(1 + exp) `softplusF32` of `engine/js/math.ts`: the same polynomials in multiply, add and divide
//   everywhere.
// - Rounding to integers is half to even.
// An operation may write where it reads only as said: rmsNorm, rmsNormHeads and gatedActivation may have out equal to x
// or gate, hadamard equal to x unless it moves heads.
// A row's result depends on that row and on its sequence's state only (KV cache, recurrent states), so neither the thread
// count, nor how a prompt is cut into chunks, nor which other sequences share a step can change a bit.

/**
 * Rows of a buffer: one per token of the step, one per row whose logits were asked for, or `Program.choices` per token (row
 * t * choices + i is token t's expert i).
 */
export type RowCount = 'tokens' | 'outputs' | 'choices';

export type BufferSpec = {
  readonly name: string;
  readonly dtype: 'f32' | 'i8' | 'i16' | 'i32';
  readonly rows: RowCount;
  /** Elements in one row. */
  readonly width: number;
  /** Of an `i16` buffer: columns of a group of the matrices that read it; divides `width`. */
  readonly group?: number | undefined;
};

/** Ternary matrix [rows, columns], packed as the file had it: w = scale * trit. */
export type TernaryWeight = {
  readonly kind: 'ternary';
  readonly name: string;
  readonly rows: number;
  readonly columns: number;
  readonly layout: 'rowquad';
  /** `rowquad`: ceil(rows/4) * columns bytes; no code 3 in a used field. */
  readonly bytes: Uint8Array;
  /** Always multiplied; finite and > 0. */
  readonly scale: number;
};

/**
 * Matrix [rows, columns] of codes 0..3 (-1, 0, +1, +2), each row with one scale for every `group` consecutive columns:
 * w = scale * (code - 1). Source: ggml's Q2_0 and its relatives. With `experts`, as many matrices of that shape, one after
 * the other in `bytes` and in `scales`, each padded to whole panels.
 */
export type GroupedWeight = {
  readonly kind: 'grouped';
  readonly name: string;
  readonly rows: number;
  readonly columns: number;
  /** Matrices; 1 where absent. */
  readonly experts?: number | undefined;
  /** Columns that share a scale; divides `columns`. */
  readonly group: number;
  /** See the diagram in kernels/include/layouts.h. */
  readonly layout: 'panel64';
  /** experts * ceil(rows/64) * ceil(columns/4) * 64 bytes; what lies past the last row or column is code 1. */
  readonly bytes: Uint8Array;
  /** Of `scales`: f16 where every scale is one. */
  readonly scaleType: 'f16' | 'f32';
  /** [expert, panel, group, row of the panel] little endian; finite, 0 past the last row. */
  readonly scales: Uint8Array;
};

/** Dense matrix [rows, columns], row-major: the embedding and an unquantized head. */
export type DenseWeight = {
  readonly kind: 'dense';
  readonly name: string;
  readonly rows: number;
  readonly columns: number;
  readonly dtype: 'f32' | 'f16' | 'bf16';
  /** rows * columns elements, little endian; may be unaligned. */
  readonly bytes: Uint8Array;
};

/** int8 matrix [rows, columns] with one scale per row: w[r, c] = rowScale[r] * code. */
export type Int8Weight = {
  readonly kind: 'int8';
  readonly name: string;
  readonly rows: number;
  readonly columns: number;
  readonly codes: Int8Array;
  readonly rowScale: Float32Array;
};

/** A vector (norm weights), already float32. */
export type VectorWeight = {
  readonly kind: 'vector';
  readonly name: string;
  readonly values: Float32Array;
};

export type Weight = TernaryWeight | GroupedWeight | DenseWeight | Int8Weight | VectorWeight;

/** Index into `Program.buffers` / `Program.weights`. */
export type BufferId = number;
export type WeightId = number;

export type Op =
  /** out[t] = table row of the step's token t, as float32. */
  | { readonly op: 'embed'; readonly table: WeightId; readonly out: BufferId }
  /** out[t, c] = scale * float(code - 1) of the token's row in a grouped table. */
  | { readonly op: 'embedGrouped'; readonly table: WeightId; readonly out: BufferId }
  /** out[t, i] = (x[t, i] * r) * weight[i]; r = 1 / sqrt(laneSum(x * x) / width + eps). */
  | {
      readonly op: 'rmsNorm';
      readonly x: BufferId;
      readonly weight: WeightId;
      readonly eps: number;
      readonly out: BufferId;
    }
  /** rmsNorm of every head of x (heads * headDim wide) on its own, all with the one weight (headDim,). */
  | {
      readonly op: 'rmsNormHeads';
      readonly x: BufferId;
      readonly weight: WeightId;
      readonly eps: number;
      readonly heads: number;
      readonly headDim: number;
      readonly out: BufferId;
    }
  /**
   * Per row: a = max |x|; scale[t] = 127 / max(a, 1e-5); codes[t, i] = clamp(rint(x * scale), -128, 127).
   * A row that holds NaN or infinity fails the step (`NonFiniteError` with this op's `label`).
   */
  | {
      readonly op: 'quantize';
      readonly x: BufferId;
      readonly codes: BufferId;
      /** f32 buffer of width 1. */
      readonly scale: BufferId;
      /** Where we are, for errors: "layer 3, input of q_proj". */
      readonly label: string;
    }
  /**
   * Per row, for grouped matrices: m = max |x|; s = 32639 / m; codes[t, i] = clamp(rint(x * s), -32639, 32639);
   * scale[t] = m / 32639. Where m is 0 or s not finite, codes and scale are 0. 32639 = 127 * 257, so a code is 256 hi + lo
   * with both in int8. A row that holds NaN or infinity fails the step.
   */
  | {
      readonly op: 'quantize16';
      readonly x: BufferId;
      readonly codes: BufferId;
      /** f32 buffer of width 1. */
      readonly scale: BufferId;
      readonly label: string;
    }
  /** out[t, r] = (sum over groups g, in order, of float(sum_c (code[r, c] - 1) * codes[t, c]) * scale[r, g]) * scale[t]. */
  | {
      readonly op: 'groupedMatmul';
      readonly codes: BufferId;
      readonly scale: BufferId;
      readonly weight: WeightId;
      readonly out: BufferId;
    }
  /** out[t, r] = float(sum_c trit[r, c] * codes[t, c]) * (weight.scale / scale[t]). */
  | {
      readonly op: 'ternaryMatmul';
      readonly codes: BufferId;
      readonly scale: BufferId;
      readonly weight: WeightId;
      readonly out: BufferId;
    }
  /**
   * In place, per head, on its first N = rope.rotaryDim elements: with j < N/2, c = cos[position, j], s = sin[position, j]:
   * x[j] = x[j] * c - x[j + N/2] * s;  x[j + N/2] = x[j + N/2] * c + x[j] * s  (both read the old values).
   */
  | { readonly op: 'rope'; readonly x: BufferId; readonly heads: number; readonly headDim: number }
  /** Stores rows k[t], v[t] (width kvHeads * D) at the step's position of the step's sequence in layer's cache. */
  | { readonly op: 'kvAppend'; readonly layer: number; readonly k: BufferId; readonly v: BufferId }
  /**
   * Causal attention of each row over its sequence's cache: positions first..position[t], where first is 0, or
   * max(0, position[t] - window + 1) in a layer with a window. Query head h reads kv head floor(h / (heads / kvHeads)).
   * score_j = laneSum(q * k_j) * scale;  e_j = expF32(score_j - max);  out = (sum_j e_j * v_j) / (sum_j e_j), both sums in
   * blocks of 64 positions (EXACTNESS).
   */
  | {
      readonly op: 'attention';
      readonly layer: number;
      readonly q: BufferId;
      readonly out: BufferId;
      readonly heads: number;
      readonly kvHeads: number;
      readonly headDim: number;
      /** float32 value of D^-0.5. */
      readonly scale: number;
    }
  /**
   * out = f(gate) * up; relu2: g = max(gate, 0), (g * g) * up; silu: (gate / (1 + expF32(-gate))) * up;
   * sigmoid: (1 / (1 + expF32(-gate))) * up; clampedSilu: silu of min(gate, limit) and min(max(up, -limit), limit).
   */
  | {
      readonly op: 'gatedActivation';
      readonly fn: 'relu2' | 'silu' | 'sigmoid' | 'clampedSilu';
      /** Of clampedSilu, > 0. */
      readonly limit?: number | undefined;
      readonly gate: BufferId;
      readonly up: BufferId;
      readonly out: BufferId;
    }
  /** x[t] = x[t] + y[t]. */
  | { readonly op: 'add'; readonly x: BufferId; readonly y: BufferId }
  /** out row i = x row outputRows[i] of the step ('tokens' rows to 'outputs' rows). */
  | { readonly op: 'selectOutputs'; readonly x: BufferId; readonly out: BufferId }
  /** out[i, r] = laneSum(x[i] * table[r]). */
  | { readonly op: 'denseMatmul'; readonly x: BufferId; readonly weight: WeightId; readonly out: BufferId }
  /** out[i, r] = float(sum_c code[r, c] * codes[i, c]) * (rowScale[r] / scale[i]). */
  | {
      readonly op: 'int8Matmul';
      readonly codes: BufferId;
      readonly scale: BufferId;
      readonly weight: WeightId;
      readonly out: BufferId;
    }
  /**
   * Blockwise signed Walsh-Hadamard transform of each row: H[i, j] = (-1)^popcount(i & j) / sqrt(block) on every `block`
   * consecutive elements. forward: out = H(signs * P(x)); inverse: out = signs * H(x). P moves heads where keyHeads > 0: with
   * repeats = width / (keyHeads * headDim), head r * keyHeads + k goes to place k * repeats + r; only forward.
   */
  | {
      readonly op: 'hadamard';
      readonly x: BufferId;
      /** Vector of the width, each +1 or -1. */
      readonly signs: WeightId;
      /** Power of two that divides the width; >= 2. */
      readonly block: number;
      readonly direction: 'forward' | 'inverse';
      readonly keyHeads: number;
      readonly headDim: number;
      readonly out: BufferId;
    }
  /** x holds for each head headDim elements of `first`, then headDim of `second`. */
  | {
      readonly op: 'splitHeads';
      readonly x: BufferId;
      readonly first: BufferId;
      readonly second: BufferId;
      readonly heads: number;
      readonly headDim: number;
    }
  /**
   * Causal convolution along a sequence, channel by channel, then silu: u = sum_j weight[j, c] * x[t - taps + 1 + j, c];
   * out = u / (1 + expF32(-u)). State: the last taps - 1 rows of x, oldest first; rows before the sequence are 0.
   */
  | {
      readonly op: 'causalConv';
      /** Index into `Program.recurrent`; width (taps - 1) * channels. */
      readonly state: number;
      readonly x: BufferId;
      /** Vector [taps, channels], tap-major. */
      readonly weight: WeightId;
      readonly taps: number;
      readonly out: BufferId;
    }
  /**
   * In place, on `heads` heads from column `offset`: x = (x * r) * scale; r = 1 / sqrt(laneSum(x * x) + eps).
   * The other columns stay.
   */
  | {
      readonly op: 'l2NormHeads';
      readonly x: BufferId;
      readonly offset: number;
      readonly heads: number;
      readonly headDim: number;
      readonly eps: number;
      readonly scale: number;
    }
  /**
   * Gated delta rule. A row of x is q [keyHeads, D], k [keyHeads, D], v [valueHeads, D]; value head h uses key head
   * h mod keyHeads ('tiled') or floor(h / (valueHeads / keyHeads)) ('grouped'). Per value head, token after token:
   * b = 1 / (1 + expF32(-beta[h])); g = expF32(decay[h] * softplusF32(alpha[h] + bias[h])); S = g * S;
   * d = b * (v - S^T k); S = S + k d^T; out = S^T q, which reads the updated S. Source: arXiv:2412.06464; Qwen3.5.
   */
  | {
      readonly op: 'gatedDelta';
      /** Index into `Program.recurrent`; S: [valueHeads, D key, D value]. */
      readonly state: number;
      readonly x: BufferId;
      /** (T, valueHeads). */
      readonly beta: BufferId;
      readonly alpha: BufferId;
      /** Vectors (valueHeads,). */
      readonly decay: WeightId;
      readonly bias: WeightId;
      readonly keyHeads: number;
      readonly valueHeads: number;
      readonly headDim: number;
      readonly order: 'tiled' | 'grouped';
      /** (T, valueHeads * D). */
      readonly out: BufferId;
    }
  /**
   * Chooses K = `Program.choices` of E experts per token by the largest logits, in falling order, equal ones by rising index.
   * p = e / laneSum(e), e = expF32(logit - max) over all E; weights[t, i] = p_i / max(sum of the chosen p in order, least).
   * A row that holds NaN or infinity fails the step.
   */
  | {
      readonly op: 'routeExperts';
      /** (T, E) router logits. */
      readonly x: BufferId;
      /** i32 (T, K). */
      readonly experts: BufferId;
      /** (T, K). */
      readonly weights: BufferId;
      readonly least: number;
      readonly label: string;
    }
  /**
   * groupedMatmul of each choice with its expert's matrix. Operand rows count 'tokens' (one for all choices of the token) or
   * 'choices'; out counts 'choices'.
   */
  | {
      readonly op: 'expertMatmul';
      readonly codes: BufferId;
      readonly scale: BufferId;
      readonly weight: WeightId;
      readonly experts: BufferId;
      readonly out: BufferId;
    }
  /** x[t] = x[t] + (sum_i weights[t, i] * y[t * K + i]). */
  | { readonly op: 'addExperts'; readonly x: BufferId; readonly y: BufferId; readonly weights: BufferId }
  /**
   * Only in traced programs: counts the trits of each row of x by the absmean rule of the weights
   * (m = max(laneSum(|x|) / width, 1e-5); trit = clamp(rint(x * (1 / m)), -1, 1)) into the step's
   * `tritCounts[t, index, 0..2]` = (minus, ergodic, plus).
   */
  | { readonly op: 'countTrits'; readonly x: BufferId; readonly index: number };

export type KvSpec = {
  readonly layers: number;
  readonly kvHeads: number;
  readonly headDim: number;
  /** Per layer: positions that attention sees, its own included; 0 for all. All of them where absent. */
  readonly windows?: readonly number[] | undefined;
};

/** float32 numbers of a sequence that every step overwrites; zeros at its start. It can only be had where it is. */
export type RecurrentSpec = {
  /** For messages: "layer 3, delta rule". */
  readonly name: string;
  /** Floats of one sequence. */
  readonly width: number;
};

export type RopeSpec = {
  /** N: elements of a head that turn, the first ones; even, at most the head. */
  readonly rotaryDim: number;
  /**
   * cos and sin of position * frequency j (theta^(-2j/N), scaled where the model says so), times a factor that is 1 but
   * for YaRN, computed in double and rounded to float32, position-major [positions, N/2], `contextLength` of them.
   */
  readonly cos: Float32Array;
  readonly sin: Float32Array;
  /**
   * The same two arrays before they are complete: only rows of positions below `end` are sure to be there. For a backend
   * that reads them where they are, at every step; thousands of sines before a first token are milliseconds.
   */
  readonly upTo?: (end: number) => { readonly cos: Float32Array; readonly sin: Float32Array };
};

export type Program = {
  /** For messages: the model's name. */
  readonly name: string;
  readonly buffers: readonly BufferSpec[];
  readonly weights: readonly Weight[];
  readonly ops: readonly Op[];
  readonly kv: KvSpec;
  readonly rope: RopeSpec;
  /** Recurrent states of a sequence, beside its KV cache; none where absent. */
  readonly recurrent?: readonly RecurrentSpec[] | undefined;
  /** K of `routeExperts`; 0 where absent. */
  readonly choices?: number | undefined;
  /** Positions 0..contextLength-1 may be used. */
  readonly contextLength: number;
  readonly vocabSize: number;
  /** f32 buffer, 'outputs' rows, width vocabSize. */
  readonly logits: BufferId;
  /** Number of `countTrits` ops: 0 in an untraced program. */
  readonly tracePoints: number;
};
