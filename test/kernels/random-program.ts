// Random models of any shape for the differential tests of the backends: the same seed makes the same program.

import type {
  DenseWeight,
  GroupedWeight,
  Int8Weight,
  Program,
  TernaryWeight,
  VectorWeight,
} from '../../src/engine/program.ts';
import type { ModelConfig } from '../../src/model/model-config.ts';
import type { LayerWeights } from '../../src/model/model-weights.ts';
import { recordProgram } from '../../src/model/record.ts';
import { f16ToF32, f32ToF16 } from '../../src/quant/f16.ts';
import { arrangeScales, packPanel64 } from '../../src/quant/grouped/panel64.ts';

export type Shape = {
  readonly hidden: number;
  readonly ffn: number;
  readonly layers: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly vocab: number;
  readonly activation: 'relu2' | 'silu';
  readonly subNorms: boolean;
  readonly head: 'f32' | 'f16' | 'bf16' | 'int8' | 'ternary';
  /** Columns that share a scale, of each width that occurs, and the type of the scales; the graph is then Qwen3's. */
  readonly grouped?: { readonly of: (columns: number) => number; readonly scales: 'f16' | 'f32' };
};

/** 32 random bits from a 32-bit state (mulberry32). */
export class Random {
  #state: number;
  constructor(seed: number) {
    this.#state = seed >>> 0;
  }
  next(): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let z = this.#state;
    z = Math.imul(z ^ (z >>> 15), z | 1);
    z ^= z + Math.imul(z ^ (z >>> 7), z | 61);
    return (z ^ (z >>> 14)) >>> 0;
  }
  below(n: number): number {
    return this.next() % n;
  }
  /** Uniform in [-1, 1). */
  signed(): number {
    return this.next() / 2 ** 31 - 1;
  }
}

function ternary(random: Random, name: string, rows: number, columns: number): TernaryWeight {
  const Q = Math.ceil(rows / 4);
  const bytes = new Uint8Array(Q * columns);
  for (let q = 0; q < Q; q += 1) {
    for (let c = 0; c < columns; c += 1) {
      let byte = 0;
      // Fields of rows that do not exist may hold anything; here they hold code 3.
      for (let j = 0; j < 4; j += 1) byte |= (q + j * Q < rows ? random.below(3) : 3) << (2 * j);
      bytes[q * columns + c] = byte;
    }
  }
  return {
    kind: 'ternary',
    name,
    rows,
    columns,
    layout: 'rowquad',
    bytes,
    scale: Math.fround(0.02 + 0.1 * Math.abs(random.signed())),
  };
}

export function grouped(
  random: Random,
  name: string,
  rows: number,
  columns: number,
  { of, scales: scaleType }: NonNullable<Shape['grouped']>,
): GroupedWeight {
  const group = of(columns);
  // All four codes; what has no row or column is code 1.
  const codes = Uint8Array.from({ length: rows * columns }, () => (random.below(20) === 0 ? 3 : random.below(3)));
  const count = (rows * columns) / group;
  const values = Float32Array.from({ length: count }, () => {
    // Zero, negative, subnormal as f16, and ordinary ones.
    const kind = random.below(12);
    if (kind === 0) return 0;
    return (kind === 1 ? 2 ** -20 : kind === 2 ? -0.03 : 0.05) * (0.5 + Math.abs(random.signed()));
  });
  const scales = scaleType === 'f32' ? values : f16ToF32(f32ToF16(values));
  const panels = arrangeScales(scales, rows, columns / group);
  return {
    kind: 'grouped',
    name,
    rows,
    columns,
    group,
    layout: 'panel64',
    bytes: packPanel64(codes, rows, columns),
    ...panels,
  };
}

export function vector(random: Random, name: string, n: number): VectorWeight {
  return { kind: 'vector', name, values: Float32Array.from({ length: n }, () => 1 + 0.5 * random.signed()) };
}

export function dense(
  random: Random,
  name: string,
  rows: number,
  columns: number,
  dtype: 'f32' | 'f16' | 'bf16',
): DenseWeight {
  const n = rows * columns;
  // One byte in front, so that the elements are not aligned.
  const whole = new Uint8Array(1 + n * (dtype === 'f32' ? 4 : 2));
  const view = new DataView(whole.buffer, 1);
  for (let i = 0; i < n; i += 1) {
    if (dtype === 'f32') view.setFloat32(4 * i, random.signed(), true);
    else if (dtype === 'bf16') {
      view.setFloat32(0, random.signed(), true);
      const upper = view.getUint16(2, true);
      view.setUint16(2 * i, upper, true);
    }
    // f16 of magnitude up to 1, subnormals among them.
    else view.setUint16(2 * i, random.below(random.below(8) === 0 ? 0x400 : 0x3c00) | (random.below(2) << 15), true);
  }
  if (dtype === 'bf16') view.setUint16(0, 0x3e80, true);
  return { kind: 'dense', name, rows, columns, dtype, bytes: whole.subarray(1) };
}

function int8(random: Random, name: string, rows: number, columns: number): Int8Weight {
  const codes = Int8Array.from({ length: rows * columns }, () => random.below(256) - 128);
  const rowScale = Float32Array.from({ length: rows }, () => 0.001 + 0.01 * Math.abs(random.signed()));
  return { kind: 'int8', name, rows, columns, codes, rowScale };
}

export function randomProgram(shape: Shape, seed: number, contextLength = 128): Program {
  const random = new Random(seed);
  const { hidden, ffn, heads, kvHeads, headDim } = shape;
  const matrix = (name: string, rows: number, columns: number) =>
    shape.grouped === undefined
      ? ternary(random, name, rows, columns)
      : grouped(random, name, rows, columns, shape.grouped);
  const headNorms = (name: (part: string) => string) => ({
    qNorm: vector(random, name('q_norm'), headDim),
    kNorm: vector(random, name('k_norm'), headDim),
  });
  const layers = Array.from({ length: shape.layers }, (_, i): LayerWeights => {
    const name = (part: string) => `layers.${i}.${part}`;
    return {
      inputNorm: vector(random, name('input_norm'), hidden),
      q: matrix(name('q'), heads * headDim, hidden),
      k: matrix(name('k'), kvHeads * headDim, hidden),
      v: matrix(name('v'), kvHeads * headDim, hidden),
      ...(shape.grouped === undefined ? {} : headNorms(name)),
      ...(shape.subNorms ? { attnSubNorm: vector(random, name('attn_sub_norm'), heads * headDim) } : {}),
      o: matrix(name('o'), hidden, heads * headDim),
      postAttentionNorm: vector(random, name('post_norm'), hidden),
      gate: matrix(name('gate'), ffn, hidden),
      up: matrix(name('up'), ffn, hidden),
      ...(shape.subNorms ? { ffnSubNorm: vector(random, name('ffn_sub_norm'), ffn) } : {}),
      down: matrix(name('down'), hidden, ffn),
    };
  });
  const embedding =
    shape.head === 'ternary'
      ? grouped(random, 'embedding', shape.vocab, hidden, shape.grouped!)
      : dense(random, 'embedding', shape.vocab, hidden, shape.head === 'int8' ? 'bf16' : shape.head);
  const config: ModelConfig = {
    family: shape.grouped === undefined ? 'bitnet' : 'qwen3',
    hiddenSize: hidden,
    intermediateSize: ffn,
    numHiddenLayers: shape.layers,
    numAttentionHeads: heads,
    numKeyValueHeads: kvHeads,
    headDim,
    vocabSize: shape.vocab,
    maxPositionEmbeddings: contextLength,
    ropeTheta: 10_000,
    rmsNormEps: 1e-5,
    hiddenAct: shape.activation,
    tieWordEmbeddings: shape.head !== 'int8',
    linearStorage: 'packed-multiply',
    bosTokenId: 0,
    eosTokenIds: [1],
    unknownKeys: [],
  };
  const finalNorm = vector(random, 'norm', hidden);
  const head = shape.head === 'int8' ? int8(random, 'head', shape.vocab, hidden) : embedding;
  return recordProgram(config, { embedding, layers, finalNorm, head }, { name: `random ${seed}`, contextLength });
}

/** Awkward on purpose: nothing a multiple of 16, one KV head, a lone head, widths below a vector. */
export const SHAPES: Readonly<Record<string, Shape>> = {
  odd: {
    hidden: 100,
    ffn: 172,
    layers: 2,
    heads: 5,
    kvHeads: 1,
    headDim: 48,
    vocab: 31,
    activation: 'relu2',
    subNorms: true,
    head: 'bf16',
  },
  tiny: {
    hidden: 6,
    ffn: 10,
    layers: 1,
    heads: 1,
    kvHeads: 1,
    headDim: 2,
    vocab: 3,
    activation: 'silu',
    subNorms: false,
    head: 'f32',
  },
  multiHead: {
    hidden: 96,
    ffn: 200,
    layers: 2,
    heads: 6,
    kvHeads: 6,
    headDim: 20,
    vocab: 65,
    activation: 'silu',
    subNorms: true,
    head: 'f16',
  },
  int8Head: {
    hidden: 130,
    ffn: 258,
    layers: 2,
    heads: 4,
    kvHeads: 2,
    headDim: 32,
    vocab: 77,
    activation: 'relu2',
    subNorms: true,
    head: 'int8',
  },
  wide: {
    hidden: 640,
    ffn: 1030,
    layers: 1,
    heads: 8,
    kvHeads: 2,
    headDim: 64,
    vocab: 259,
    activation: 'relu2',
    subNorms: true,
    head: 'int8',
  },
  groups32: {
    hidden: 96,
    ffn: 160,
    layers: 2,
    heads: 3,
    kvHeads: 1,
    headDim: 32,
    vocab: 71,
    activation: 'silu',
    subNorms: false,
    head: 'ternary',
    grouped: { of: () => 32, scales: 'f16' },
  },
  groups128: {
    hidden: 256,
    ffn: 384,
    layers: 1,
    heads: 4,
    kvHeads: 2,
    headDim: 64,
    vocab: 130,
    activation: 'silu',
    subNorms: false,
    head: 'ternary',
    grouped: { of: () => 128, scales: 'f32' },
  },
  // One scale a row, rows that are no multiple of anything, a dense embedding.
  wholeRows: {
    hidden: 70,
    ffn: 131,
    layers: 1,
    heads: 2,
    kvHeads: 2,
    headDim: 18,
    vocab: 33,
    activation: 'silu',
    subNorms: false,
    head: 'bf16',
    grouped: { of: (columns) => columns, scales: 'f16' },
  },
};
