// Structured texts from request to result: what is forced, what log-probabilities are, thoughts before, and going on.

import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Engine } from '../../../src/generate/engine.ts';
import { generateWith } from '../../../src/generate/generate.ts';
import type { LoadedModel } from '../../../src/generate/loaded-model.ts';
import { localSource } from '../../../src/generate/local-source.ts';
import { type LogitRow, tellToken } from '../../../src/generate/sampler.ts';
import type { GenerateRequest } from '../../../src/generate/types.ts';
import { loadTokenizer } from '../../../src/tokenizer/load-tokenizer.ts';
import { runCli } from '../../cli/run-cli.ts';
import { logitRow } from '../helpers.ts';

const PET = {
  type: 'object',
  properties: { pet: { enum: ['cat', 'dog'] }, n: { type: 'integer' } },
  required: ['pet', 'n'],
};
const ASKED = { model: 'default', prompt: 'Lily had a pet: ', responseSchema: PET, temperature: 0 } as const;

let engine: Engine;
beforeAll(() => {
  engine = new Engine();
});
afterAll(() => engine[Symbol.dispose]());

describe('the embedded model', { timeout: 60_000 }, () => {
  test('marks what the structure left no choice for, and tells the model’s own log-probabilities', async () => {
    const result = await generateWith(engine, { ...ASKED, maxTokens: 60, topLogprobs: 1 });
    expect(['cat', 'dog']).toContain((JSON.parse(result.completion) as { pet: string }).pet);
    expect(result.finishReason).toBe('stop');
    expect(result.trace[0]).toMatchObject({ step: 0, color: '#6404C3', trit: -1 });
    const forced = result.trace.filter((step) => step.forced);
    expect(forced.length).toBeGreaterThan(0);
    expect(forced.length).toBeLessThan(result.trace.length);
    // The likeliest token of all is told as well, and is another one where the model was held back.
    const first = result.trace[0]!;
    expect(first.topLogprobs![0]!.logprob).toBeGreaterThan(first.logprob!);
    expect(result.trace.every(({ logprob }) => logprob! < 0)).toBe(true);
    expect(await generateWith(engine, { ...ASKED, maxTokens: 60, topLogprobs: 1 })).toMatchObject({
      trace: result.trace,
    });
  });

  test('where the structure leaves the model its choice, the text is what it writes without', async () => {
    const free = { model: 'default', prompt: 'Once upon a time', maxTokens: 30, temperature: 0.8, sampleSeed: 3n };
    const plain = await generateWith(engine, free);
    const held = await generateWith(engine, { ...free, grammar: 'root ::= .{0,2000}' });
    expect(held.completion).toBe(plain.completion);
    expect(held.trace).toEqual(plain.trace);
  });

  test('a forced ending is a whole text within max_tokens, and is said', async () => {
    const grammar = 'root ::= [a-z ]* "END" "."';
    for (const maxTokens of [4, 5, 9, 30]) {
      const result = await generateWith(engine, { model: 'default', prompt: 'Once', grammar, maxTokens });
      expect(result.completion).toMatch(/^[a-z ]*END\.$/);
      expect(result.trace.length).toBeLessThanOrEqual(maxTokens);
      expect(result.warnings?.join()).toMatch(
        /max_tokens was used up: the last (token is|\d+ tokens are) the shortest ending/,
      );
      expect([result.finishReason, result.continuation]).toEqual(['stop', undefined]);
    }
  });

  test('a text that can be read in too many ways is ended, whole, and that is said', async () => {
    const grammar = 'root ::= ([a-z ]{0,100}){0,100} "." [a-z]';
    const asked = { model: 'default', prompt: 'Once upon a time', grammar, temperature: 1, sampleSeed: 5n } as const;
    const result = await generateWith(engine, { ...asked, maxTokens: 200 });
    expect(result.completion).toMatch(/^[a-z ]{20,}\.[a-z]$/);
    expect(result.finishReason).toBe('stop');
    expect(result.warnings?.join()).toMatch(
      /^the structure needs more than 4000 ways to read a text here, so that the text was ended: the last .* shortest ending/,
    );
  });

  test('goes on within the structure where the time was over', async () => {
    const begun = await generateWith(engine, { ...ASKED, maxTokens: 60, maxSeconds: 1e-6 });
    expect(begun.finishReason).toBe('time');
    let text = begun.completion;
    let { continuation } = begun;
    for (let calls = 0; continuation !== undefined && calls < 60; calls++) {
      const next = await generateWith(engine, { model: 'default', continuation, maxTokens: 60, maxSeconds: 1e-6 });
      text += next.completion;
      continuation = next.continuation;
    }
    const whole = await generateWith(engine, { ...ASKED, maxTokens: 60 });
    expect(text).toBe(whole.completion);
  });

  test.each<[Partial<GenerateRequest>, string]>([
    [{ stop: ['}'] }, 'response_schema and stop together'],
    [{ grammar: 'root ::= "a"' }, 'response_schema and grammar together'],
    [{ maxTokens: 3 }, 'and 3 are left for it; give max_tokens'],
    [{ responseSchema: { type: 'x' } }, 'the type "x" is unknown'],
    [{ tools: [{ name: 'f' }] }, 'response_schema and tools together'],
  ])('%j is refused', async (more, message) => {
    await expect(generateWith(engine, { ...ASKED, ...more })).rejects.toThrow(message);
  });

  test('infer takes a schema as text or file, and a grammar as file', async () => {
    const { code, stdout } = await runCli([
      'infer',
      'A pet: ',
      '--response-schema',
      JSON.stringify(PET),
      '--max-tokens',
      '60',
      '--json',
    ]);
    expect(code).toBe(0);
    const result = JSON.parse(stdout) as { completion: string; trace: { forced?: boolean }[] };
    expect(JSON.parse(result.completion)).toHaveProperty('pet');
    expect(result.trace.some(({ forced }) => forced === true)).toBe(true);
    const missing = await runCli(['infer', 'x', '--grammar', 'no-such-file.ebnf']);
    expect([missing.code, missing.stderr]).toEqual([2, expect.stringContaining('there is no such file')]);
    const bad = await runCli(['infer', 'x', '--response-schema', '{"type"']);
    expect([bad.code, bad.stderr]).toEqual([2, expect.stringContaining('--response-schema is not JSON')]);
  });
});

describe('a model that thinks first', async () => {
  const tokenizer = await loadTokenizer(join(import.meta.dirname, '../../golden/tokenizer-2026/qwen3'));
  const vocabSize = tokenizer.vocabSize;
  const end = tokenizer.tokenId('<|im_end|>')!;

  /** Its model wants to write `text`, over and over its last token; what it is made to write instead counts as read. */
  function wants(text: string): Engine {
    const script = [...tokenizer.encode(text, { addSpecial: false }), end];
    const model = {
      name: 'scripted',
      info: { backend: 'js' },
      home: '',
      tokenizer,
      sampling: {},
      contextLength: 512,
      vocabSize,
      executable: {},
      isStop: (id: number) => id === end,
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
          }
        },
      },
    } as unknown as LoadedModel;
    return {
      backendOf: () => 'js',
      useSource: async (_: unknown, use: (source: unknown) => unknown) => use(localSource(model)),
    } as unknown as Engine;
  }

  const ask = (text: string, more: Partial<GenerateRequest> = {}) =>
    generateWith(wants(text), {
      ...{
        model: 'scripted',
        prompt: '<|im_start|>assistant\n',
        maxTokens: 60,
        responseSchema: { enum: ['cat', 'dog'] },
      },
      ...more,
    });

  test('thinks, and then its answer follows the schema', async () => {
    const result = await ask('<think>\nA cat or a dog?\n</think>\n\n"dog"');
    expect(result).toMatchObject({ reasoning: 'A cat or a dog?', completion: '"dog"', finishReason: 'stop' });
  });

  test('is not let think where that is off', async () => {
    expect(await ask('<think>\nhm\n</think>"dog"', { thinking: 'off' })).not.toHaveProperty('reasoning');
  });

  test('closes a thought in time for the answer', async () => {
    const endless = `<think>\n${'and so on '.repeat(60)}`;
    const result = await ask(endless, { maxTokens: 30 });
    expect(['"cat"', '"dog"']).toContain(result.completion);
    expect(result.reasoning).toMatch(/^and so on/);
    expect(result.usage.completionTokens + result.usage.reasoningTokens!).toBeLessThanOrEqual(30);
  });

  test('has an answer though it wants to end within its thought', async () => {
    const result = await ask('<think>\nhm');
    expect(['"cat"', '"dog"']).toContain(result.completion);
  });
});

test('what is told of a token is of the whole distribution', () => {
  const logits = Float32Array.of(0, Math.log(3));
  expect(tellToken(logits, 0).logprob).toBeCloseTo(Math.log(1 / 4), 6);
  expect(tellToken(logits, 1, 2).top!.map(({ token }) => token)).toEqual([1, 0]);
});
