// Random hybrid and mixture programs for the differential tests of the backends: delta rules with recurrent states,
// rotations, windows, experts. Recorded by hand, so that no graph stands between the operations and what is tested.

import type { BufferSpec, GroupedWeight, Op, Program, Weight } from '../../src/engine/program.ts';
import { ropeTables } from '../../src/model/rope.ts';
import { dense, grouped, Random, vector } from './random-program.ts';

export type HybridShape = {
  readonly hidden: number;
  readonly vocab: number;
  /** In their order: full attention, attention in a window, the gated delta rule. */
  readonly layers: readonly ('full' | 'delta' | { readonly window: number })[];
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly rotaryDim: number;
  readonly delta: {
    readonly keyHeads: number;
    readonly valueHeads: number;
    readonly headDim: number;
    readonly order: 'tiled' | 'grouped';
    readonly taps: number;
  };
  /** Block of the rotations in front of products; 0: none. */
  readonly rotation: number;
  /** Experts of each layer, or one plain feed-forward. */
  readonly experts?: { readonly count: number; readonly choices: number };
  readonly ffn: number;
  readonly group: (columns: number) => number;
  readonly scales: 'f16' | 'f32';
};

/** The largest power of two up to `most` that divides n. */
function blockOf(n: number, most: number): number {
  let block = 1;
  while (2 * block <= most && n % (2 * block) === 0) block *= 2;
  return block;
}

class Recorder {
  readonly buffers: BufferSpec[] = [];
  readonly weights: Weight[] = [];
  readonly ops: Op[] = [];
  readonly recurrent: { name: string; width: number }[] = [];
  readonly #random: Random;
  readonly #shape: HybridShape;

  constructor(random: Random, shape: HybridShape) {
    this.#random = random;
    this.#shape = shape;
  }

  buffer(
    width: number,
    rows: BufferSpec['rows'] = 'tokens',
    dtype: BufferSpec['dtype'] = 'f32',
    group?: number | undefined,
  ): number {
    return this.buffers.push({ name: `b${this.buffers.length}`, dtype, rows, width, group }) - 1;
  }

  weight(weight: Weight): number {
    return this.weights.push(weight) - 1;
  }

  vector(values: readonly number[]): number {
    return this.weight({ kind: 'vector', name: `v${this.weights.length}`, values: Float32Array.from(values) });
  }

  norm(n: number): number {
    return this.weight(vector(this.#random, `n${this.weights.length}`, n));
  }

  numbers(n: number, size: number, middle = 0): number {
    return this.vector(Array.from({ length: n }, () => middle + size * this.#random.signed()));
  }

  /** A row of `x`, rotated where the shape says so, as operand of grouped matrices. */
  operand(x: number, move?: { keyHeads: number; headDim: number }): { codes: number; scale: number } {
    const { width, rows } = this.buffers[x]!;
    const { rotation, group } = this.#shape;
    const block = blockOf(width, rotation);
    let from = x;
    if (block >= 2) {
      const signs = this.vector(Array.from({ length: width }, () => (this.#random.below(2) === 0 ? 1 : -1)));
      from = move === undefined && this.#random.below(2) === 0 ? x : this.buffer(width, rows);
      const { keyHeads, headDim } = move ?? { keyHeads: 0, headDim: 0 };
      this.ops.push({ op: 'hadamard', x, signs, block, direction: 'forward', keyHeads, headDim, out: from });
    }
    const codes = this.buffer(width, rows, 'i16', group(width));
    const scale = this.buffer(1, rows);
    this.ops.push({ op: 'quantize16', x: from, codes, scale, label: `operand ${codes}` });
    return { codes, scale };
  }

  matrix(rows: number, columns: number, experts?: number): number {
    const { group: of, scales } = this.#shape;
    const one = () => grouped(this.#random, `m${this.weights.length}`, rows, columns, { of, scales });
    if (experts === undefined) return this.weight(one());
    const all = Array.from({ length: experts }, one);
    const join = (field: 'bytes' | 'scales') => Uint8Array.from(all.flatMap((weight) => [...weight[field]]));
    return this.weight({ ...all[0]!, experts, bytes: join('bytes'), scales: join('scales') } satisfies GroupedWeight);
  }

  product(operand: { codes: number; scale: number }, rows: number): number {
    const { rows: counted, width } = this.buffers[operand.codes]!;
    const out = this.buffer(rows, counted);
    this.ops.push({ op: 'groupedMatmul', ...operand, weight: this.matrix(rows, width), out });
    return out;
  }

  state(name: string, width: number): number {
    return this.recurrent.push({ name, width }) - 1;
  }

  delta(input: { codes: number; scale: number }): { codes: number; scale: number } {
    const { keyHeads, valueHeads, headDim: D, order, taps } = this.#shape.delta;
    const width = (2 * keyHeads + valueHeads) * D;
    const mixed = this.product(input, width);
    const z = this.product(input, valueHeads * D);
    const beta = this.product(input, valueHeads);
    const alpha = this.product(input, valueHeads);
    const x = this.buffer(width);
    const out = this.buffer(valueHeads * D);
    const convolution = this.state('convolution', (taps - 1) * width);
    const rule = this.state('delta rule', valueHeads * D * D);
    const [weight, decay, bias] = [
      this.numbers(taps * width, 0.7),
      this.numbers(valueHeads, 0.4, -0.5),
      this.numbers(valueHeads, 1),
    ];
    const eps = Math.fround(1e-6);
    this.ops.push(
      { op: 'causalConv', state: convolution, x: mixed, weight, taps, out: x },
      { op: 'l2NormHeads', x, offset: 0, heads: keyHeads, headDim: D, eps, scale: Math.fround(D ** -0.5) },
      { op: 'l2NormHeads', x, offset: keyHeads * D, heads: keyHeads, headDim: D, eps, scale: 1 },
      { op: 'gatedDelta', state: rule, x, beta, alpha, decay, bias, keyHeads, valueHeads, headDim: D, order, out },
      { op: 'rmsNormHeads', x: out, weight: this.norm(D), eps: 1e-5, heads: valueHeads, headDim: D, out },
      { op: 'gatedActivation', fn: 'silu', gate: z, up: out, out: z },
    );
    return this.operand(z, order === 'tiled' && this.#shape.rotation > 0 ? { keyHeads, headDim: D } : undefined);
  }

  attention(input: { codes: number; scale: number }, layer: number): { codes: number; scale: number } {
    const { heads, kvHeads, headDim } = this.#shape;
    const both = this.product(input, 2 * heads * headDim);
    const k = this.product(input, kvHeads * headDim);
    const v = this.product(input, kvHeads * headDim);
    const [q, gate, out] = [this.buffer(heads * headDim), this.buffer(heads * headDim), this.buffer(heads * headDim)];
    this.ops.push(
      { op: 'splitHeads', x: both, first: q, second: gate, heads, headDim },
      { op: 'rmsNormHeads', x: q, weight: this.norm(headDim), eps: 1e-5, heads, headDim, out: q },
      { op: 'rmsNormHeads', x: k, weight: this.norm(headDim), eps: 1e-5, heads: kvHeads, headDim, out: k },
      { op: 'rope', x: q, heads, headDim },
      { op: 'rope', x: k, heads: kvHeads, headDim },
      { op: 'kvAppend', layer, k, v },
      { op: 'attention', layer, q, out, heads, kvHeads, headDim, scale: Math.fround(headDim ** -0.5) },
      { op: 'gatedActivation', fn: 'sigmoid', gate, up: out, out: gate },
    );
    return this.operand(gate);
  }

  feedForward(n: number, x: number): void {
    const { hidden, ffn, experts } = this.#shape;
    const limit = 0.5;
    if (experts === undefined) {
      const input = this.operand(n);
      const [gate, up] = [this.product(input, ffn), this.product(input, ffn)];
      this.ops.push({ op: 'gatedActivation', fn: 'clampedSilu', limit, gate, up, out: gate });
      this.ops.push({ op: 'add', x, y: this.product(this.operand(gate), hidden) });
      return;
    }
    const { count, choices } = experts;
    const logits = this.buffer(count);
    const router = this.weight(dense(this.#random, 'router', count, hidden, 'f32'));
    const chosen = this.buffer(choices, 'tokens', 'i32');
    const weights = this.buffer(choices);
    this.ops.push(
      { op: 'denseMatmul', x: n, weight: router, out: logits },
      { op: 'routeExperts', x: logits, experts: chosen, weights, least: 2 ** -20, label: 'router' },
    );
    const product = (operand: { codes: number; scale: number }, rows: number) => {
      const out = this.buffer(rows, 'choices');
      const weight = this.matrix(rows, this.buffers[operand.codes]!.width, count);
      this.ops.push({ op: 'expertMatmul', ...operand, weight, experts: chosen, out });
      return out;
    };
    const input = this.operand(n);
    const [gate, up] = [product(input, ffn), product(input, ffn)];
    this.ops.push({ op: 'gatedActivation', fn: 'clampedSilu', limit, gate, up, out: gate });
    this.ops.push({ op: 'addExperts', x, y: product(this.operand(gate), hidden), weights });
  }
}

export function randomHybrid(shape: HybridShape, seed: number, contextLength = 256): Program {
  const random = new Random(seed);
  const recorder = new Recorder(random, shape);
  const { ops } = recorder;
  const { hidden, vocab, layers, rotation } = shape;
  const x = recorder.buffer(hidden);
  const table = recorder.weight(dense(random, 'embedding', vocab, hidden, 'bf16'));
  ops.push({ op: 'embed', table, out: x });
  const windows: number[] = [];
  layers.forEach((layer, index) => {
    const n = recorder.buffer(hidden);
    ops.push({ op: 'rmsNorm', x, weight: recorder.norm(hidden), eps: 1e-5, out: n });
    const input = recorder.operand(n);
    if (layer !== 'delta') windows.push(layer === 'full' ? 0 : layer.window);
    const mixed = layer === 'delta' ? recorder.delta(input) : recorder.attention(input, windows.length - 1);
    ops.push({ op: 'add', x, y: recorder.product(mixed, hidden) });
    ops.push({ op: 'rmsNorm', x, weight: recorder.norm(hidden), eps: 1e-5, out: n });
    recorder.feedForward(n, x);
    ops.push({ op: 'countTrits', x, index });
  });
  const block = blockOf(hidden, rotation);
  if (block >= 2) {
    const signs = recorder.vector(Array.from({ length: hidden }, (_, i) => (i % 3 === 0 ? -1 : 1)));
    ops.push({ op: 'hadamard', x, signs, block, direction: 'inverse', keyHeads: 0, headDim: 0, out: x });
  }
  const [last, logits] = [recorder.buffer(hidden, 'outputs'), recorder.buffer(vocab, 'outputs')];
  ops.push(
    { op: 'rmsNorm', x, weight: recorder.norm(hidden), eps: 1e-5, out: x },
    { op: 'selectOutputs', x, out: last },
    { op: 'denseMatmul', x: last, weight: table, out: logits },
  );
  const { buffers, weights, recurrent } = recorder;
  const { kvHeads, headDim, rotaryDim, experts } = shape;
  return {
    name: `random hybrid ${seed}`,
    buffers,
    weights,
    ops,
    kv: { layers: windows.length, kvHeads, headDim, ...(windows.some((window) => window > 0) ? { windows } : {}) },
    rope: { rotaryDim, ...ropeTables(10_000, rotaryDim, contextLength) },
    ...(recurrent.length === 0 ? {} : { recurrent }),
    choices: experts?.choices,
    contextLength,
    vocabSize: vocab,
    logits,
    tracePoints: layers.length,
  };
}

const BASE = {
  vocab: 41,
  heads: 4,
  kvHeads: 2,
  headDim: 16,
  rotaryDim: 4,
  rotation: 0,
  ffn: 96,
  group: (columns) => columns,
  scales: 'f16',
  delta: { keyHeads: 2, valueHeads: 4, headDim: 16, order: 'tiled', taps: 4 },
} as const satisfies Partial<HybridShape>;

/** As Qwen3.5 and its relatives have them, and awkward: widths below a vector, one head, odd experts. */
export const HYBRID_SHAPES: Readonly<Record<string, HybridShape>> = {
  /** Delta rules and full attention, all of it rotated; value heads in the order of GGUF. */
  rotated: {
    ...BASE,
    hidden: 128,
    layers: ['delta', 'full', 'delta'],
    rotation: 64,
    group: (columns) => (columns % 64 === 0 ? 64 : columns),
  },
  /** Only delta rules, in the order of Hugging Face, with a head that is no multiple of a vector; blocks below one. */
  recurrent: {
    ...BASE,
    hidden: 36,
    layers: ['delta', 'delta'],
    delta: { keyHeads: 1, valueHeads: 3, headDim: 20, order: 'grouped', taps: 2 },
    rotation: 8,
    scales: 'f32',
  },
  /** Windows beside full layers, and experts. */
  windows: {
    ...BASE,
    hidden: 64,
    layers: [{ window: 5 }, 'full', { window: 64 }, { window: 70 }],
    heads: 6,
    experts: { count: 7, choices: 3 },
    ffn: 37,
    headDim: 12,
  },
  /** Nothing but windows: its cache is bounded. One choice of two experts. */
  bounded: {
    ...BASE,
    hidden: 48,
    layers: [{ window: 3 }, { window: 20 }],
    kvHeads: 4,
    experts: { count: 2, choices: 1 },
    ffn: 130,
    headDim: 18,
    rotaryDim: 18,
    rotation: 16,
  },
  /** All at once, with heads that are more than the widest columns of a kernel. */
  everything: {
    ...BASE,
    hidden: 128,
    vocab: 67,
    layers: ['delta', { window: 33 }, 'full'],
    heads: 2,
    kvHeads: 1,
    headDim: 64,
    rotaryDim: 32,
    delta: { keyHeads: 1, valueHeads: 2, headDim: 80, order: 'tiled', taps: 4 },
    rotation: 128,
    experts: { count: 11, choices: 4 },
    ffn: 32,
    group: (columns) => (columns % 32 === 0 ? 32 : columns),
  },
};
