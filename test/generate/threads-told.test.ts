import { describe, expect, test } from 'vitest';
import { footer } from '../../src/cli/infer.ts';
import { cpuBackend } from '../../src/engine/cpu/backend.ts';
import { Engine } from '../../src/generate/engine.ts';
import { threadsUsed } from '../../src/generate/local-source.ts';
import type { LogitsModel } from '../../src/generate/logits-model.ts';
import { threadsTold } from '../../src/generate/threads-told.ts';
import type { GenerateResult } from '../../src/generate/types.ts';

const model = (used: Partial<LogitsModel>) => used as LogitsModel;

const noNative = (await cpuBackend.unavailable()) !== undefined;

describe('the number of threads that is told', () => {
  test('is what generation has come to where it was left to the backend', () => {
    let generation = 16;
    const executable = model({ threadsUsed: () => ({ generation, prompt: 16 }) });
    const info = { backend: 'cpu', isa: 'avx2', threads: 16, head: 'full' } as const;
    expect(threadsUsed({ info, executable })).toBe(16);
    generation = 6;
    expect(threadsUsed({ info, executable })).toBe(6);
  });

  test('is that of the backend where there is nothing to choose', () => {
    expect(threadsUsed({ info: { backend: 'js', threads: 1 }, executable: model({}) })).toBe(1);
    expect(threadsUsed({ info: { backend: 'onnx' }, executable: model({}) })).toBeUndefined();
  });

  test('stands in the line under a text', () => {
    const result = {
      model: 'm',
      usage: { completionTokens: 9 },
      timings: { promptMs: 1, firstTokenMs: 2, tokensPerSecond: 30, threads: 6 },
      engine: { backend: 'cpu', isa: 'avx2', threads: 16 },
      finishReason: 'length',
    } as unknown as GenerateResult;
    expect(footer(result)).toContain('(cpu avx2, 6 threads)');
    const { threads: _, ...timings } = result.timings;
    expect(footer({ ...result, timings })).toContain('(cpu avx2, 16 threads)');
  });
});

describe('the line in a log', () => {
  const limits = (processors: number, more: { online?: number; quota?: number } = {}) => {
    const { online, quota } = { online: processors, quota: undefined, ...more };
    return { online, processors, quota, usable: Math.min(processors, Math.ceil(quota ?? processors)) };
  };

  test('has both numbers and why there are not more', () => {
    expect(threadsTold('m', { generation: 6, prompt: 16 }, 16, limits(16))).toEqual({
      model: 'm',
      generation: 6,
      prompts: 16,
      of: 16,
      reason: 'more were not faster; the machine has 16 processors',
    });
    expect(threadsTold('m', { generation: 3, prompt: undefined }, 3, limits(8, { quota: 2.5 }))).toEqual({
      model: 'm',
      generation: 3,
      prompts: null,
      of: 3,
      reason: 'control groups allow the time of 2.5 processors, of 8',
    });
    const { reason } = threadsTold('m', { generation: 256, prompt: 256 }, 256, limits(384, { online: 400 }));
    expect(reason).toBe('the engine runs 256 at most');
    expect(threadsTold('m', { generation: 4, prompt: 4 }, 4, limits(4, { online: 8 })).reason).toBe(
      'the affinity mask or a cpuset allows 4 processors, of 8',
    );
  });

  test.skipIf(noNative)(
    'is given once for each load, when the number has been found',
    { timeout: 60_000 },
    async () => {
      const write = (engine: Engine, more: { threads?: number } = {}) =>
        engine.use({ model: 'default', backend: 'cpu', ...more }, async ({ executable }) => {
          const sequence = executable.createSequence();
          for (let i = 0; i < 200 && executable.threadsFound!().generation === undefined; i += 1) {
            await executable.step({
              tokens: Int32Array.of(5),
              sequences: Int32Array.of(sequence),
              positions: Int32Array.of(executable.sequenceLength(sequence)),
              outputRows: new Int32Array(0),
            });
          }
          executable.freeSequence(sequence);
          return executable.threadsFound!();
        });
      const engine = new Engine();
      await engine.use({ model: 'default', backend: 'cpu' }, async () => {});
      const found = await write(engine);
      const told = engine.takeThreadsFound();
      expect(told).toHaveLength(1);
      expect(told[0]).toMatchObject({ model: 'default', generation: found.generation, prompts: null });
      expect(told[0]!.of).toBeGreaterThanOrEqual(found.generation!);
      expect(engine.takeThreadsFound()).toEqual([]);
      // A number that was given was not found.
      expect(await write(engine, { threads: 1 })).toEqual({ generation: undefined, prompt: undefined });
      expect(engine.takeThreadsFound()).toEqual([]);
      engine[Symbol.dispose]();
      await write(engine);
      expect(engine.takeThreadsFound(), 'loaded again').toHaveLength(1);
      engine[Symbol.dispose]();
    },
  );
});
