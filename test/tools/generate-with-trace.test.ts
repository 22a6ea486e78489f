// The tool from arguments to a result: which calls it takes, and what several texts look like.

import { describe, expect, test } from 'vitest';
import { Engine } from '../../src/generate/engine.ts';
import { generateWith } from '../../src/generate/generate.ts';
import { generateManyWith } from '../../src/generate/generate-many.ts';
import type { GenerateRequest, ManyRequest } from '../../src/generate/types.ts';
import { callTool } from '../../src/tools/call-tool.ts';
import { generateWithTraceTool as tool } from '../../src/tools/generate-with-trace.ts';
import type { Services } from '../../src/tools/services.ts';

const engine = new Engine();
const requests: (GenerateRequest | ManyRequest)[] = [];
const services: Services = {
  generate: (request, hooks) => {
    requests.push(request);
    return generateWith(engine, request, hooks);
  },
  generateMany: (request, { signal }) => {
    requests.push(request);
    return generateManyWith(engine, request, { ...(signal && { signal }) });
  },
};
const call = (args: object, resultBudget?: number) => callTool(tool, args, { services, resultBudget });

/** What does not depend on the time. */
function lasting({ timings: _, engine: __, ...rest }: Record<string, unknown>) {
  return rest;
}

describe('several prompts', () => {
  const prompts = ['Once upon a time', 'The little fox'];

  test('have a result each, as calls of their own have it', async () => {
    const { structured, text } = await call({ prompts, max_tokens: 6 });
    expect(tool.output.safeParse(structured).success).toBe(true);
    const results = structured.results as Record<string, unknown>[];
    for (const [i, prompt] of prompts.entries()) {
      const { structured: alone } = await call({ prompt, max_tokens: 6 });
      const { model: _, output: __, seed: ___, ...own } = lasting(alone);
      expect(results[i]).toEqual(own);
      expect(text).toContain(`[${i}] ${results[i]!.completion}`);
    }
    expect(structured).not.toHaveProperty('trace');
    expect(structured.usage).toEqual({ prompt_tokens: 9, completion_tokens: 12 });
    expect(text).toMatch(/2 texts, 12 tokens, \d+ tokens\/s$/);
  });

  test('may be one, sent as text, or a list in a text', async () => {
    for (const sent of ['The end', ['The end'], '["The end"]']) {
      const { structured } = await call({ prompts: sent, max_tokens: 2 });
      expect(structured.results).toHaveLength(1);
      expect(requests.at(-1)).toMatchObject({ prompts: ['The end'] });
    }
  });

  test('after messages are turns of a user', async () => {
    await call({ messages: [{ role: 'system', content: 'Be brief.' }], prompts: ['A?', 'B?'], max_tokens: 2 });
    expect(requests.at(-1)).toMatchObject({ messages: [{ role: 'system' }], prompts: ['A?', 'B?'] });
    await call({ messages: [], prompts: ['A?'], max_tokens: 2 });
  });
});

test('n samples of one prompt', async () => {
  const args = { prompt: 'Once upon a time', max_tokens: 5, temperature: 1 };
  const { structured } = await call({ ...args, n: 3, sample_seed: 4 });
  const results = structured.results as Record<string, unknown>[];
  expect(results).toHaveLength(3);
  const { structured: third } = await call({ ...args, sample_seed: 6 });
  expect(results[2]!.trace).toEqual(third.trace);
  expect(structured.sampling).toEqual({ temperature: 1 });
  expect((await call({ ...args, n: 1 })).structured).toHaveProperty('trace');
});

test('sampling goes on to the engine under its own names, and comes back in the result', async () => {
  const { structured } = await call({
    prompt: 'Once upon a time',
    max_tokens: 4,
    temperature: 0.7,
    top_k: 9,
    top_p: 0.9,
    min_p: 0.1,
    repetition_penalty: 1.1,
    presence_penalty: 0.5,
    frequency_penalty: -0.5,
    logit_bias: { 7: -1, ' the': 2 },
    top_logprobs: 2,
  });
  expect(requests.at(-1)).toMatchObject({
    temperature: 0.7,
    topK: 9,
    topP: 0.9,
    minP: 0.1,
    repetitionPenalty: 1.1,
    presencePenalty: 0.5,
    frequencyPenalty: -0.5,
    logitBias: { 7: -1, ' the': 2 },
    topLogprobs: 2,
  });
  expect(structured.sampling).toEqual({
    temperature: 0.7,
    top_k: 9,
    top_p: 0.9,
    min_p: 0.1,
    repetition_penalty: 1.1,
    presence_penalty: 0.5,
    frequency_penalty: -0.5,
  });
  const [step] = structured.trace as { top_logprobs: object[] }[];
  expect(step!.top_logprobs).toHaveLength(2);
  expect(step!.top_logprobs[0]).toEqual({
    token: expect.any(String),
    token_id: expect.any(Number),
    logprob: expect.any(Number),
  });
  expect(tool.output.safeParse(structured).success).toBe(true);
});

test('a call that asks for nothing of this has none of it in its result', async () => {
  const { structured } = await call({ prompt: 'Once upon a time', max_tokens: 2 });
  expect(Object.keys(structured)).toEqual([
    'model',
    'output',
    'completion',
    'finish_reason',
    'continuation',
    'trace',
    'trit_sum',
    'gf3_residue',
    'gf3_conserved',
    'seed',
    'usage',
    'timings',
    'engine',
  ]);
  expect(requests.at(-1)).not.toHaveProperty('temperature');
});

test('without a trace the sums are there all the same', async () => {
  const whole = await call({ prompt: 'Once upon a time', max_tokens: 6 });
  const { structured, text } = await call({ prompt: 'Once upon a time', max_tokens: 6, trace: false });
  const { trace: _, ...rest } = lasting(whole.structured);
  expect(lasting(structured)).toEqual(rest);
  expect(text).toBe(whole.text);
});

test('for a caller who takes little, texts come without traces rather than cut', async () => {
  const prompts = Array.from({ length: 20 }, (_, i) => `Number ${i}`);
  const { structured } = await call({ prompts, max_tokens: 20 }, 36_000);
  const results = structured.results as Record<string, unknown>[];
  for (const result of results) expect(result).not.toHaveProperty('trace');
  expect(requests.at(-1)).toMatchObject({ maxTokens: 20 });
  expect(structured.warnings).toEqual([expect.stringMatching(/^the traces are left out/)]);
  expect(JSON.stringify(structured).length).toBeLessThan(36_000);
  const few = await call({ prompts: prompts.slice(0, 2), max_tokens: 20 }, 36_000);
  expect((few.structured.results as object[])[0]).toHaveProperty('trace');
  expect(few.structured).not.toHaveProperty('warnings');
});

describe('is refused', () => {
  test.each<[object, RegExp]>([
    [{}, /no prompt, messages, prompts or continuation/],
    [{ prompt: 'a', prompts: ['b'] }, /prompt and prompts together/],
    [{ prompts: ['b'], continuation: 'h-1' }, /prompts and continuation together/],
    [{ messages: [] }, /messages is empty/],
    [{ prompts: [] }, /prompts must be/],
    [{ prompts: [''], n: 2, temperature: 0 }, /every text would be the same/],
    [{ prompt: 'a', n: 2 }, /every text would be the same/],
    [{ continuation: 'h-1', n: 2, temperature: 1 }, /n with a continuation/],
    [{ prompts: Array.from({ length: 257 }, () => 'a') }, /prompts/],
    [{ prompts: ['a', 'b'], n: 200, temperature: 1 }, /more than 256/],
    [{ prompt: 'a', top_logprobs: 21 }, /top_logprobs must be an integer from 0 to 20/],
    [{ prompt: 'a', logit_bias: { 5: 'much' } }, /logit_bias/],
    [{ prompt: 'a', logit_bias: { 5: 200 } }, /logit_bias/],
    [{ prompt: 'a', repetition_penalty: 0 }, /repetition_penalty must be a number > 0/],
    [{ prompt: 'a', presence_penalty: 3 }, /presence_penalty/],
    [{ prompt: 'a', min_p: -1 }, /min_p/],
  ])('%j', async (args, message) => {
    await expect(call(args)).rejects.toThrow(message);
  });
});
