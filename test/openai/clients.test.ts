// OpenAI's API by the clients that people have: openai, the AI SDK, LangChain, and our own backend for such servers.

import { rmSync } from 'node:fs';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { ChatOpenAI } from '@langchain/openai';
import { generateObject, generateText, stepCountIs, streamText, tool } from 'ai';
import OpenAI from 'openai';
import { zodResponseFormat } from 'openai/helpers/zod';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { z } from 'zod';
import { Engine } from '../../src/generate/engine.ts';
import { generateWith } from '../../src/generate/generate.ts';
import { type RunningServer, startServer } from '../mcp/http-harness.ts';
import { toolModel } from './tool-model.ts';

const TOKEN = 'a-token-for-tests';
const PROMPT = 'Once upon a time';
const MESSAGES = [{ role: 'user' as const, content: 'Tell me of a fox.' }];
const Pet = z.object({ name: z.string().max(12), kind: z.enum(['cat', 'dog']), age: z.int().min(0).max(20) });
const WEATHER = {
  type: 'function' as const,
  function: {
    name: 'get_weather',
    description: 'The weather at a place',
    parameters: {
      type: 'object',
      properties: { city: { type: 'string', maxLength: 20 }, unit: { enum: ['C', 'F'] } },
      required: ['city', 'unit'],
      additionalProperties: false,
    },
  },
};

let engine: Engine;
let server: RunningServer;
let client: OpenAI;
let tools: string;
let xmlTools: string;

beforeAll(async () => {
  engine = new Engine({ maxModels: 4 });
  tools = toolModel('json');
  xmlTools = toolModel('xml');
  server = await startServer({
    openai: true,
    tokens: [TOKEN],
    services: { generate: (request, hooks) => generateWith(engine, request, hooks) },
  });
  client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: TOKEN, maxRetries: 0 });
});
afterAll(async () => {
  await server.close();
  engine[Symbol.dispose]();
  for (const folder of [tools, xmlTools]) rmSync(folder, { recursive: true });
});

describe('openai', { timeout: 120_000 }, () => {
  test('models', async () => {
    const names = (await client.models.list()).data.map(({ id }) => id);
    expect(names).toContain('default');
    expect(await client.models.retrieve('default')).toMatchObject({ id: 'default', object: 'model' });
    await expect(client.models.retrieve('no/such')).rejects.toBeInstanceOf(OpenAI.NotFoundError);
  });

  test('completions: text, log-probabilities, stop, and the trace beside them', async () => {
    const local = await generateWith(engine, {
      model: 'default',
      prompt: PROMPT,
      maxTokens: 12,
      temperature: 0,
      topLogprobs: 2,
    });
    const answer = await client.completions.create({
      model: 'default',
      prompt: PROMPT,
      max_tokens: 12,
      temperature: 0,
      logprobs: 2,
    });
    expect(answer.object).toBe('text_completion');
    const [choice] = answer.choices;
    expect(choice!.text).toBe(local.completion);
    expect(choice!.finish_reason).toBe('length');
    expect(choice!.logprobs!.tokens).toEqual(local.trace.map(({ token }) => token));
    expect(choice!.logprobs!.token_logprobs).toEqual(local.trace.map(({ logprob }) => logprob));
    expect(Object.keys(choice!.logprobs!.top_logprobs![0]!)).toHaveLength(2);
    expect(answer.usage).toEqual({
      prompt_tokens: local.usage.promptTokens,
      completion_tokens: 12,
      total_tokens: 12 + local.usage.promptTokens!,
    });
    expect(choice).toMatchObject({ trace: { trit_sum: local.tritSum, gf3_residue: local.gf3Residue, seed: '1069' } });

    const word = local.trace[4]!.token;
    const stopped = await client.completions.create({
      model: 'default',
      prompt: PROMPT,
      max_tokens: 12,
      temperature: 0,
      stop: [word],
    });
    expect(stopped.choices[0]!.text).toBe(local.completion.slice(0, local.completion.indexOf(word)));
    expect(stopped.choices[0]!.finish_reason).toBe('stop');
  });

  test('completions: a list of prompts, n, and a stream of all', async () => {
    const asked = { model: 'default', prompt: [PROMPT, 'Lily'], n: 2, max_tokens: 6, temperature: 1, seed: 5 };
    const whole = await client.completions.create(asked);
    expect(whole.choices.map(({ index }) => index)).toEqual([0, 1, 2, 3]);
    expect(new Set(whole.choices.map(({ text }) => text)).size).toBeGreaterThan(2);
    const texts = ['', '', '', ''];
    for await (const chunk of await client.completions.create({ ...asked, stream: true })) {
      for (const { index, text } of chunk.choices) texts[index] += text;
    }
    expect(texts).toEqual(whole.choices.map(({ text }) => text));
  });

  test('chat: text, usage, log-probabilities, and the same seed gives the same text', async () => {
    const asked = {
      model: 'default',
      messages: MESSAGES,
      max_tokens: 10,
      temperature: 0.9,
      seed: 7,
      logprobs: true,
      top_logprobs: 3,
    };
    const answer = await client.chat.completions.create(asked);
    const [choice] = answer.choices;
    expect(choice!.message).toMatchObject({ role: 'assistant', refusal: null });
    expect(choice!.logprobs!.content!.map(({ token }) => token).join('')).toBe(choice!.message.content);
    const [first] = choice!.logprobs!.content!;
    expect(first!.top_logprobs).toHaveLength(3);
    expect(first!.top_logprobs[0]!.logprob).toBeGreaterThanOrEqual(first!.logprob);
    expect(answer.usage!.total_tokens).toBe(answer.usage!.prompt_tokens + 10);
    const again = await client.chat.completions.create(asked);
    expect(again.choices).toEqual(answer.choices);
    expect(again.system_fingerprint).toBe(answer.system_fingerprint);
    const other = await client.chat.completions.create({ ...asked, seed: 8 });
    expect(other.choices[0]!.message.content).not.toBe(choice!.message.content);
  });

  test('chat: a stream has the same text and, when asked for, the usage', async () => {
    const asked = { model: 'default', messages: MESSAGES, max_tokens: 10, temperature: 0 };
    const whole = await client.chat.completions.create(asked);
    const stream = client.chat.completions.stream({ ...asked, stream_options: { include_usage: true } });
    const chunks: OpenAI.ChatCompletionChunk[] = [];
    for await (const chunk of stream) chunks.push(chunk);
    const final = await stream.finalChatCompletion();
    expect(final.choices[0]!.message.content).toBe(whole.choices[0]!.message.content);
    expect(final.choices[0]!.finish_reason).toBe('length');
    expect(chunks.at(-1)!.usage).toEqual(whole.usage);
    expect(chunks[0]!.choices[0]!.delta.role).toBe('assistant');
    expect(chunks.filter(({ choices }) => choices[0]?.finish_reason != null)).toHaveLength(1);
  });

  test('chat: n, biases and penalties', async () => {
    const answer = await client.chat.completions.create({
      model: 'default',
      messages: MESSAGES,
      n: 3,
      max_tokens: 24,
      temperature: 1,
      seed: 1,
    });
    expect(new Set(answer.choices.map(({ message }) => message.content)).size).toBe(3);
    const plain = await client.chat.completions.create({
      model: 'default',
      messages: MESSAGES,
      max_tokens: 4,
      temperature: 0,
      logprobs: true,
    });
    const id = (plain.choices[0]!.logprobs!.content![0] as unknown as { id: number }).id;
    const biased = await client.chat.completions.create({
      ...{ model: 'default', messages: MESSAGES, max_tokens: 4, temperature: 0 },
      logit_bias: { [id]: -100 },
      presence_penalty: 0.5,
      frequency_penalty: 0.5,
    });
    expect(biased.choices[0]!.message.content).not.toBe(plain.choices[0]!.message.content);
  });

  test('response_format: JSON of a schema, parsed by the client', async () => {
    const answer = await client.chat.completions.parse({
      model: 'default',
      messages: MESSAGES,
      temperature: 1,
      seed: 3,
      max_tokens: 60,
      response_format: zodResponseFormat(Pet, 'pet'),
    });
    expect(Pet.parse(answer.choices[0]!.message.parsed)).toEqual(answer.choices[0]!.message.parsed);
    expect(answer.choices[0]!.finish_reason).toBe('stop');
    const object = await client.chat.completions.create({
      model: 'default',
      messages: MESSAGES,
      max_tokens: 40,
      temperature: 1,
      response_format: { type: 'json_object' },
    });
    expect(JSON.parse(object.choices[0]!.message.content!)).toBeTypeOf('object');
    await expect(
      client.chat.completions.create({
        model: 'default',
        messages: MESSAGES,
        max_tokens: 3,
        response_format: zodResponseFormat(Pet, 'pet'),
      }),
    ).rejects.toThrow(/the shortest text of this structure has \d+ tokens, and 3 are left/);
  });

  test.each(['json', 'xml'] as const)('tools, calls in %s: required, streamed, and a round trip', async (style) => {
    const model = style === 'json' ? tools : xmlTools;
    const asked = { model, messages: MESSAGES, tools: [WEATHER], max_tokens: 80, temperature: 1, seed: 2 };
    const answer = await client.chat.completions.create({ ...asked, tool_choice: 'required' });
    const [choice] = answer.choices;
    expect(choice!.finish_reason).toBe('tool_calls');
    expect(choice!.message.content).toBeNull();
    const [call] = choice!.message.tool_calls!;
    if (call?.type !== 'function') throw new Error('no call');
    expect(call.function.name).toBe('get_weather');
    const given = JSON.parse(call.function.arguments) as { city: string; unit: string };
    expect(Object.keys(given)).toEqual(['city', 'unit']);
    expect(['C', 'F']).toContain(given.unit);

    const streamed = await client.chat.completions
      .stream({ ...asked, tool_choice: { type: 'function', function: { name: 'get_weather' } } })
      .finalChatCompletion();
    expect(streamed.choices[0]!.message.tool_calls).toMatchObject([
      { function: { name: 'get_weather', arguments: call.function.arguments } },
    ]);

    // The prompt of the next turn has call and result as the template writes them.
    const turns = [
      ...MESSAGES,
      { role: 'assistant', content: '', tool_calls: choice!.message.tool_calls! },
      { role: 'tool', tool_call_id: call.id, content: '{"sky": "blue"}' },
    ];
    const local = await generateWith(engine, {
      model,
      messages: turns as never,
      tools: [WEATHER],
      maxTokens: 4,
      temperature: 0,
    });
    const written =
      style === 'json'
        ? `{"name": "get_weather", "arguments": {"city": `
        : '<function=get_weather>\n<parameter=city>\n';
    expect(local.output).toContain(written);
    expect(local.output).toContain('Tool: {"sky": "blue"}');
    const next = await client.chat.completions.create({
      model,
      messages: turns as never,
      tools: [WEATHER],
      max_tokens: 4,
      temperature: 0,
    });
    expect(next.choices[0]!.message.content).toBe(local.completion);
  });

  test('a client that goes away ends the writing', async () => {
    const stop = new AbortController();
    const asked = { model: 'default', messages: MESSAGES, max_tokens: 900, temperature: 1, stream: true as const };
    const stream = await client.chat.completions.create(asked, { signal: stop.signal });
    let chunks = 0;
    for await (const _ of stream) if (++chunks === 3) stop.abort();
    expect(chunks).toBeGreaterThanOrEqual(3);
    await expect
      .poll(async () => (await metrics()).match(/openai_chat",outcome="cancelled"} (\d+)/)?.[1], { timeout: 20_000 })
      .toBe('1');
    expect(await metrics()).toMatch(/bitnet_http_requests_total{route="\/v1\/chat\/completions",status="200"} \d+/);
  });
});

const metrics = async () =>
  await (await fetch(`${server.url}/metrics`, { headers: { authorization: `Bearer ${TOKEN}` } })).text();

describe('what is refused, and how', { timeout: 60_000 }, () => {
  const post = (body: unknown, headers: Record<string, string> = {}) =>
    fetch(`${server.url}/v1/chat/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', authorization: `Bearer ${TOKEN}`, ...headers },
      body: typeof body === 'string' ? body : JSON.stringify(body),
    });
  const CHAT = { model: 'default', messages: MESSAGES, max_tokens: 2 };

  test('a page of another origin, another Host, a wrong token', async () => {
    for (const origin of ['https://evil.example', 'null']) {
      const answer = await post(CHAT, { origin });
      expect(answer.status).toBe(403);
      expect(answer.headers.get('access-control-allow-origin')).toBeNull();
      expect(await answer.json()).toMatchObject({
        error: { type: 'permission_error', message: expect.stringContaining('--allow-origin') },
      });
    }
    expect(
      (await fetch(`${server.url}/v1/models`, { method: 'OPTIONS', headers: { origin: 'https://evil.example' } }))
        .status,
    ).toBe(403);
    expect((await post(CHAT, { origin: 'http://localhost:3000' })).status).toBe(200);
    const wrong = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: 'wrong', maxRetries: 0 });
    await expect(wrong.models.list()).rejects.toBeInstanceOf(OpenAI.AuthenticationError);
    await expect(wrong.chat.completions.create(CHAT)).rejects.toMatchObject({ status: 401, code: 'invalid_api_key' });
  });

  test.each([
    [{ ...CHAT, model: 'no/such' }, 404, 'model_not_found', ''],
    [{ ...CHAT, model: undefined }, 400, null, 'model is missing'],
    [{ ...CHAT, messages: [] }, 400, null, 'messages is empty'],
    [{ ...CHAT, messages: [{ role: 'robot', content: '' }] }, 400, null, 'messages[0] has no known role'],
    [
      { ...CHAT, messages: [{ role: 'user', content: [{ type: 'image_url', image_url: { url: 'x' } }] }] },
      400,
      null,
      'part of type "image_url"',
    ],
    [{ ...CHAT, temperature: 'hot' }, 400, null, 'temperature is "hot"'],
    [{ ...CHAT, n: 1000 }, 400, null, 'n is 1000'],
    [{ ...CHAT, functions: [] }, 400, null, 'functions is not supported'],
    [{ ...CHAT, tools: [WEATHER] }, 400, null, 'knows no tools'],
    [{ ...CHAT, tools: [{}] }, 400, null, 'tools[0] has no name'],
    [{ ...CHAT, response_format: { type: 'yaml' } }, 400, null, 'response_format is'],
    [
      { ...CHAT, response_format: { type: 'json_schema', json_schema: { name: 'a', schema: { type: 'x' } } } },
      400,
      null,
      'the type "x" is unknown',
    ],
    [{ ...CHAT, stop: [''] }, 400, null, 'stop is no text'],
    ['{"model"', 400, null, 'not JSON'],
    ['[]', 400, null, 'no JSON object'],
  ])('%j', async (body, status, code, message) => {
    const answer = await post(body);
    expect(answer.status).toBe(status);
    const { error } = (await answer.json()) as { error: { message: string; type: string; code: string | null } };
    expect(error.message).toContain(message);
    expect(error.type).toBe('invalid_request_error');
    if (code !== null) expect(error.code).toBe(code);
  });

  test('addresses that are not there, and methods', async () => {
    const headers = { authorization: `Bearer ${TOKEN}` };
    const none = await fetch(`${server.url}/v1/embeddings`, { method: 'POST', headers });
    expect([none.status, ((await none.json()) as { error: { type: string } }).error.type]).toEqual([
      404,
      'invalid_request_error',
    ]);
    expect((await fetch(`${server.url}/v1/chat/completions`, { headers })).status).toBe(405);
    const plain = await startServer({ tokens: [] });
    expect((await fetch(`${plain.url}/v1/models`)).status).toBe(404);
    await plain.close();
  });
});

describe('the AI SDK', { timeout: 120_000 }, () => {
  const model = (name: string) =>
    createOpenAICompatible({
      name: 'bitnet',
      baseURL: `${server.url}/v1`,
      apiKey: TOKEN,
      supportsStructuredOutputs: true,
      includeUsage: true,
    }).chatModel(name);

  test('text, whole and streamed', async () => {
    const asked = { prompt: 'Tell me of a fox.', maxOutputTokens: 12, temperature: 0 };
    const { text, usage, finishReason } = await generateText({ model: model('default'), ...asked });
    expect(text.length).toBeGreaterThan(5);
    expect([usage.outputTokens, finishReason]).toEqual([12, 'length']);
    const streamed = streamText({ model: model('default'), ...asked });
    let joined = '';
    for await (const part of streamed.textStream) joined += part;
    expect(joined).toBe(text);
    expect((await streamed.usage).outputTokens).toBe(12);
  });

  test('an object of a schema', async () => {
    const { object } = await generateObject({
      model: model('default'),
      schema: Pet,
      prompt: 'A pet.',
      maxOutputTokens: 60,
      temperature: 1,
    });
    expect(Pet.parse(object)).toEqual(object);
  });

  test('a tool that is run, and an answer after it', async () => {
    const seen: unknown[] = [];
    const { steps } = await generateText({
      model: model(tools),
      prompt: 'The weather?',
      maxOutputTokens: 60,
      temperature: 1,
      seed: 4,
      tools: {
        get_weather: tool({
          description: 'The weather',
          inputSchema: z.object({ city: z.string().max(10) }),
          execute: (input) => {
            seen.push(input);
            return { sky: 'blue' };
          },
        }),
      },
      prepareStep: ({ stepNumber }) => ({ toolChoice: stepNumber === 0 ? 'required' : 'none' }),
      stopWhen: stepCountIs(2),
    });
    expect(seen.length).toBeGreaterThan(0);
    expect(steps).toHaveLength(2);
    expect(steps[0]!.finishReason).toBe('tool-calls');
    expect(steps[1]!.toolCalls).toEqual([]);
  });
});

describe('LangChain', { timeout: 120_000 }, () => {
  const model = (name: string, more: object = {}) =>
    new ChatOpenAI({
      model: name,
      apiKey: TOKEN,
      configuration: { baseURL: `${server.url}/v1` },
      maxTokens: 60,
      temperature: 1,
      maxRetries: 0,
      ...more,
    });

  test('text, streamed text, an object, a call', async () => {
    const short = model('default', { maxTokens: 10, temperature: 0 });
    const whole = await short.invoke('Tell me of a fox.');
    let joined = '';
    for await (const chunk of await short.stream('Tell me of a fox.')) joined += chunk.text;
    expect(joined).toBe(whole.text);
    const pet = await model('default').withStructuredOutput(Pet, { method: 'jsonSchema' }).invoke('A pet.');
    expect(Pet.parse(pet)).toEqual(pet);
    const called = await model(tools).bindTools([WEATHER], { tool_choice: 'get_weather' }).invoke('The weather?');
    expect(called.tool_calls).toMatchObject([{ name: 'get_weather', args: { unit: expect.stringMatching(/^[CF]$/) } }]);
  });
});

describe('our own backend for such servers', { timeout: 120_000 }, () => {
  const remote = () =>
    new Engine({ env: { BITNET_OPENAI_BASE_URL: `${server.url}/v1`, BITNET_OPENAI_API_KEY: TOKEN } });

  test('the same text, ids, log-probabilities and colors as without a server between', async () => {
    using outer = remote();
    for (const asked of [{ prompt: PROMPT }, { messages: MESSAGES }]) {
      const request = { ...asked, model: 'default', maxTokens: 24, temperature: 0.8, sampleSeed: 5n, topLogprobs: 2 };
      const local = await generateWith(engine, request);
      const far = await generateWith(outer, { ...request, backend: 'openai' });
      expect(far.completion).toBe(local.completion);
      const told = ({ trace }: typeof far) =>
        trace.map(({ token, tokenId, logprob, color, trit }) => ({ token, tokenId, logprob, color, trit }));
      expect(told(far)).toEqual(told(local));
      expect(far.usage).toEqual(local.usage);
      expect(far.engine.backend).toBe('openai');
    }
  });

  test('a schema and tools go through', async () => {
    using outer = remote();
    const json = await generateWith(outer, {
      model: 'default',
      backend: 'openai',
      messages: MESSAGES,
      responseSchema: z.toJSONSchema(Pet),
      maxTokens: 60,
      temperature: 1,
    });
    expect(Pet.safeParse(JSON.parse(json.completion)).success).toBe(true);
    const called = await generateWith(outer, {
      model: tools,
      backend: 'openai',
      messages: MESSAGES,
      tools: [WEATHER],
      toolChoice: 'required',
      maxTokens: 60,
    });
    expect(called.toolCalls).toMatchObject([{ name: 'get_weather' }]);
    expect(Object.keys(JSON.parse(called.toolCalls![0]!.arguments) as object)).toEqual(['city', 'unit']);
  });
});
