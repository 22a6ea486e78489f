// Several texts in one call: each is what a call of its own writes, to the bit.

import { describe, expect, test } from 'vitest';
import { ArgumentError } from '../../src/errors.ts';
import { Engine } from '../../src/generate/engine.ts';
import { EngineHost } from '../../src/generate/engine-host.ts';
import { generateWith } from '../../src/generate/generate.ts';
import { generateMany, generateManyWith } from '../../src/generate/generate-many.ts';
import type { GenerateRequest, GenerateResult, ManyRequest } from '../../src/generate/types.ts';

const engine = new Engine();
const many = (request: Partial<ManyRequest>) =>
  generateManyWith(engine, { model: 'default', maxTokens: 12, ...request });
const one = (request: Partial<GenerateRequest>) =>
  generateWith(engine, { model: 'default', maxTokens: 12, ...request });

/** What does not depend on the time. */
function text({ timings: _, ...rest }: GenerateResult) {
  return rest;
}

const prompts = [
  'Once upon a time',
  'The little fox',
  'Lily found a red',
  'naïve café ☕',
  'A dog and a cat were',
  'One',
];

describe.each<[string, Partial<GenerateRequest>]>([
  ['greedy', {}],
  ['sampled', { temperature: 0.9, topP: 0.95, sampleSeed: 5n }],
  ['with penalties and alternatives', { temperature: 1, minP: 0.05, repetitionPenalty: 1.2, topLogprobs: 2 }],
  ['with stop strings and trits of layers', { stop: ['.', ' was'], activations: true }],
])('%s', (_, sampling) => {
  test('each of the prompts has the result of its own call', async () => {
    const { results } = await many({ prompts, ...sampling });
    expect(results).toHaveLength(prompts.length);
    for (const [i, prompt] of prompts.entries()) {
      expect(text(results[i]!), prompt).toEqual(text(await one({ prompt, ...sampling })));
    }
  });
});

test('more texts than are written at once come out in order', async () => {
  const numbered = Array.from({ length: 150 }, (_, i) => `${i} and ${(i * 7) % 10}`);
  const { results, usage } = await many({ prompts: numbered, maxTokens: 3 });
  expect(results.map(({ output }) => output.slice(0, 5))).toEqual(numbered.map((prompt) => prompt.slice(0, 5)));
  expect(usage.completionTokens).toBe(results.reduce((sum, { trace }) => sum + trace.length, 0));
  for (const place of [0, 77, 149])
    expect(text(results[place]!)).toEqual(text(await one({ prompt: numbered[place]!, maxTokens: 3 })));
});

test('samples of a prompt are those of the seeds from sample_seed on', async () => {
  const sampling = { temperature: 1.2, sampleSeed: 2n ** 64n - 2n };
  const { results } = await many({ prompts: prompts.slice(0, 2), n: 3, ...sampling });
  expect(results).toHaveLength(6);
  for (const [i, prompt] of prompts.slice(0, 2).entries()) {
    for (const [j, sampleSeed] of [2n ** 64n - 2n, 2n ** 64n - 1n, 0n].entries()) {
      expect(text(results[3 * i + j]!)).toEqual(text(await one({ prompt, ...sampling, sampleSeed })));
    }
  }
  expect(new Set(results.map(({ completion }) => completion)).size).toBeGreaterThan(3);
});

test('prompts after messages are user turns', async () => {
  const messages = [{ role: 'system', content: 'Tell stories.' }] as const;
  const { results } = await many({ messages, prompts: ['Of a fox?', 'Of a bear?'] });
  const asked = { messages: [...messages, { role: 'user', content: 'Of a bear?' }] as const };
  expect(text(results[1]!)).toEqual(text(await one(asked)));
  const samples = await many({ messages: [{ role: 'user', content: 'Hi' }], n: 2, temperature: 1 });
  expect(samples.results).toHaveLength(2);
  expect(text((await many({ messages: [], prompts: ['Hi'] })).results[0]!)).toEqual(
    text(await one({ messages: [{ role: 'user', content: 'Hi' }] })),
  );
});

test('without log-probabilities the texts are the same', async () => {
  const bare = await many({ prompts, logprobs: false, repetitionPenalty: 1.1 });
  const told = await many({ prompts, repetitionPenalty: 1.1 });
  for (const [i, { trace }] of bare.results.entries()) {
    expect(trace).toEqual(told.results[i]!.trace.map(({ logprob: _, ...step }) => step));
  }
  const [asked] = (await many({ prompts: ['One'], logprobs: false, topLogprobs: 1 })).results;
  expect(asked!.trace[0]!.topLogprobs![0]!.logprob).toBe(asked!.trace[0]!.logprob);
});

test('a handle of one of them goes on with it', async () => {
  const { results } = await many({ prompts, maxTokens: 5 });
  const rest = await one({ continuation: results[2]!.continuation!, maxTokens: 7 });
  const whole = await one({ prompt: prompts[2]!, maxTokens: 12 });
  expect([...results[2]!.trace, ...rest.trace]).toEqual(whole.trace);
});

describe('is refused before anything is written', () => {
  test.each<[Partial<ManyRequest>, RegExp]>([
    [{ prompts: [] }, /prompts is empty/],
    [{ prompts, n: 0 }, /n is 0/],
    [{ prompts, n: 1.5 }, /n is 1.5/],
    [{ prompts, n: 100 }, /600|6 prompts with 100/],
    [{ prompts: Array.from({ length: 257 }, () => 'a') }, /257 prompts/],
    [{ messages: [{ role: 'user', content: 'a' }], n: 257, temperature: 1 }, /n is 257/],
    [{ prompts, n: 2 }, /every text would be the same/],
    [{ prompts: ['fine', 'word '.repeat(3000)] }, /prompts\[1\]: the prompt has/],
    [{ prompts, maxTokens: 0 }, /max_tokens/],
    [{}, /nothing to start from/],
  ])('%#', async (request, message) => {
    const tokens: number[] = [];
    const refused = generateManyWith(engine, { model: 'default', ...request }, { onToken: () => tokens.push(1) });
    await expect(refused).rejects.toBeInstanceOf(ArgumentError);
    await expect(refused).rejects.toThrow(message);
    expect(tokens).toEqual([]);
  });
});

test('a signal ends all of them, with what they have', async () => {
  const controller = new AbortController();
  let tokens = 0;
  const { results } = await generateManyWith(
    engine,
    { model: 'default', prompts, maxTokens: 400, temperature: 1 },
    {
      signal: controller.signal,
      onToken: () => {
        tokens += 1;
        if (tokens === 30) controller.abort();
      },
    },
  );
  expect(results.filter(({ finishReason }) => finishReason === 'cancelled').length).toBeGreaterThan(3);
  expect(results.every(({ trace }) => trace.length < 400)).toBe(true);
});

test('when the time is over, each has a token at least and a handle', async () => {
  const { results } = await many({ prompts, maxTokens: 300, maxSeconds: 1e-9 });
  for (const { finishReason, trace, continuation } of results) {
    if (finishReason === 'stop') continue;
    expect(finishReason).toBe('time');
    expect(trace.length).toBeGreaterThanOrEqual(1);
    expect(continuation).toBeTypeOf('string');
  }
});

test('with an engine of its own, and over the border of the process', async () => {
  const here = await generateMany({ model: 'default', prompts, maxTokens: 4, seed: 2n ** 63n });
  const host = new EngineHost();
  try {
    const there = await host.generateMany({ model: 'default', prompts, maxTokens: 4, seed: 2n ** 63n });
    expect(there.results.map(text)).toEqual(here.results.map(text));
    expect(there.seed).toBe(2n ** 63n);
    const refused = host.generateMany({ model: 'default', prompts: [] });
    await expect(refused).rejects.toMatchObject({ code: 'BAD_ARGUMENT' });
  } finally {
    await host.close();
  }
});
