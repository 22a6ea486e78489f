// Small models with every kind of operation, on which a GPU is compared with the reference before it is used. They are fixed, and
// the activations of the first keep clear of rounding boundaries (a test checks that), so that a sound GPU's float noise cannot
// show up as a flipped activation.

import type {
  BufferSpec,
  DenseWeight,
  GroupedWeight,
  Int8Weight,
  Op,
  Program,
  TernaryWeight,
  VectorWeight,
  Weight,
} from '../program.ts';

const HIDDEN = 72;
// No multiple of 4: the last quad of its matrices is not full.
const FEED_FORWARD = 150;
const HEADS = 6;
const KV_HEADS = 2;
const HEAD_DIM = 12;
export type SelfTestSizes = {
  readonly hidden: number;
  readonly feedForward: number;
  readonly headDim: number;
  /** The head of a ternary program; a table of floats unless told otherwise. */
  readonly head?: 'int8';
  /** Columns of a group-scaled program's groups; thirds, halves and whole rows unless told otherwise. */
  readonly group?: number;
  /** Positions; 64 unless told otherwise. */
  readonly context?: number;
};
const UNEVEN: SelfTestSizes = { hidden: HIDDEN, feedForward: FEED_FORWARD, headDim: HEAD_DIM };
/** Whole chunks, groups of whole 32 columns, heads of whole 16: what kernels for published shapes may ask for. */
export const EVEN: SelfTestSizes = { hidden: 96, feedForward: 160, headDim: 32 };
export const EVEN_INT8: SelfTestSizes = { ...EVEN, head: 'int8' };
/** Groups as published models have them; and many of 32, 17 in the longest row. */
export const GROUPS_OF_128: SelfTestSizes = { hidden: 128, feedForward: 384, headDim: 64, group: 128 };
export const GROUPS_OF_32: SelfTestSizes = { hidden: 96, feedForward: 544, headDim: 32, group: 32 };
/** For long prompts: rows of more columns than a product of many rows has on their way at once. */
export const PROMPTS: SelfTestSizes = { hidden: 32, feedForward: 960, headDim: 64, head: 'int8', context: 384 };
const VOCABULARY = 96;
const LAYERS = 2;
const CONTEXT = 64;
/** Prefill by the matrix kernel, then a short step, then decode. */
export const STEPS: readonly (readonly number[])[] = [[1, 95, 17, 40, 40, 3, 88, 21, 64, 9, 30], [77, 5], [11]];

/** More rows than a card has multiprocessors, twice over; then some behind them. */
export const PROMPT_STEPS: readonly (readonly number[])[] = [272, 66].map((rows, step) =>
  Array.from({ length: rows }, (_, i) => (i * 37 + step * 11 + 5) % VOCABULARY),
);

/** Uniform in [-1, 1), the same everywhere. */
function* uniforms(seed: number): Generator<number, never> {
  let state = seed;
  for (;;) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    yield state / 2 ** 31 - 1;
  }
}

export function selfTestProgram(seed = 9, { hidden, feedForward, headDim, head, context } = UNEVEN): Program {
  const { next, weights, add, vector, buffers, buffer, ops } = programParts(seed);
  const ternary = (name: string, rows: number, columns: number): TernaryWeight => {
    const bytes = new Uint8Array(Math.ceil(rows / 4) * columns);
    for (let i = 0; i < bytes.length; i += 1) {
      for (let k = 0; k < 4; k += 1) bytes[i] = bytes[i]! | (Math.min(2, Math.floor((next() + 1) * 1.5)) << (2 * k));
    }
    return { kind: 'ternary', name, rows, columns, layout: 'rowquad', bytes, scale: 0.02 + 0.01 * next() };
  };
  const bf16 = (name: string, rows: number, columns: number): DenseWeight => {
    const floats = Float32Array.from({ length: rows * columns }, next);
    const words = Uint16Array.from(new Uint32Array(floats.buffer), (word) => word >>> 16);
    return { kind: 'dense', name, rows, columns, dtype: 'bf16', bytes: new Uint8Array(words.buffer) };
  };

  const codesOf = (name: string, width: number) => buffers.push({ name, dtype: 'i8', rows: 'tokens', width }) - 1;
  const x = buffer('x', hidden);
  const normed = buffer('normed', hidden);
  const codes = codesOf('codes', hidden);
  const scale = buffer('scale', 1);
  const q = buffer('q', HEADS * headDim);
  const k = buffer('k', KV_HEADS * headDim);
  const v = buffer('v', KV_HEADS * headDim);
  const attended = buffer('attended', HEADS * headDim);
  const attendedCodes = codesOf('attended codes', HEADS * headDim);
  const gate = buffer('gate', feedForward);
  const up = buffer('up', feedForward);
  const gatedCodes = codesOf('gated codes', feedForward);
  const update = buffer('update', hidden);
  const last = buffer('last', hidden, 'outputs');
  const logits = buffer('logits', VOCABULARY, 'outputs');
  const embedding = add(bf16('embedding', VOCABULARY, hidden));
  const eps = Math.fround(1e-5);
  const product = (from: number, name: string, rows: number, columns: number, out: number) =>
    ops.push({ op: 'ternaryMatmul', codes: from, scale, weight: add(ternary(name, rows, columns)), out });

  ops.push({ op: 'embed', table: embedding, out: x });
  for (let layer = 0; layer < LAYERS; layer += 1) {
    const label = `layer ${layer}`;
    ops.push({ op: 'rmsNorm', x, weight: add(vector('norm', hidden)), eps, out: normed });
    ops.push({ op: 'quantize', x: normed, codes, scale, label });
    product(codes, 'q', HEADS * headDim, hidden, q);
    product(codes, 'k', KV_HEADS * headDim, hidden, k);
    product(codes, 'v', KV_HEADS * headDim, hidden, v);
    ops.push({ op: 'rope', x: q, heads: HEADS, headDim });
    ops.push({ op: 'rope', x: k, heads: KV_HEADS, headDim });
    ops.push({ op: 'kvAppend', layer, k, v });
    ops.push({
      op: 'attention',
      layer,
      q,
      out: attended,
      heads: HEADS,
      kvHeads: KV_HEADS,
      headDim,
      scale: Math.fround(headDim ** -0.5),
    });
    ops.push({ op: 'rmsNorm', x: attended, weight: add(vector('sub-norm', HEADS * headDim)), eps, out: attended });
    ops.push({ op: 'quantize', x: attended, codes: attendedCodes, scale, label });
    product(attendedCodes, 'o', hidden, HEADS * headDim, update);
    ops.push({ op: 'add', x, y: update });
    ops.push({ op: 'rmsNorm', x, weight: add(vector('norm', hidden)), eps, out: normed });
    ops.push({ op: 'quantize', x: normed, codes, scale, label });
    product(codes, 'gate', feedForward, hidden, gate);
    product(codes, 'up', feedForward, hidden, up);
    ops.push({ op: 'gatedActivation', fn: layer % 2 === 0 ? 'relu2' : 'silu', gate, up, out: gate });
    ops.push({ op: 'rmsNorm', x: gate, weight: add(vector('sub-norm', feedForward)), eps, out: gate });
    ops.push({ op: 'quantize', x: gate, codes: gatedCodes, scale, label });
    product(gatedCodes, 'down', hidden, feedForward, update);
    ops.push({ op: 'add', x, y: update });
  }
  ops.push({ op: 'selectOutputs', x, out: last });
  ops.push({ op: 'rmsNorm', x: last, weight: add(vector('final norm', hidden)), eps, out: last });
  if (head === 'int8') {
    const lastCodes = buffers.push({ name: 'last codes', dtype: 'i8', rows: 'outputs', width: hidden }) - 1;
    const lastScale = buffer('last scale', 1, 'outputs');
    ops.push({ op: 'quantize', x: last, codes: lastCodes, scale: lastScale, label: 'head' });
    const weight: Int8Weight = {
      kind: 'int8',
      name: 'head',
      rows: VOCABULARY,
      columns: hidden,
      codes: Int8Array.from({ length: VOCABULARY * hidden }, () => Math.round(127 * next())),
      rowScale: Float32Array.from({ length: VOCABULARY }, () => 0.01 + 0.005 * next()),
    };
    ops.push({ op: 'int8Matmul', codes: lastCodes, scale: lastScale, weight: add(weight), out: logits });
  } else {
    ops.push({ op: 'denseMatmul', x: last, weight: embedding, out: logits });
  }

  return finished(buffers, weights, ops, logits, headDim, context);
}

function finished(
  buffers: readonly BufferSpec[],
  weights: readonly Weight[],
  ops: readonly Op[],
  logits: number,
  headDim = HEAD_DIM,
  context = CONTEXT,
): Program {
  const half = headDim / 2;
  const angle = (i: number) => Math.floor(i / half) * 1e4 ** (-(i % half) / half);
  return {
    name: 'self-test',
    buffers,
    weights,
    ops,
    kv: { layers: LAYERS, kvHeads: KV_HEADS, headDim },
    rope: {
      rotaryDim: headDim,
      cos: Float32Array.from({ length: context * half }, (_, i) => Math.cos(angle(i))),
      sin: Float32Array.from({ length: context * half }, (_, i) => Math.sin(angle(i))),
    },
    contextLength: context,
    vocabSize: VOCABULARY,
    logits,
    tracePoints: 0,
  };
}

/** Weights, buffers and operations of a program in the making. */
function programParts(seed: number) {
  const random = uniforms(seed);
  const next = () => random.next().value;
  const weights: Weight[] = [];
  const add = (weight: Weight) => weights.push(weight) - 1;
  const vector = (name: string, length: number): VectorWeight => ({
    kind: 'vector',
    name,
    values: Float32Array.from({ length }, () => 1 + 0.5 * next()),
  });
  const buffers: BufferSpec[] = [];
  const buffer = (name: string, width: number, rows: BufferSpec['rows'] = 'tokens') =>
    buffers.push({ name, dtype: 'f32', rows, width }) - 1;
  const ops: Op[] = [];
  return { next, weights, add, vector, buffers, buffer, ops };
}

/** The same for a group-scaled one. */
function groupedParts(seed: number) {
  const parts = programParts(seed);
  const { next, buffers } = parts;
  let made = 0;
  const grouped = (name: string, rows: number, columns: number, group: number, experts = 1): GroupedWeight => {
    const blocks = Math.ceil(columns / 4);
    const panels = Math.ceil(rows / 64);
    const bytes = new Uint8Array(experts * panels * blocks * 64);
    // Every code in use, and in what lies past the last row or column zeros.
    for (let i = 0; i < bytes.length; i += 1) {
      const block = Math.floor(i / 64) % blocks;
      const panel = Math.floor(i / 64 / blocks) % panels;
      for (let s = 0; s < 4; s += 1) {
        const row = panel * 64 + s * 16 + Math.floor((i % 64) / 4);
        const code = Math.min(3, Math.floor((next() + 1) * 2));
        const used = row < rows && block * 4 + (i % 4) < columns;
        bytes[i] = bytes[i]! | ((used ? code : 1) << (2 * s));
      }
    }
    const length = experts * panels * (columns / group) * 64;
    const scales = Float32Array.from({ length }, () => 0.03 + 0.01 * next());
    const shape = { rows, columns, group, ...(experts === 1 ? {} : { experts }) };
    made += 1;
    if (made % 2 === 0) {
      const of = new Uint8Array(scales.buffer);
      return { kind: 'grouped', name, ...shape, layout: 'panel64', bytes, scaleType: 'f32', scales: of };
    }
    // Halves from 2^-6 to 2^-5, by the fraction's upper bits.
    const words = new Uint32Array(scales.buffer);
    const halves = Uint16Array.from(words, (word) => 0x2400 | ((word >>> 13) & 1023));
    const of = new Uint8Array(halves.buffer);
    return { kind: 'grouped', name, ...shape, layout: 'panel64', bytes, scaleType: 'f16', scales: of };
  };
  const codesOf = (name: string, width: number, group: number, rows: BufferSpec['rows'] = 'tokens') =>
    buffers.push({ name, dtype: 'i16', rows, width, group }) - 1;
  return { ...parts, grouped, codesOf };
}

/** The same for group-scaled programs: Qwen3's graph, several groups a row and one, scales of both types, codes +2. */
export function groupedSelfTestProgram(seed = 7, { hidden, feedForward, headDim, group: all } = UNEVEN): Program {
  const { weights, add, vector, grouped, buffers, buffer, codesOf, ops } = groupedParts(seed);
  const queries = HEADS * headDim;
  const keys = KV_HEADS * headDim;
  const [group, attendedGroup, gatedGroup] = [all ?? hidden / 3, all ?? queries / 2, all ?? feedForward];
  const x = buffer('x', hidden);
  const normed = buffer('normed', hidden);
  const codes = codesOf('codes', hidden, group);
  const scale = buffer('scale', 1);
  const [q, k, v] = [buffer('q', queries), buffer('k', keys), buffer('v', keys)];
  const attended = buffer('attended', queries);
  const attendedCodes = codesOf('attended codes', queries, attendedGroup);
  const [gate, up] = [buffer('gate', feedForward), buffer('up', feedForward)];
  const gatedCodes = codesOf('gated codes', feedForward, gatedGroup);
  const update = buffer('update', hidden);
  const last = buffer('last', hidden, 'outputs');
  const lastCodes = codesOf('last codes', hidden, group, 'outputs');
  const lastScale = buffer('last scale', 1, 'outputs');
  const logits = buffer('logits', VOCABULARY, 'outputs');
  const table = add(grouped('embedding', VOCABULARY, hidden, group));
  const eps = Math.fround(1e-6);
  const product = (from: number, name: string, rows: number, out: number) => {
    const { width, group: of } = buffers[from]!;
    ops.push({ op: 'groupedMatmul', codes: from, scale, weight: add(grouped(name, rows, width, of!)), out });
  };

  ops.push({ op: 'embedGrouped', table, out: x });
  for (let layer = 0; layer < LAYERS; layer += 1) {
    const label = `layer ${layer}`;
    ops.push({ op: 'rmsNorm', x, weight: add(vector('norm', hidden)), eps, out: normed });
    ops.push({ op: 'quantize16', x: normed, codes, scale, label });
    product(codes, 'q', queries, q);
    product(codes, 'k', keys, k);
    product(codes, 'v', keys, v);
    for (const [of, heads] of [
      [q, HEADS],
      [k, KV_HEADS],
    ] as const) {
      const weight = add(vector('head norm', headDim));
      ops.push({ op: 'rmsNormHeads', x: of, weight, eps, heads, headDim, out: of });
    }
    ops.push({ op: 'rope', x: q, heads: HEADS, headDim });
    ops.push({ op: 'rope', x: k, heads: KV_HEADS, headDim });
    ops.push({ op: 'kvAppend', layer, k, v });
    const heads = { heads: HEADS, kvHeads: KV_HEADS, headDim };
    ops.push({ op: 'attention', layer, q, out: attended, ...heads, scale: Math.fround(headDim ** -0.5) });
    ops.push({ op: 'quantize16', x: attended, codes: attendedCodes, scale, label });
    product(attendedCodes, 'o', hidden, update);
    ops.push({ op: 'add', x, y: update });
    ops.push({ op: 'rmsNorm', x, weight: add(vector('norm', hidden)), eps, out: normed });
    ops.push({ op: 'quantize16', x: normed, codes, scale, label });
    product(codes, 'gate', feedForward, gate);
    product(codes, 'up', feedForward, up);
    ops.push({ op: 'gatedActivation', fn: layer % 2 === 0 ? 'silu' : 'relu2', gate, up, out: gate });
    ops.push({ op: 'quantize16', x: gate, codes: gatedCodes, scale, label });
    product(gatedCodes, 'down', hidden, update);
    ops.push({ op: 'add', x, y: update });
  }
  ops.push({ op: 'selectOutputs', x, out: last });
  ops.push({ op: 'rmsNorm', x: last, weight: add(vector('final norm', hidden)), eps, out: last });
  ops.push({ op: 'quantize16', x: last, codes: lastCodes, scale: lastScale, label: 'head' });
  ops.push({ op: 'groupedMatmul', codes: lastCodes, scale: lastScale, weight: table, out: logits });
  return finished(buffers, weights, ops, logits, headDim);
}

/** Experts and how many of them a token has, in the self-test of hybrid programs. */
const EXPERTS = 5;
const CHOICES = 2;
const EXPERT_WIDTH = 40;
/** Long enough for two blocks of attention and for a window that reaches from one into the other. */
const HYBRID_CONTEXT = 72;
export const HYBRID_STEPS: readonly (readonly number[])[] = [
  Array.from({ length: 66 }, (_, i) => (i * 37 + 11) % VOCABULARY),
  [77, 5],
  [11],
];

/**
 * The same for hybrid programs: rotated weights, the delta rule's layers in both orders of heads, gated attention with partial
 * rotary positions, one layer of it with a window, feed-forward blocks of experts and without.
 */
export function hybridSelfTestProgram(seed = 5): Program {
  const { next, weights, add, vector, grouped, buffers, buffer, codesOf, ops } = groupedParts(seed);
  const eps = Math.fround(1e-6);
  const [keyHeads, valueHeads, size, taps] = [2, 4, 8, 4];
  const channels = (2 * keyHeads + valueHeads) * size;
  const mixed = valueHeads * size;
  const queries = HEADS * HEAD_DIM;
  const keys = KV_HEADS * HEAD_DIM;
  const signs = (length: number) =>
    add({ kind: 'vector', name: 'signs', values: Float32Array.from({ length }, () => (next() < 0 ? -1 : 1)) });
  const dense = (name: string, rows: number, columns: number): number => {
    const floats = Float32Array.from({ length: rows * columns }, () => 0.3 * next());
    return add({ kind: 'dense', name, rows, columns, dtype: 'f32', bytes: new Uint8Array(floats.buffer) });
  };
  const norm = (x: number, out: number) =>
    ops.push({ op: 'rmsNorm', x, weight: add(vector('norm', buffers[x]!.width)), eps, out });
  const headNorm = (x: number, heads: number, headDim: number) =>
    ops.push({ op: 'rmsNormHeads', x, weight: add(vector('head norm', headDim)), eps, heads, headDim, out: x });
  /** Codes of x, or of x rotated with blocks of `block`. */
  const rounded = (x: number, block = 0, move = { keyHeads: 0, headDim: 0 }) => {
    const { width, rows } = buffers[x]!;
    let from = x;
    if (block > 0) {
      from = buffer('rotated', width, rows);
      ops.push({ op: 'hadamard', x, signs: signs(width), block, direction: 'forward', ...move, out: from });
    }
    const scale = buffer('scale', 1, rows);
    const codes = codesOf('codes', width, width, rows);
    ops.push({ op: 'quantize16', x: from, codes, scale, label: 'a product' });
    return { codes, scale };
  };
  const product = (from: { codes: number; scale: number }, name: string, rows: number) => {
    const { width, rows: counted } = buffers[from.codes]!;
    const out = buffer(name, rows, counted);
    ops.push({ op: 'groupedMatmul', ...from, weight: add(grouped(name, rows, width, width)), out });
    return out;
  };
  const x = buffer('x', HIDDEN);
  const normed = buffer('normed', HIDDEN);
  const recurrent: { name: string; width: number }[] = [];
  const state = (name: string, width: number) => recurrent.push({ name, width }) - 1;

  const deltaLayer = (order: 'tiled' | 'grouped') => {
    norm(x, normed);
    const codes = rounded(normed, 8);
    const [qkv, z] = [product(codes, 'qkv', channels), product(codes, 'z', mixed)];
    const [beta, alpha] = [buffer('beta', valueHeads), buffer('alpha', valueHeads)];
    ops.push({ op: 'denseMatmul', x: normed, weight: dense('beta', valueHeads, HIDDEN), out: beta });
    ops.push({ op: 'denseMatmul', x: normed, weight: dense('alpha', valueHeads, HIDDEN), out: alpha });
    const convolved = buffer('convolved', channels);
    const weight = add(vector('convolution', taps * channels));
    ops.push({ op: 'causalConv', state: state('conv', (taps - 1) * channels), x: qkv, weight, taps, out: convolved });
    const lengths = { op: 'l2NormHeads', x: convolved, heads: keyHeads, headDim: size, eps } as const;
    ops.push({ ...lengths, offset: 0, scale: Math.fround(size ** -0.5) });
    ops.push({ ...lengths, offset: keyHeads * size, scale: 1 });
    const out = buffer('out', mixed);
    const values = Float32Array.from({ length: valueHeads }, () => -0.5 + 0.4 * next());
    ops.push({
      op: 'gatedDelta',
      state: state('delta', valueHeads * size * size),
      x: convolved,
      beta,
      alpha,
      decay: add({ kind: 'vector', name: 'decay', values }),
      bias: add(vector('bias', valueHeads)),
      keyHeads,
      valueHeads,
      headDim: size,
      order,
      out,
    });
    headNorm(out, valueHeads, size);
    ops.push({ op: 'gatedActivation', fn: 'silu', gate: z, up: out, out: z });
    const update = product(rounded(z, 16, order === 'tiled' ? { keyHeads, headDim: size } : undefined), 'o', HIDDEN);
    ops.push({ op: 'add', x, y: update });
  };

  const attentionLayer = (layer: number) => {
    norm(x, normed);
    const codes = rounded(normed, 8);
    const both = product(codes, 'q and gate', 2 * queries);
    const [k, v] = [product(codes, 'k', keys), product(codes, 'v', keys)];
    const [q, gate, attended] = [buffer('q', queries), buffer('gate', queries), buffer('attended', queries)];
    ops.push({ op: 'splitHeads', x: both, first: q, second: gate, heads: HEADS, headDim: HEAD_DIM });
    headNorm(q, HEADS, HEAD_DIM);
    headNorm(k, KV_HEADS, HEAD_DIM);
    ops.push({ op: 'rope', x: q, heads: HEADS, headDim: HEAD_DIM });
    ops.push({ op: 'rope', x: k, heads: KV_HEADS, headDim: HEAD_DIM });
    ops.push({ op: 'kvAppend', layer, k, v });
    const heads = { heads: HEADS, kvHeads: KV_HEADS, headDim: HEAD_DIM };
    ops.push({ op: 'attention', layer, q, out: attended, ...heads, scale: Math.fround(HEAD_DIM ** -0.5) });
    ops.push({ op: 'gatedActivation', fn: 'sigmoid', gate, up: attended, out: gate });
    ops.push({ op: 'add', x, y: product(rounded(gate), 'o', HIDDEN) });
  };

  const feedForward = () => {
    norm(x, normed);
    const codes = rounded(normed, 4);
    const [gate, up] = [product(codes, 'gate', FEED_FORWARD), product(codes, 'up', FEED_FORWARD)];
    ops.push({ op: 'gatedActivation', fn: 'silu', gate, up, out: gate });
    ops.push({ op: 'add', x, y: product(rounded(gate, 2), 'down', HIDDEN) });
  };

  const mixture = () => {
    norm(x, normed);
    const router = buffer('router', EXPERTS);
    ops.push({ op: 'denseMatmul', x: normed, weight: dense('router', EXPERTS, HIDDEN), out: router });
    const experts = buffers.push({ name: 'experts', dtype: 'i32', rows: 'tokens', width: CHOICES }) - 1;
    const shares = buffer('shares', CHOICES);
    const least = Math.fround(1e-9);
    ops.push({ op: 'routeExperts', x: router, experts, weights: shares, least, label: 'the router' });
    const expert = (from: { codes: number; scale: number }, name: string, rows: number) => {
      const out = buffer(name, rows, 'choices');
      const weight = add(grouped(name, rows, buffers[from.codes]!.width, buffers[from.codes]!.width, EXPERTS));
      ops.push({ op: 'expertMatmul', ...from, weight, experts, out });
      return out;
    };
    const codes = rounded(normed);
    const [gate, up] = [expert(codes, 'gate', EXPERT_WIDTH), expert(codes, 'up', EXPERT_WIDTH)];
    ops.push({ op: 'gatedActivation', fn: 'clampedSilu', limit: 1.5, gate, up, out: gate });
    const down = expert(rounded(gate, 8), 'down', HIDDEN);
    ops.push({ op: 'addExperts', x, y: down, weights: shares });
  };

  const table = add(grouped('embedding', VOCABULARY, HIDDEN, HIDDEN / 3));
  ops.push({ op: 'embedGrouped', table, out: x });
  const back = { op: 'hadamard', direction: 'inverse', keyHeads: 0, headDim: 0 } as const;
  ops.push({ ...back, x, signs: signs(HIDDEN), block: 8, out: x });
  deltaLayer('tiled');
  feedForward();
  attentionLayer(0);
  mixture();
  deltaLayer('grouped');
  mixture();
  attentionLayer(1);
  const last = buffer('last', HIDDEN, 'outputs');
  ops.push({ op: 'selectOutputs', x, out: last });
  norm(last, last);
  const logits = product(rounded(last, 8), 'head', VOCABULARY);
  const program = finished(buffers, weights, ops, logits);
  const half = 2;
  const angle = (i: number) => Math.floor(i / half) * 1e4 ** (-(i % half) / half);
  const tableOf = (of: (angle: number) => number) =>
    Float32Array.from({ length: HYBRID_CONTEXT * half }, (_, i) => of(angle(i)));
  return {
    ...program,
    kv: { ...program.kv, windows: [24, 0] },
    rope: { rotaryDim: 2 * half, cos: tableOf(Math.cos), sin: tableOf(Math.sin) },
    recurrent,
    choices: CHOICES,
    contextLength: HYBRID_CONTEXT,
  };
}
