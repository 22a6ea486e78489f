import { describe, expect, test } from 'vitest';
import { cpuBackend } from '../../src/engine/cpu/backend.ts';
import { loadNative } from '../../src/engine/cpu/native.ts';
import { jsBackend } from '../../src/engine/js/backend.ts';
import { wasmBackend } from '../../src/engine/wasm/backend.ts';
import { randomProgram } from '../generate/helpers.ts';
import { hybridProgram } from '../generate/hybrid-program.ts';
import { randomEdits } from '../kernels/random-edits.ts';

const native = 'reason' in (await loadNative()) ? [] : [cpuBackend];

describe.each([jsBackend, wasmBackend, ...native])('$name', (backend) => {
  const load = (program: Parameters<typeof backend.load>[0]) => backend.load(program, { threads: 2 });

  test.each([
    { window: 0, count: 1000, longest: 24 },
    { window: 16, count: 1000, longest: 30 },
    { window: 64, count: 200, longest: 120 },
  ])(
    '$count edits of recurrent sequences, window $window',
    async ({ window, count, longest }) => {
      const done = await randomEdits(hybridProgram({ window }), load, { count, longest, seed: 5 + window });
      expect(Math.min(done.steps, done.forks, done.refused)).toBeGreaterThan(5);
      expect(done.cleared).toBeGreaterThan(0);
    },
    120_000,
  );

  test('1,000 edits of sequences with a KV cache alone', async () => {
    const done = await randomEdits(randomProgram(), load, { count: 1000, longest: 24, seed: 3 });
    expect(done.refused).toBe(0);
    expect(Math.min(done.steps, done.cuts, done.forks, done.cleared)).toBeGreaterThan(5);
  }, 120_000);
});
