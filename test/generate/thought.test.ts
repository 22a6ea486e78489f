// Thought told from answer: by the tokens <think> and </think>, wherever a chat template or the model puts them.

import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import type { Engine } from '../../src/generate/engine.ts';
import { generateWith } from '../../src/generate/generate.ts';
import type { LoadedModel } from '../../src/generate/loaded-model.ts';
import { localSource } from '../../src/generate/local-source.ts';
import type { LogitRow } from '../../src/generate/sampler.ts';
import { ThoughtReader } from '../../src/generate/thought.ts';
import type { GenerateRequest } from '../../src/generate/types.ts';
import { loadTokenizer } from '../../src/tokenizer/load-tokenizer.ts';
import { logitRow } from './helpers.ts';

const tokenizer = await loadTokenizer(join(import.meta.dirname, '../golden/tokenizer-2026/qwen3'));
const ids = (text: string) => tokenizer.encode(text, { addSpecial: false });
const vocabSize = 2000;

/** An engine whose model writes `text`, token by token, whatever it reads; a forced token replaces the one it would write. */
function writes(text: string): { engine: Engine; forced: number[] } {
  const script = [...ids(text), tokenizer.tokenId('<|im_end|>')!];
  const forced: number[] = [];
  const model = {
    name: 'scripted',
    info: { backend: 'js' },
    home: '',
    tokenizer,
    contextLength: 512,
    vocabSize,
    executable: {},
    isStop: (id: number) => id === tokenizer.tokenId('<|im_end|>'),
    warnings: [],
    scheduler: {
      run: async (_: number[], { next }: { next: (row: LogitRow, counts: Int32Array) => number | undefined }) => {
        for (let i = 0; ; ) {
          const wanted = script[Math.min(i, script.length - 1)]!;
          const logits = new Float32Array(vocabSize);
          logits[wanted] = 20;
          const token = next(logitRow(logits), new Int32Array(0));
          if (token === undefined) return;
          if (token === wanted) i += 1;
          else {
            forced.push(token);
            // What was forced ends the thought: the model goes on behind it.
            if (token === tokenizer.tokenId('</think>')) i = script.lastIndexOf(token) + 2;
          }
        }
      },
    },
    sampling: {},
  } as unknown as LoadedModel;
  const engine = {
    backendOf: () => 'js',
    useSource: async (_: unknown, use: (source: unknown) => unknown) => use(localSource(model)),
  } as unknown as Engine;
  return { engine, forced };
}

const ask = (engine: Engine, request: Partial<GenerateRequest> = {}) =>
  generateWith(engine, { model: 'scripted', prompt: '<|im_start|>assistant\n', maxTokens: 100, ...request });

describe('a thought', () => {
  test('is reasoning, and neither in the trace nor in the completion', async () => {
    const { engine } = writes('<think>\nTwo and two.\n</think>\n\nFour.');
    const result = await ask(engine);
    expect(result).toMatchObject({ reasoning: 'Two and two.', completion: 'Four.', finishReason: 'stop' });
    expect(result.trace.map(({ token }) => token).join('')).toBe('Four.');
    expect(result.trace.map(({ step }) => step)).toEqual(result.trace.map((_, i) => i));
    // The color stream begins with the answer.
    expect(result.trace[0]!.color).toBe('#6404C3');
    expect(result.usage.reasoningTokens).toBe(ids('<think>\nTwo and two.\n</think>\n\n').length);
  });

  test('that the limit cuts is reasoning, not answer, and that is said', async () => {
    const { engine } = writes('<think>\nTwo and two make a number that');
    const result = await ask(engine, { maxTokens: 6 });
    expect(result).toMatchObject({ completion: '', finishReason: 'length', trace: [] });
    expect(result.reasoning!.length).toBeGreaterThan(0);
    expect(result.warnings!.join()).toMatch(/still thinking/);
  });

  test('that the template opened needs no mark of the model', async () => {
    const { engine } = writes('Two.\n</think>\n\nFour.');
    const result = await ask(engine, { prompt: '<|im_start|>assistant\n<think>\n' });
    expect(result).toMatchObject({ reasoning: 'Two.', completion: 'Four.' });
  });

  test('in the words of a user opens none', async () => {
    const { engine } = writes('Four.');
    const prompt = '<|im_start|>user\n<think> what?<|im_end|>\n<|im_start|>assistant\n';
    const result = await ask(engine, { prompt });
    expect(result.completion).toBe('Four.');
    expect(result.reasoning).toBeUndefined();
  });

  test('over its budget is closed, and answered', async () => {
    const { engine, forced } = writes('<think>\nOn and on and on and on.\n</think>\n\nFour.');
    const result = await ask(engine, { thinking: 3 });
    expect(forced).toContain(tokenizer.tokenId('</think>'));
    expect(result.completion).toBe('Four.');
    expect(result.usage.reasoningTokens).toBe(3 + ids('\n</think>\n\n').length);
  });

  test('goes on in a continuation', async () => {
    const cut = await ask(writes('<think>\nOne. Two. Three.').engine, { maxTokens: 5 });
    expect(cut.continuation).toBeDefined();
    const { engine } = writes(' Three.\n</think>\n\nFour.');
    const rest = await generateWith(engine, { model: 'scripted', continuation: cut.continuation!, maxTokens: 50 });
    expect(rest).toMatchObject({ completion: 'Four.', finishReason: 'stop' });
    expect(rest.reasoning).toContain('Three.');
  });
});

test('a vocabulary without the marks knows no thought', async () => {
  const plain = await loadTokenizer(join(import.meta.dirname, '../../models/default'));
  expect(ThoughtReader.for(plain, [])).toBeUndefined();
});

test('thinking that is no number of tokens is refused', async () => {
  await expect(ask(writes('x').engine, { thinking: -1 })).rejects.toThrow(/thinking is -1/);
});
