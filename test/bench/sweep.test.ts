// The table of `bench --threads sweep`: its counts, its shares, and the choice of `auto`, on a small shape.

import { expect, test } from 'vitest';
import { type BenchShape, randomModel } from '../../src/bench/random-model.ts';
import { promptMultiplyAdds, runSweep, sweepCounts } from '../../src/bench/sweep.ts';
import { cpuBackend } from '../../src/engine/cpu/backend.ts';
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

test('counts are powers of two and all', () => {
  expect([1, 2, 3, 8, 12, 16].map(sweepCounts)).toEqual([
    [1],
    [1, 2],
    [1, 2, 3],
    [1, 2, 4, 8],
    [1, 2, 4, 8, 12],
    [1, 2, 4, 8, 16],
  ]);
});

test('multiply-adds of a prompt token: the matrices of the layers, without the head', () => {
  // q and o 64 x 64, k and v 64 x 32, gate, up and down 64 x 96.
  expect(promptMultiplyAdds(randomModel(SMALL, 'int8'))).toBe(2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 96));
  const grouped = { ...SMALL, family: 'qwen3', hidden: 128, ffn: 256, headDim: 32 } as const;
  expect(promptMultiplyAdds(randomModel(grouped, 'full'))).toBe(2 * 2 * (2 * 128 * 128 + 2 * 128 * 64 + 3 * 128 * 256));
});

test.skipIf((await cpuBackend.unavailable()) !== undefined)('a row for each count and one for auto', async () => {
  const program = randomModel(SMALL, 'int8', 256);
  using executable = await cpuBackend.load(program, { threads: 3 });
  const { rows, auto, promptTokens } = await runSweep(executable, program);
  expect(promptTokens).toBe(128);
  expect(rows.map(({ threads }) => threads)).toEqual([1, 2, 3, 0]);
  for (const row of rows) {
    for (const value of Object.values(row).slice(1)) expect(value).toBeGreaterThan(0);
  }
  for (const count of Object.values(auto)) expect([1, 2, 3]).toContain(count);
  // Left to its own choice, as it was last; a number is taken as it is.
  executable.useThreads(2);
  expect(executable.threadsUsed()).toEqual({ generation: 2, prompt: 2 });
  expect(() => executable.useThreads(4)).toThrow(/as many threads as were loaded/);
});

test('a backend without threads to choose is refused', async () => {
  const program = randomModel(SMALL, 'int8', 128);
  using executable = await wasmBackend.load(program, {});
  await expect(runSweep(executable, program)).rejects.toThrow(/no number of threads to choose/);
});
