// Models of published shapes with random ternary weights: what a step costs depends on the shape, not on the values.
// Weights are filled by copying one random block about, so that a 2B model is there in about a second.

import type {
  DenseWeight,
  GroupedWeight,
  Int8Weight,
  Program,
  TernaryWeight,
  VectorWeight,
} from '../engine/program.ts';
import { MODEL_TENSORS, tensorsOf } from '../model/graph.ts';
import { graphOf } from '../model/graphs/all.ts';
import { estimateMemory, requireRoom } from '../model/memory-estimate.ts';
import type { ModelConfig, ModelFamily } from '../model/model-config.ts';
import type { LayerWeights, MatrixRole, ModelWeights, VectorRole } from '../model/model-weights.ts';
import { recordProgram } from '../model/record.ts';
import { foldableInGguf } from '../model/rotation.ts';
import { f32ToF16 } from '../quant/f16.ts';

export type BenchShape = {
  /** The graph; ternary matrices of `qwen3` have a scale for every 128 columns, its embedding and head among them. */
  readonly family: ModelFamily;
  readonly hidden: number;
  readonly ffn: number;
  readonly layers: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly vocab: number;
  readonly ropeTheta: number;
  readonly tied: boolean;
  /** Embedding and head are float tables although matrices are grouped. */
  readonly denseTables?: boolean;
  /** Matrices, by role, that stay floats. */
  readonly floats?: readonly MatrixRole[];
  /** What only its graph has. */
  readonly own?: (layers: number) => Partial<ModelConfig>;
  /** Columns of a block of the rotation that its weights are stored in. */
  readonly rotationBlock?: number;
};

const HYBRID_27B: BenchShape = {
  family: 'qwen35',
  hidden: 5120,
  ffn: 17_408,
  layers: 64,
  heads: 24,
  kvHeads: 4,
  headDim: 256,
  vocab: 248_320,
  ropeTheta: 10_000_000,
  tied: false,
  own: (layers) => ({
    rotaryDim: 64,
    layerKinds: Array.from({ length: layers }, (_, i) => (i % 4 === 3 ? 'attention' : 'recurrent')),
    deltaNet: { keyHeads: 16, valueHeads: 48, headDim: 128, convTaps: 4, order: 'tiled' },
  }),
};

/**
 * microsoft/bitnet-b1.58-2B-4T, 1bitLLM/bitnet_b1_58-large and -3B: the numbers of their config.json; and prism-ml's
 * Ternary Bonsai 1.7B, 4B, 8B, 27B and 2 27B; and deepgrove's Maple 20B.
 */
export const BENCH_SHAPES = {
  '2b4t': {
    family: 'bitnet',
    hidden: 2560,
    ffn: 6912,
    layers: 30,
    heads: 20,
    kvHeads: 5,
    headDim: 128,
    vocab: 128_256,
    ropeTheta: 500_000,
    tied: true,
  },
  large: {
    family: 'onebitllm',
    hidden: 1536,
    ffn: 4096,
    layers: 24,
    heads: 16,
    kvHeads: 16,
    headDim: 96,
    vocab: 32_002,
    ropeTheta: 10_000,
    tied: true,
  },
  '3b': {
    family: 'onebitllm',
    hidden: 3200,
    ffn: 8640,
    layers: 26,
    heads: 32,
    kvHeads: 32,
    headDim: 100,
    vocab: 32_002,
    ropeTheta: 10_000,
    tied: true,
  },
  'bonsai-1.7b': bonsai({ hidden: 2048, ffn: 6144, layers: 28, heads: 16, vocab: 151_936, tied: true }),
  'bonsai-4b': bonsai({ hidden: 2560, ffn: 9728, layers: 36, heads: 32, vocab: 151_936, tied: true }),
  'bonsai-8b': bonsai({ hidden: 4096, ffn: 12_288, layers: 36, heads: 32, vocab: 151_669, tied: false }),
  'bonsai-27b': HYBRID_27B,
  'bonsai-2-27b': { ...HYBRID_27B, floats: ['alpha', 'beta'], rotationBlock: 1024 },
  'maple-20b': {
    family: 'maple',
    hidden: 2048,
    ffn: 512,
    layers: 24,
    heads: 16,
    kvHeads: 4,
    headDim: 128,
    vocab: 151_936,
    ropeTheta: 10_000,
    tied: false,
    denseTables: true,
    own: (layers) => ({
      rotaryDim: 64,
      experts: { count: 256, used: 8, intermediateSize: 512, clamps: new Array<number>(layers).fill(7) },
      windows: Array.from({ length: layers }, (_, i) => (i % 4 === 3 ? 0 : 512)),
    }),
  },
} as const satisfies Record<string, BenchShape>;

/** What the three Bonsai models share. */
function bonsai(own: Pick<BenchShape, 'hidden' | 'ffn' | 'layers' | 'heads' | 'vocab' | 'tied'>): BenchShape {
  return { ...own, family: 'qwen3', kvHeads: 8, headDim: 128, ropeTheta: 1_000_000 };
}

export type BenchShapeName = keyof typeof BENCH_SHAPES;

export type BenchHead = 'full' | 'int8';

/** Whether embedding and head are grouped matrices. */
export function hasTernaryTables({ family, denseTables = false }: BenchShape): boolean {
  return graphOf(family).oneScale === 'int16' && !denseTables;
}

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

/** Columns that share a scale in the grouped matrices made here. */
const GROUP = 128;

export function randomModel(shape: BenchShape, head: BenchHead, contextLength = 1024, name = 'random'): Program {
  const { hidden, vocab } = shape;
  const graph = graphOf(shape.family);
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
  const grouped = (part: string, rows: number, columns: number, experts?: number): GroupedWeight => {
    const panels = (experts ?? 1) * Math.ceil(rows / 64);
    const scales = new Uint16Array(panels * (columns / GROUP) * 64).fill(f16Of(1 / Math.sqrt(columns)));
    return {
      kind: 'grouped',
      name: part,
      rows,
      columns,
      ...(experts !== undefined && { experts }),
      group: GROUP,
      layout: 'panel64',
      bytes: fill(panels * columns * 16, trits),
      scaleType: 'f16',
      scales: new Uint8Array(scales.buffer),
    };
  };
  const isGrouped = graph.oneScale === 'int16';
  const filled = (part: string, n: number, value: number): VectorWeight => ({
    kind: 'vector',
    name: part,
    values: new Float32Array(n).fill(value),
  });
  const dense = (part: string, rows: number, columns: number): DenseWeight => ({
    kind: 'dense',
    name: part,
    rows,
    columns,
    dtype: 'bf16',
    bytes: fill(2 * rows * columns, halves),
  });
  const int8 = (): Int8Weight => ({
    kind: 'int8',
    name: 'head',
    rows: vocab,
    columns: hidden,
    codes: new Int8Array(fill(vocab * hidden, int8Block).buffer),
    rowScale: new Float32Array(vocab).fill(1e-3),
  });
  const hasGroupedTables = hasTernaryTables(shape);
  const table = (part: string) => (hasGroupedTables ? grouped(part, vocab, hidden) : dense(part, vocab, hidden));

  const common: ModelConfig = {
    family: shape.family,
    hiddenSize: hidden,
    intermediateSize: shape.ffn,
    numHiddenLayers: shape.layers,
    numAttentionHeads: shape.heads,
    numKeyValueHeads: shape.kvHeads,
    headDim: shape.headDim,
    vocabSize: vocab,
    maxPositionEmbeddings: contextLength,
    ropeTheta: shape.ropeTheta,
    rmsNormEps: graph.defaults.rmsNormEps,
    hiddenAct: graph.defaults.hiddenAct,
    tieWordEmbeddings: shape.tied,
    linearStorage: isGrouped ? 'gguf' : 'packed-multiply',
    bosTokenId: undefined,
    eosTokenIds: [],
    unknownKeys: [],
  };
  const config = withRotation({ ...common, ...shape.own?.(shape.layers) }, shape.rotationBlock);
  requireRoom(
    estimateMemory(config, () => ({ dtype: 'PQ2_0', byteLength: 0 }), 'gguf', { contextLength }),
    name,
  );

  const layers = Array.from({ length: shape.layers }, (_, i) => {
    const weights = tensorsOf(graph, config, i, 'gguf').map(({ tensor, name: part }) => {
      if (tensor.kind === 'vector') return [tensor.role, filled(part, tensor.length(config), VALUES[tensor.role] ?? 1)];
      const [rows, columns] = tensor.shape(config);
      if (tensor.floats === true || shape.floats?.includes(tensor.role))
        return [tensor.role, dense(part, rows, columns)];
      const experts = tensor.experts?.(config);
      return [tensor.role, isGrouped ? grouped(part, rows, columns, experts) : ternary(part, rows, columns)];
    });
    return Object.fromEntries(weights) as LayerWeights;
  });
  const embedding = table(MODEL_TENSORS.embedding.gguf);
  const weights: ModelWeights = {
    embedding,
    layers,
    finalNorm: filled(MODEL_TENSORS.finalNorm.gguf, hidden, 1),
    head: head === 'int8' ? int8() : shape.tied ? embedding : table(MODEL_TENSORS.head.gguf),
  };
  return recordProgram(config, weights, { name, contextLength });
}

/** Values of vectors that are not 1, which norms are: a decay that forgets slowly, taps that sum up to less than 1. */
const VALUES: { readonly [Role in VectorRole]?: number } = { decay: -0.05, decayBias: 0, conv: 0.2 };

/** A rotation of every matrix that can have one, with signs that alternate unevenly. */
function withRotation(config: ModelConfig, block: number | undefined): ModelConfig {
  if (block === undefined) return config;
  const graph = graphOf(config.family);
  const names = Array.from({ length: config.numHiddenLayers }, (_, i) => tensorsOf(graph, config, i, 'gguf'))
    .flat()
    .map(({ name }) => name);
  const { embedding, head } = MODEL_TENSORS;
  const tables = config.tieWordEmbeddings ? [embedding.gguf] : [head.gguf];
  const matrices = new Set([...names.filter((name) => foldableInGguf(name) !== undefined), ...tables]);
  const signs = (width: number) => Float32Array.from({ length: width }, (_, i) => ((i * 7919) % 13 < 6 ? -1 : 1));
  return { ...config, rotation: { block, signs, matrices, embedding: true, groupedColumns: true } };
}

/** The bits of a number as f16. */
function f16Of(value: number): number {
  const bytes = f32ToF16(Float32Array.of(value));
  return bytes[0]! | (bytes[1]! << 8);
}
