import { describe, expect, test } from 'vitest';
import { footer } from '../../src/cli/infer.ts';
import { threadsUsed } from '../../src/generate/local-source.ts';
import type { LogitsModel } from '../../src/generate/logits-model.ts';
import type { GenerateResult } from '../../src/generate/types.ts';

const model = (used: Partial<LogitsModel>) => used as LogitsModel;

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
