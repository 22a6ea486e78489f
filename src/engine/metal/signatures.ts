// The kernels' arguments as the host binds them: names in the order of their buffer index, and the fields of the argument
// structs. A test compares both lists with the text of the kernels, so an index or a field cannot drift unnoticed.

/** Fields in order; every field has 4 bytes. */
export const STRUCTS = {
  EmbedArgs: { width: 'uint', table_stride: 'uint', out_stride: 'uint' },
  SelectArgs: { stride4: 'uint' },
  RowArgs: { stride4: 'uint', width: 'float', eps: 'float', keep: 'uint', status_at: 'uint' },
  CountArgs: { stride: 'uint', width: 'uint', counts_at: 'uint', counts_stride: 'uint' },
  TernaryArgs: {
    groups: 'uint',
    tokens: 'uint',
    out_stride0: 'uint',
    out_stride1: 'uint',
    out_stride2: 'uint',
    rows0: 'uint',
    rows1: 'uint',
    rows2: 'uint',
    quads0: 'uint',
    quads1: 'uint',
    quads2: 'uint',
    tiles0: 'uint',
    tiles1: 'uint',
    scale0: 'float',
    scale1: 'float',
    scale2: 'float',
  },
  ChainArgs: {
    stride4: 'uint',
    width: 'float',
    eps: 'float',
    source: 'uint',
    limit: 'float',
    choices: 'uint',
    mix_stride: 'uint',
    norm: 'uint',
    keep: 'uint',
    block: 'uint',
    factor: 'float',
    head4: 'uint',
    key_heads: 'uint',
    repeats: 'uint',
    quantize: 'uint',
    status_at: 'uint',
  },
  HeadsArgs: { heads0: 'uint', heads: 'uint', head_dim: 'uint', stride0: 'uint', stride1: 'uint', eps: 'float' },
  ExactAttentionArgs: {
    group_heads: 'uint',
    scale: 'float',
    q_stride: 'uint',
    out_stride: 'uint',
    held: 'uint',
    window: 'uint',
  },
  ExactDenseArgs: {
    rows: 'uint',
    columns: 'uint',
    stride: 'uint',
    type: 'uint',
    x_stride: 'uint',
    out_stride: 'uint',
  },
  GroupedArgs: {
    blocks: 'uint',
    groups: 'uint',
    group_blocks: 'uint',
    slices: 'uint',
    tokens: 'uint',
    x_stride4: 'uint',
    out_stride0: 'uint',
    out_stride1: 'uint',
    out_stride2: 'uint',
    rows0: 'uint',
    rows1: 'uint',
    rows2: 'uint',
    panels0: 'uint',
    panels1: 'uint',
    halves0: 'uint',
    halves1: 'uint',
    halves2: 'uint',
  },
  ExpertArgs: { choices: 'uint', per_choice: 'uint', experts_stride: 'uint', panels2: 'uint' },
  EmbedGroupedArgs: {
    width: 'uint',
    blocks: 'uint',
    groups: 'uint',
    group_blocks: 'uint',
    half_scales: 'uint',
    out_stride4: 'uint',
  },
  DenseArgs: { rows: 'uint', groups: 'uint', tokens: 'uint', x_stride4: 'uint', out_stride: 'uint' },
  CacheArgs: {
    block_stride: 'uint',
    layer_at: 'uint',
    kv_heads: 'uint',
    head_dim: 'uint',
    head_stride: 'uint',
    table_stride: 'uint',
  },
  RopeArgs: {
    heads: 'uint',
    k_heads: 'uint',
    append: 'uint',
    head_dim: 'uint',
    rotary_dim: 'uint',
    q_stride: 'uint',
    k_stride: 'uint',
  },
  AttentionArgs: {
    group_heads: 'uint',
    split: 'uint',
    splits: 'uint',
    lanes: 'uint',
    scale: 'float',
    q_stride: 'uint',
    out_stride: 'uint',
    window: 'uint',
  },
  RotateArgs: {
    width: 'uint',
    stride: 'uint',
    block: 'uint',
    tile: 'uint',
    inverse: 'uint',
    head_dim: 'uint',
    key_heads: 'uint',
    repeats: 'uint',
    factor: 'float',
  },
  SplitArgs: { width: 'uint', head_dim: 'uint', x_stride: 'uint', first_stride: 'uint', second_stride: 'uint' },
  LengthArgs: {
    stride: 'uint',
    head_dim: 'uint',
    eps: 'float',
    heads0: 'uint',
    heads: 'uint',
    offset0: 'uint',
    offset1: 'uint',
    scale0: 'float',
    scale1: 'float',
  },
  ConvArgs: { channels: 'uint', taps: 'uint', x_stride: 'uint', out_stride: 'uint', state_at: 'uint' },
  DeltaArgs: {
    key_heads: 'uint',
    value_heads: 'uint',
    head_dim: 'uint',
    tiled: 'uint',
    x_stride: 'uint',
    gate_stride: 'uint',
    out_stride: 'uint',
    state_at: 'uint',
  },
  RouteArgs: {
    width: 'uint',
    stride: 'uint',
    choices: 'uint',
    experts_stride: 'uint',
    shares_stride: 'uint',
    least: 'float',
    status_at: 'uint',
  },
  TopArgs: { width: 'uint', stride: 'uint', count: 'uint', chunks: 'uint', chunk: 'uint' },
} as const;

export type StructName = keyof typeof STRUCTS;
export type StructValues<S extends StructName> = { readonly [F in keyof (typeof STRUCTS)[S]]: number };

const EMBED = { table: 0, tokens: 1, out: 2, a: 'EmbedArgs' } as const;
const GATED = { gate: 0, up: 1, out: 2, a: 'RowArgs' } as const;
const GATED_NORM = { gate: 0, up: 1, weight: 2, out: 3, codes: 4, scales: 5, status: 6, a: 'RowArgs' } as const;
const TERNARY = { w0: 0, w1: 1, w2: 2, codes: 3, scales: 4, out0: 5, out1: 6, out2: 7, a: 'TernaryArgs' } as const;
const DENSE = { w: 0, x: 1, out: 2, a: 'DenseArgs' } as const;
const INT8 = { w: 0, row_scale: 1, codes: 2, scales: 3, out: 4, a: 'DenseArgs' } as const;
const GROUPED = {
  w0: 0,
  w1: 1,
  w2: 2,
  scales0: 3,
  scales1: 4,
  scales2: 5,
  codes: 6,
  x_scales: 7,
  out0: 8,
  out1: 9,
  out2: 10,
  a: 'GroupedArgs',
} as const;
const ATTENTION = {
  q: 0,
  cache: 1,
  places: 2,
  table: 3,
  out: 4,
  partials: 5,
  partial_stats: 6,
  a: 'AttentionArgs',
  c: 'CacheArgs',
} as const;

/** Arguments in the order of their index; a struct's name stands for an argument struct. */
export const KERNELS = {
  embed_f32: EMBED,
  embed_f16: EMBED,
  embed_bf16: EMBED,
  select_rows: { x: 0, rows: 1, out: 2, a: 'SelectArgs' },
  select_sum: { x: 0, y: 1, rows: 2, out: 3, a: 'SelectArgs' },
  quantize_rows: { x: 0, codes: 1, scales: 2, status: 3, a: 'RowArgs' },
  norm_rows: { x: 0, weight: 1, out: 2, a: 'RowArgs' },
  norm_quantize: { x: 0, weight: 1, out: 2, codes: 3, scales: 4, status: 5, a: 'RowArgs' },
  add_norm_quantize: { x: 0, y: 1, weight: 2, out: 3, codes: 4, scales: 5, status: 6, a: 'RowArgs' },
  relu2_norm_quantize: GATED_NORM,
  silu_norm_quantize: GATED_NORM,
  silu_quantize: { gate: 0, up: 1, out: 2, codes: 3, scales: 4, status: 5, a: 'RowArgs' },
  add_rows: { x: 0, y: 1, a: 'RowArgs' },
  relu2_rows: GATED,
  silu_rows: GATED,
  count_trits: { x: 0, counts: 1, a: 'CountArgs' },
  ternary_gemv: TERNARY,
  ternary_gemv_q2: TERNARY,
  ternary_gemv_mask: TERNARY,
  ternary_gemv_mask_q2: TERNARY,
  ternary_gemv_t2: TERNARY,
  ternary_gemv_t4: TERNARY,
  ternary_gemv_splitk: TERNARY,
  ternary_gemm: TERNARY,
  dense_f32: DENSE,
  dense_f32_t4: DENSE,
  dense_f16: DENSE,
  dense_f16_t4: DENSE,
  dense_bf16: DENSE,
  dense_bf16_t4: DENSE,
  int8_gemv: INT8,
  int8_gemv_t4: INT8,
  rope_append: {
    q: 0,
    k: 1,
    v: 2,
    cosine: 3,
    sine: 4,
    places: 5,
    table: 6,
    cache: 7,
    a: 'RopeArgs',
    c: 'CacheArgs',
  },
  attention_h1: ATTENTION,
  attention_h2: ATTENTION,
  attention_h4: ATTENTION,
  attention_wide: ATTENTION,
  attention_merge: { partials: 0, partial_stats: 1, places: 2, out: 3, a: 'AttentionArgs', c: 'CacheArgs' },
  chain_rows: {
    x: 0,
    y: 1,
    mix: 2,
    weight: 3,
    signs: 4,
    out: 5,
    codes: 6,
    scales: 7,
    status: 8,
    a: 'ChainArgs',
  },
  norm_heads: { x0: 0, x1: 1, weight0: 2, weight1: 3, out0: 4, out1: 5, a: 'HeadsArgs' },
  attention_exact: { q: 0, cache: 1, places: 2, table: 3, out: 4, a: 'ExactAttentionArgs', c: 'CacheArgs' },
  dense_exact: { w: 0, x: 1, out: 2, a: 'ExactDenseArgs' },
  grouped_gemv: GROUPED,
  grouped_gemv_t2: GROUPED,
  grouped_gemv_t4: GROUPED,
  grouped_gemm: GROUPED,
  expert_gemv: {
    w0: 0,
    w1: 1,
    w2: 2,
    scales0: 3,
    scales1: 4,
    scales2: 5,
    codes: 6,
    x_scales: 7,
    experts: 8,
    out0: 9,
    out1: 10,
    out2: 11,
    a: 'GroupedArgs',
    e: 'ExpertArgs',
  },
  embed_grouped: { w: 0, scales: 1, tokens: 2, out: 3, a: 'EmbedGroupedArgs' },
  hadamard_rows: { x: 0, signs: 1, out: 2, a: 'RotateArgs' },
  split_heads: { x: 0, first: 1, second: 2, a: 'SplitArgs' },
  l2_norm_heads: { x: 0, a: 'LengthArgs' },
  causal_conv: { x: 0, weight: 1, runs: 2, state: 3, out: 4, a: 'ConvArgs' },
  gated_delta: {
    x: 0,
    beta: 1,
    alpha: 2,
    decay: 3,
    bias: 4,
    runs: 5,
    state: 6,
    out: 7,
    a: 'DeltaArgs',
  },
  route_experts: { x: 0, experts: 1, shares: 2, status: 3, a: 'RouteArgs' },
  top_chunk: { logits: 0, candidates: 1, statistics: 2, a: 'TopArgs' },
  top_merge: { candidates: 0, statistics: 1, out_values: 2, out_ids: 3, log_sums: 4, a: 'TopArgs' },
} as const;

export type KernelName = keyof typeof KERNELS;

/** What a kernel is given, by argument name: a buffer, or the fields of its struct. */
export type Arguments<K extends KernelName, B> = {
  readonly [A in keyof (typeof KERNELS)[K]]: (typeof KERNELS)[K][A] extends StructName
    ? StructValues<(typeof KERNELS)[K][A]>
    : B;
};

const scratch = new DataView(new ArrayBuffer(4));

/** The struct as 32-bit words. Throws on a value its field cannot hold. */
export function packStruct(struct: StructName, values: Readonly<Record<string, number>>): number[] {
  return Object.entries(STRUCTS[struct]).map(([field, type]) => {
    const value = values[field];
    if (value === undefined) throw new RangeError(`${struct}.${field} is missing`);
    if (type === 'float') {
      scratch.setFloat32(0, value, true);
      return scratch.getUint32(0, true);
    }
    if (!Number.isInteger(value) || value < 0 || value > 0xffffffff)
      throw new RangeError(`${struct}.${field} = ${value}`);
    return value;
  });
}
