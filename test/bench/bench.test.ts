import { expect, test } from 'vitest';
import { runBench } from '../../src/bench/bench.ts';
import { BENCH_SHAPES, type BenchShape, randomModel } from '../../src/bench/random-model.ts';
import { jsBackend } from '../../src/engine/js/backend.ts';
import { wasmBackend } from '../../src/engine/wasm/backend.ts';
import { tensorsOf } from '../../src/model/graph.ts';
import { graphOf } from '../../src/model/graphs/all.ts';
import type { ModelConfig } from '../../src/model/model-config.ts';

const SMALL: BenchShape = {
  hidden: 64,
  ffn: 96,
  layers: 2,
  heads: 4,
  kvHeads: 2,
  headDim: 16,
  vocab: 100,
  family: 'bitnet',
  tied: true,
  ropeTheta: 10_000,
};

test('random models are programs that every backend takes: no code 3, the head asked for', () => {
  for (const head of ['full', 'int8'] as const) {
    const program = randomModel(SMALL, head);
    for (const weight of program.weights) {
      if (weight.kind !== 'ternary') continue;
      expect(weight.bytes.length).toBe((weight.rows / 4) * weight.columns);
      for (const byte of weight.bytes) expect(byte & (byte >> 1) & 0x55, weight.name).toBe(0);
    }
    expect(program.ops.at(-1)!.op).toBe(head === 'int8' ? 'int8Matmul' : 'denseMatmul');
  }
});

test('shapes hold as many ternary weights as the models they are named for', () => {
  const count = (shape: BenchShape) => {
    const { hidden, ffn, heads, kvHeads, headDim, layers } = shape;
    return layers * (2 * hidden * heads * headDim + 2 * hidden * kvHeads * headDim + 3 * hidden * ffn);
  };
  expect(count(BENCH_SHAPES['2b4t'])).toBe(2_084_044_800);
  expect(count(BENCH_SHAPES.large)).toBe(679_477_248);
  expect(count(BENCH_SHAPES['3b'])).toBe(3_221_504_000);
});

test('hybrid and mixture shapes have the sizes of their models, and run small', async () => {
  const parameters = (shape: BenchShape) => {
    const config = { ...configOf(shape), ...shape.own?.(shape.layers) };
    const graph = graphOf(shape.family);
    let count = 2 * shape.vocab * shape.hidden;
    for (let index = 0; index < shape.layers; index += 1) {
      for (const { tensor } of tensorsOf(graph, config, index, 'gguf')) {
        if (tensor.kind === 'vector') continue;
        const [rows, columns] = tensor.shape(config);
        count += rows * columns * (tensor.experts?.(config) ?? 1);
      }
    }
    return count;
  };
  expect(parameters(BENCH_SHAPES['bonsai-27b']) / 1e9).toBeCloseTo(26.9, 1);
  expect(parameters(BENCH_SHAPES['maple-20b']) / 1e9).toBeCloseTo(20.2, 1);

  const small = { hidden: 128, ffn: 256, layers: 4, heads: 2, kvHeads: 1, headDim: 64, vocab: 96 };
  const deltaNet = { keyHeads: 1, valueHeads: 2, headDim: 64, convTaps: 4, order: 'tiled' } as const;
  const hybrid: BenchShape = {
    ...BENCH_SHAPES['bonsai-2-27b'],
    ...small,
    own: (layers) => ({ ...BENCH_SHAPES['bonsai-2-27b'].own!(layers), rotaryDim: 16, deltaNet }),
    rotationBlock: 64,
  };
  const mixture: BenchShape = {
    ...BENCH_SHAPES['maple-20b'],
    ...small,
    own: (layers) => ({
      ...BENCH_SHAPES['maple-20b'].own(layers),
      rotaryDim: 32,
      experts: { count: 4, used: 2, intermediateSize: 128, clamps: [7, 7, 7, 7] },
    }),
  };
  for (const shape of [hybrid, mixture]) {
    const program = randomModel(shape, 'full', 128);
    using executable = await jsBackend.load(program, {});
    const result = await runBench(executable, program, { promptTokens: 8, generatedTokens: 4 });
    expect(result.generatedTokens).toBe(4);
    expect(result.generationTokensPerSecond).toBeGreaterThan(0);
  }
  expect(randomModel(hybrid, 'full', 16).ops.filter(({ op }) => op === 'hadamard').length).toBe(1 + 4 * 4 + 1);
});

const configOf = (shape: BenchShape): ModelConfig => ({
  family: shape.family,
  hiddenSize: shape.hidden,
  intermediateSize: shape.ffn,
  numHiddenLayers: shape.layers,
  numAttentionHeads: shape.heads,
  numKeyValueHeads: shape.kvHeads,
  headDim: shape.headDim,
  vocabSize: shape.vocab,
  maxPositionEmbeddings: 16,
  ropeTheta: shape.ropeTheta,
  rmsNormEps: 1e-6,
  hiddenAct: 'silu',
  tieWordEmbeddings: false,
  linearStorage: 'gguf',
  bosTokenId: undefined,
  eosTokenIds: [],
  unknownKeys: [],
});

test('a bench reports rates and bytes that fit together', async () => {
  const program = randomModel(SMALL, 'int8', 128);
  using executable = await wasmBackend.load(program, {});
  const result = await runBench(executable, program, { promptTokens: 40, generatedTokens: 12, concurrency: 3 });
  expect(result).toMatchObject({ backend: 'wasm', threads: 1, promptTokens: 40, generatedTokens: 12, concurrency: 3 });
  expect(result.promptTokensPerSecond).toBeGreaterThan(0);
  expect(result.generationTokensPerSecond).toBeGreaterThan(0);
  expect(result.totalTokensPerSecond).toBeGreaterThan(0);
  // Half of the generation on top of the prompt: 46 positions of K and V in 2 layers.
  expect(result.bytesPerToken - result.weightBytes).toBe(2 * 4 * 2 * 2 * 16 * 46);
  expect(result.peakRssBytes).toBeGreaterThan(1 << 20);
  if (result.bandwidthBytesPerSecond !== undefined) {
    const used = result.generationTokensPerSecond * result.bytesPerToken;
    expect(result.bandwidthShare).toBeCloseTo(used / result.bandwidthBytesPerSecond, 12);
  }
});

test('one sequence, asked for, has a total as well; not asked for, none', async () => {
  const program = randomModel(SMALL, 'int8', 128);
  using executable = await wasmBackend.load(program, {});
  const sizes = { promptTokens: 8, generatedTokens: 4 };
  expect((await runBench(executable, program, { ...sizes, concurrency: 1 })).totalTokensPerSecond).toBeGreaterThan(0);
  expect((await runBench(executable, program, sizes)).totalTokensPerSecond).toBeUndefined();
});
