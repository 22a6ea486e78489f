import { expect, test } from 'vitest';
import { runBench } from '../../src/bench/bench.ts';
import { BENCH_SHAPES, type BenchShape, randomModel } from '../../src/bench/random-model.ts';
import { wasmBackend } from '../../src/engine/wasm/backend.ts';

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
