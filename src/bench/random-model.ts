// Models of published shapes with random ternary weights: what a step costs depends on the shape, not on the values.
// Weights are filled by copying one random block about, so that a 2B model is there in about a second.

import type { DenseWeight, Int8Weight, Program, TernaryWeight, VectorWeight } from '../engine/program.ts';
import type { ModelConfig } from '../model/config.ts';
import { type LayerWeights, type ModelWeights, recordProgram } from '../model/record.ts';

export type BenchShape = {
  readonly hidden: number;
  readonly ffn: number;
  readonly layers: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly vocab: number;
  readonly activation: 'relu2' | 'silu';
  readonly ropeTheta: number;
};

/** microsoft/bitnet-b1.58-2B-4T, 1bitLLM/bitnet_b1_58-large and -3B: the numbers of their config.json. */
export const BENCH_SHAPES = {
  '2b4t': {
    hidden: 2560,
    ffn: 6912,
    layers: 30,
    heads: 20,
    kvHeads: 5,
    headDim: 128,
    vocab: 128_256,
    activation: 'relu2',
    ropeTheta: 500_000,
  },
  large: {
    hidden: 1536,
    ffn: 4096,
    layers: 24,
    heads: 16,
    kvHeads: 16,
    headDim: 96,
    vocab: 32_002,
    activation: 'silu',
    ropeTheta: 10_000,
  },
  '3b': {
    hidden: 3200,
    ffn: 8640,
    layers: 26,
    heads: 32,
    kvHeads: 32,
    headDim: 100,
    vocab: 32_002,
    activation: 'silu',
    ropeTheta: 10_000,
  },
} as const satisfies Record<string, BenchShape>;

export type BenchShapeName = keyof typeof BENCH_SHAPES;

export type BenchHead = 'full' | 'int8';

const BLOCK_BYTES = 1 << 20;

/** A block of bytes made by `next`, which gets 32 random bits. */
function randomBlock(next: (bits: number) => number): Uint8Array {
  const block = new Uint8Array(BLOCK_BYTES);
  let state = 0x9e3779b9;
  for (let i = 0; i < block.length; i += 1) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    block[i] = next(state >>> 0);
  }
  return block;
}

function fill(bytes: number, block: Uint8Array): Uint8Array {
  const out = new Uint8Array(bytes);
  for (let at = 0; at < bytes; at += block.length) out.set(block.subarray(0, Math.min(block.length, bytes - at)), at);
  return out;
}

export function randomModel(shape: BenchShape, head: BenchHead, contextLength = 1024, name = 'random'): Program {
  const { hidden, ffn, heads, kvHeads, headDim, vocab } = shape;
  // The uneven 0.3, 0.4, 0.3 of trained models does not matter; three codes a field, never 3.
  const trits = randomBlock(
    (bits) => (bits % 3) | (((bits >>> 8) % 3) << 2) | (((bits >>> 16) % 3) << 4) | (((bits >>> 24) % 3) << 6),
  );
  // bf16 values of magnitude 2^-7 .. 2^-6: low byte random, high byte sign and exponent.
  const halves = randomBlock((bits) => bits & 255);
  for (let i = 1; i < halves.length; i += 2) halves[i] = (halves[i]! & 0x80) | 0x3c;
  const int8Block = randomBlock((bits) => (bits % 255) - 127);

  const ternary = (part: string, rows: number, columns: number): TernaryWeight => ({
    kind: 'ternary',
    name: part,
    rows,
    columns,
    layout: 'rowquad',
    bytes: fill(Math.ceil(rows / 4) * columns, trits),
    scale: Math.fround(1 / Math.sqrt(columns)),
  });
  const ones = (n: number): VectorWeight => ({ kind: 'vector', name: 'norm', values: new Float32Array(n).fill(1) });
  const layers = Array.from(
    { length: shape.layers },
    (_, i): LayerWeights => ({
      inputNorm: ones(hidden),
      q: ternary(`${i}.q`, heads * headDim, hidden),
      k: ternary(`${i}.k`, kvHeads * headDim, hidden),
      v: ternary(`${i}.v`, kvHeads * headDim, hidden),
      attnSubNorm: ones(heads * headDim),
      o: ternary(`${i}.o`, hidden, heads * headDim),
      postAttentionNorm: ones(hidden),
      gate: ternary(`${i}.gate`, ffn, hidden),
      up: ternary(`${i}.up`, ffn, hidden),
      ffnSubNorm: ones(ffn),
      down: ternary(`${i}.down`, hidden, ffn),
    }),
  );
  const embedding: DenseWeight = {
    kind: 'dense',
    name: 'embedding',
    rows: vocab,
    columns: hidden,
    dtype: 'bf16',
    bytes: fill(2 * vocab * hidden, halves),
  };
  const int8 = (): Int8Weight => ({
    kind: 'int8',
    name: 'head',
    rows: vocab,
    columns: hidden,
    codes: new Int8Array(fill(vocab * hidden, int8Block).buffer),
    rowScale: new Float32Array(vocab).fill(1e-3),
  });
  const weights: ModelWeights = {
    embedding,
    layers,
    finalNorm: ones(hidden),
    head: head === 'int8' ? int8() : embedding,
  };
  const config: ModelConfig = {
    family: shape.activation === 'relu2' ? 'bitnet' : 'onebitllm',
    hiddenSize: hidden,
    intermediateSize: ffn,
    numHiddenLayers: shape.layers,
    numAttentionHeads: heads,
    numKeyValueHeads: kvHeads,
    headDim,
    vocabSize: vocab,
    maxPositionEmbeddings: contextLength,
    ropeTheta: shape.ropeTheta,
    rmsNormEps: 1e-5,
    hiddenAct: shape.activation,
    tieWordEmbeddings: true,
    linearStorage: 'packed-multiply',
    bosTokenId: undefined,
    eosTokenIds: [],
    unknownKeys: [],
  };
  return recordProgram(config, weights, { name, contextLength });
}
