// The loop from request to result, with the embedded model through the reference backend.

import { describe, expect, test } from 'vitest';
import { ArgumentError } from '../../src/errors.ts';
import { decodeContinuation, encodeContinuation } from '../../src/generate/continuation.ts';
import { Engine } from '../../src/generate/engine.ts';
import { generateWith } from '../../src/generate/generate.ts';
import type { GenerateHooks, GenerateRequest } from '../../src/generate/types.ts';

const engine = new Engine();
const run = (request: Partial<GenerateRequest>, hooks: GenerateHooks = {}) =>
  generateWith(engine, { model: 'default', backend: 'js', ...request }, hooks);
const story = 'Once upon a time';

describe('a trace', () => {
  test('of 12 tokens with seed 1069 has the published colors and trits', async () => {
    const result = await run({ prompt: story, maxTokens: 12, seed: 1069n });
    expect(result.trace.map(({ color }) => color).join(' ')).toBe(
      '#6404C3 #EB6AF7 #7F1747 #4A4744 #3AC4D6 #6D2BEE #6BCECC #3B194C #9DA895 #1C45D5 #4ED072 #1F3EA5',
    );
    expect(result.trace.map(({ trit }) => '-o+'[trit + 1]).join(' ')).toBe('- - - + o - o - + o o o');
    expect(result).toMatchObject({ tritSum: -3, gf3Residue: 0, conserved: true, finishReason: 'length' });
  });

  test.each<[string, Partial<GenerateRequest>]>([
    ['a prompt', { prompt: story, maxTokens: 30 }],
    ['sampled bytes', { prompt: 'naïve café ☕ 東京', maxTokens: 30, temperature: 2, sampleSeed: 3n }],
    ['a chat', { messages: [{ role: 'user', content: 'Tell me a story.' }], maxTokens: 30 }],
  ])('of %s: its token texts join to the completion, and steps are announced as they are kept', async (_, request) => {
    const announced: string[] = [];
    const result = await run(request, { onStep: ({ token }) => announced.push(token) });
    expect(result.trace.map(({ token }) => token).join('')).toBe(result.completion);
    expect(result.completion.startsWith(announced.join(''))).toBe(true);
    expect(result.output.endsWith(result.completion)).toBe(true);
    expect(result.trace.map(({ step }) => step)).toEqual(result.trace.map((_, i) => i));
    for (const { logprob } of result.trace) expect(logprob).toBeLessThanOrEqual(0);
    expect(result.usage.completionTokens).toBe(result.trace.length);
  });

  test('counts the trits of every layer when asked', async () => {
    const { trace } = await run({ prompt: story, maxTokens: 3, activations: true });
    for (const { activations } of trace) {
      expect(activations!.length).toBeGreaterThan(3);
      const sums = new Set(activations!.map(({ minus, ergodic, plus }) => minus + ergodic + plus));
      expect(sums.size).toBe(1);
    }
    expect((await run({ prompt: story, maxTokens: 1 })).trace[0]).not.toHaveProperty('activations');
  });
});

test('the same request gives the same text; another sample seed another', async () => {
  const request = { prompt: story, maxTokens: 20, temperature: 1, sampleSeed: 11n };
  const first = await run(request);
  expect((await run(request)).trace).toEqual(first.trace);
  expect((await run({ ...request, sampleSeed: 12n })).completion).not.toBe(first.completion);
});

test('a result that nobody goes on from has no handle', async () => {
  const request = { prompt: story, maxTokens: 3 };
  const { continuation, ...rest } = await run(request);
  expect(continuation).toBeTypeOf('string');
  const closed = await run(request, { continuable: false });
  expect(closed).not.toHaveProperty('continuation');
  expect({ ...closed, timings: rest.timings }).toEqual(rest);
});

test('continuing a generation writes what one long generation writes', async () => {
  for (const sampling of [{}, { temperature: 0.9, topP: 0.95, sampleSeed: 4n }]) {
    const long = await run({ prompt: story, maxTokens: 24, ...sampling });
    const first = await run({ prompt: story, maxTokens: 10, ...sampling });
    const second = await run({ continuation: first.continuation!, maxTokens: 14 });
    expect([...first.trace, ...second.trace]).toEqual(long.trace);
    expect(second.output).toBe(long.output);
  }
});

test('a handle survives a new engine, and a damaged one is refused', async () => {
  const { continuation } = await run({ prompt: story, maxTokens: 4 });
  using other = new Engine();
  const there = await generateWith(other, {
    model: 'default',
    backend: 'js',
    continuation: continuation!,
    maxTokens: 4,
  });
  expect(there.trace).toEqual((await run({ continuation: continuation!, maxTokens: 4 })).trace);
  for (const bad of ['', 'c1.', 'c1.x.y', continuation!.slice(0, -2), `${continuation!}A`, 'x'.repeat(1 << 21)]) {
    await expect(run({ continuation: bad })).rejects.toBeInstanceOf(ArgumentError);
  }
  const state = decodeContinuation(continuation!);
  for (const forged of [
    { temperature: 'hot' },
    { temperature: -1 },
    { topP: 0 },
    { topK: 1.5 },
    { scheme: 'rainbow' },
    { stop: 'x' },
    { stop: [''] },
    { activations: 1 },
    { head: 'int4' },
    { model: 7 },
    { tokens: [0.5] },
    { promptTokens: -1 },
  ]) {
    const handle = encodeContinuation({ ...state, ...forged } as never);
    await expect(run({ continuation: handle })).rejects.toThrow(/damaged or not one of ours/);
  }
  const foreign = encodeContinuation({ ...state, tokens: [0, 9_999_999] });
  await expect(run({ continuation: foreign })).rejects.toThrow(/does not fit the model/);
});

describe('ends', () => {
  test('at the time limit, with at least one token and a handle', async () => {
    const result = await run({ prompt: story, maxTokens: 500, maxSeconds: 0.05 });
    expect(result.finishReason).toBe('time');
    expect(result.trace.length).toBeGreaterThanOrEqual(1);
    expect(result.continuation).toBeDefined();
  });

  test('within one token of a cancellation, with what there is', async () => {
    const controller = new AbortController();
    const result = await run(
      { prompt: story, maxTokens: 500 },
      { signal: controller.signal, onStep: ({ step }) => step === 4 && controller.abort() },
    );
    expect(result).toMatchObject({ finishReason: 'cancelled' });
    expect(result.trace.length).toBe(5);
  });

  test('before a stop string', async () => {
    const free = await run({ prompt: story, maxTokens: 40 });
    const word = free.completion.slice(11, 14);
    const stopped = await run({ prompt: story, maxTokens: 40, stop: ['never in there', word] });
    expect(stopped.finishReason).toBe('stop');
    expect(stopped.completion).toBe(free.completion.slice(0, free.completion.indexOf(word)));
  });

  test('when the context is full, without a handle', async () => {
    const prompt = 'The fox ran. '.repeat(600);
    await expect(run({ prompt })).rejects.toThrow(/the prompt has \d+ tokens, the model "default" holds/);
  });
});

describe('refused requests say what to change', () => {
  test.each<[Partial<GenerateRequest>, RegExp]>([
    [{}, /nothing to start from/],
    [{ prompt: 'a', continuation: 'b' }, /more than one thing/],
    [{ prompt: 'a', maxTokens: 0 }, /max_tokens is 0/],
    [{ prompt: 'a', maxTokens: 1.5 }, /max_tokens is 1.5/],
    [{ prompt: 'a', temperature: -1 }, /temperature is -1/],
    [{ prompt: 'a', temperature: Number.NaN }, /temperature is NaN/],
    [{ prompt: 'a', topP: 0 }, /top_p is 0/],
    [{ prompt: 'a', topK: -1 }, /top_k is -1/],
    [{ prompt: 'a', stop: [''] }, /empty stop string/],
    [{ prompt: 'a', model: 'no/such-model' }, /no\/such-model/],
  ])('%j', async (request, message) => {
    await expect(run(request)).rejects.toThrow(message);
  });
});
