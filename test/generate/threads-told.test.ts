import { describe, expect, test } from 'vitest';
import { infoNow } from '../../src/generate/local-source.ts';
import type { LogitsModel } from '../../src/generate/logits-model.ts';

const model = (used: Partial<LogitsModel>) => used as LogitsModel;

describe('the number of threads that a result tells', () => {
  test('is what generation has come to where it was left to the backend', () => {
    let generation = 16;
    const executable = model({ threadsUsed: () => ({ generation, prompt: 16 }) });
    const info = { backend: 'cpu', isa: 'avx2', threads: 16, head: 'full' } as const;
    expect(infoNow({ info, executable })).toEqual(info);
    generation = 6;
    expect(infoNow({ info, executable })).toEqual({ ...info, threads: 6 });
  });

  test('is that of the backend where there is nothing to choose', () => {
    const info = { backend: 'js', threads: 1 } as const;
    expect(infoNow({ info, executable: model({}) })).toBe(info);
    expect(infoNow({ info: { backend: 'onnx' }, executable: model({}) })).toEqual({ backend: 'onnx' });
  });
});
