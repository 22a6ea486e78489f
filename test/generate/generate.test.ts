// The loop from request to result, with the embedded model through the reference backend.

import { createHash } from 'node:crypto';
import { mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { deflateRawSync } from 'node:zlib';
import { describe, expect, test } from 'vitest';
import { ArgumentError } from '../../src/errors.ts';
import { decodeContinuation, encodeContinuation, parseState } from '../../src/generate/continuation.ts';
import { Engine } from '../../src/generate/engine.ts';
import { generateWith } from '../../src/generate/generate.ts';
import { findKey } from '../../src/generate/handle-key.ts';
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
    { backend: { toString: 1 } },
    { backend: 'cpu' },
    { model: { toString: null } },
    { output: ['x'] },
    { tokens: { length: 1 } },
    { tokens: [[0]] },
    { stop: [{ a: 1 }] },
    { steps: 2 ** 53 },
    { sampleSeed: '-1' },
    { seed: '18446744073709551616' },
  ]) {
    const handle = encodeContinuation({ ...state, ...forged } as never)!;
    await expect(run({ continuation: handle })).rejects.toThrow(/damaged, not one of ours/);
  }
  for (const foreign of [{ tokens: [0, 9_999_999] }, { output: 'x'.repeat(1 << 20) }, { promptTokens: 2 ** 40 }]) {
    const handle = encodeContinuation({ ...state, ...foreign })!;
    await expect(run({ continuation: handle })).rejects.toThrow(/does not fit the model/);
  }
});

test('a handle of another key is refused before it is unpacked; its state alone is not enough', async () => {
  const { continuation } = await run({ prompt: story, maxTokens: 4 });
  const state = decodeContinuation(continuation!);
  const forged = encodeContinuation({ ...state, output: 'y'.repeat(3 << 20) }, Buffer.alloc(32))!;
  expect(forged.length).toBeLessThan(10_000);
  await expect(run({ continuation: forged })).rejects.toThrow(/made by another installation/);
  // The checksum alone, as handles had it before there was a key.
  const [, , body] = continuation!.split('.');
  const unkeyed = createHash('sha256').update(body!).digest('base64url').slice(0, 22);
  await expect(run({ continuation: `c2.${unkeyed}.${body}` })).rejects.toThrow(/damaged, not one of ours/);
  expect(encodeContinuation({ ...state, output: 'y'.repeat(5 << 20) }), 'too large to go on from').toBeUndefined();
});

test('handles nested to any depth, or of other JSON, are refused in one sentence', () => {
  const deflated = (text: string) => deflateRawSync(text);
  const nested = '['.repeat(500_000) + ']'.repeat(500_000);
  for (const text of ['null', '[]', '"x"', '1', '{}', nested, `{"tokens":${nested}}`, '{', '']) {
    expect(() => parseState(deflated(text)), text.slice(0, 20)).toThrow(ArgumentError);
  }
  expect(() => parseState(deflated(' '.repeat(64 << 20))), 'a bomb').toThrow(ArgumentError);
  expect(() => parseState(Buffer.from('no deflate'))).toThrow(ArgumentError);
});

describe('the key of handles', () => {
  test('is made once a data folder, and only its owner reads it', () => {
    const folder = mkdtempSync(join(tmpdir(), 'bitnet-key-'));
    const env = { XDG_DATA_HOME: folder, LOCALAPPDATA: folder };
    const key = findKey(env);
    expect(key.byteLength).toBe(32);
    expect([...findKey(env)]).toEqual([...key]);
    const file = join(folder, 'bitnet-gf3', 'handle.key');
    if (process.platform !== 'win32') expect(statSync(file).mode & 0o777).toBe(0o600);
    writeFileSync(file, 'short');
    expect([...findKey(env)]).not.toEqual([...key]);
    rmSync(folder, { recursive: true });
  });

  test('of BITNET_HANDLE_KEY is the same on every machine; without a place to keep one, it is new', () => {
    expect(Buffer.from(findKey({ BITNET_HANDLE_KEY: 'a shared secret' })).toString('hex')).toBe(
      '1b77c7aef57004df9f824ce77f1ce6c1e8de3709f2e726960d7ea44c411e6b0b',
    );
    const env = { XDG_DATA_HOME: '/dev/null/nowhere', LOCALAPPDATA: '/dev/null/nowhere' };
    expect([...findKey(env)]).not.toEqual([...findKey(env)]);
  });
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
