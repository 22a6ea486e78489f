// What users of such servers reported. Each answer is written as a server wrote it.

import { gzipSync } from 'node:zlib';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { ArgumentError } from '../../../src/errors.ts';
import { Engine } from '../../../src/generate/engine.ts';
import { generateWith } from '../../../src/generate/generate.ts';
import { OpenAiConnectionError, OpenAiResponseError, OpenAiStreamError } from '../../../src/generate/openai/errors.ts';
import type { GenerateRequest, GenerateResult } from '../../../src/generate/types.ts';
import { generateResultToJson } from '../../../src/tools/generate-result.ts';
import { generateWithTraceTool } from '../../../src/tools/generate-with-trace.ts';
import { runCli } from '../../cli/run-cli.ts';
import { DONE, finish, type MockServer, openMockServer, piece, sleep, stream } from './mock-server.ts';

let server: MockServer;
beforeEach(async () => {
  server = await openMockServer();
});
afterEach(() => server[Symbol.asyncDispose]());

const messages = [{ role: 'user', content: 'Hey' }];

async function run(request: Partial<GenerateRequest> = {}, env: Record<string, string> = {}): Promise<GenerateResult> {
  const engine = new Engine({ env: { BITNET_OPENAI_BASE_URL: server.url, ...env } });
  const begin = request.messages === undefined ? { prompt: 'Hey' } : {};
  const result = await generateWith(engine, { model: 'm', backend: 'openai', ...begin, ...request });
  // Whatever comes, it fits the tool's schema, and the steps join to the completion.
  expect(generateWithTraceTool.output.safeParse(generateResultToJson(result)).error).toBeUndefined();
  expect(result.trace.map(({ token }) => token).join('')).toBe(result.completion);
  return result;
}

const event = (value: unknown) => `data: ${JSON.stringify(value)}\n\n`;
const delta = (fields: object, more: object = {}) => ({
  choices: [{ index: 0, delta: fields, finish_reason: null, ...more }],
});
const ended = (reason: string) => ({ choices: [{ index: 0, delta: {}, finish_reason: reason }] });
const usage = (counts: object) => ({ choices: [], usage: counts });

/** The whole body as it is, under any content type; null for none. */
const raw = (body: string | Buffer, type: string | null = 'text/event-stream', headers: object = {}) => {
  server.answer = (response) => {
    response.writeHead(200, { ...(type === null ? {} : { 'content-type': type }), ...headers });
    response.end(body);
  };
};

const HI = [piece('Hi'), piece(' you', { finish_reason: 'stop' })];
const HI_SSE = HI.map(event).join('') + DONE;

describe('an error with status 200', () => {
  test.each<[string, unknown, RegExp]>([
    [
      'of vLLM',
      { object: 'error', message: 'the model holds 4096 tokens', type: 'BadRequestError', code: 400 },
      /the model holds 4096/,
    ],
    ['of FastAPI', { detail: 'model is loading' }, /model is loading/],
    ['of its validation', { detail: [{ loc: ['body'], msg: 'field required' }] }, /field required/],
    ['as text', { error: 'out of memory' }, /out of memory/],
    ['as a list', { error: [{ message: 'out of memory' }, 'and time'] }, /out of memory; and time/],
    ['within an error', { error: { error: { message: 'deep' } } }, /deep/],
    ['in a list around it', [{ error: { code: 503, message: 'overloaded', status: 'UNAVAILABLE' } }], /overloaded/],
    ['beside choices', { ...piece('Hi'), error: { message: 'stopped' } }, /stopped/],
    [
      'in a choice',
      { choices: [{ index: 0, text: '', finish_reason: 'error', error: { message: 'provider died' } }] },
      /provider died/,
    ],
    ['as the reason alone', { choices: [{ index: 0, text: 'Hi', finish_reason: 'error' }] }, /broke off/],
    ['by its type', { type: 'error', error: { type: 'overloaded_error', message: 'Overloaded' } }, /Overloaded/],
    ['as a message', { message: 'no GPU', code: 500 }, /no GPU/],
    ['as msg', { code: 1, msg: 'no GPU' }, /no GPU/],
    ['as a list of errors', { errors: [{ message: 'one' }] }, /one/],
    ['as a number', { error: 503 }, /503/],
    ['as text alone', 'engine died', /engine died/],
  ])('%s, alone, in a stream, and behind text', async (_, error, words) => {
    for (const body of [JSON.stringify(error), event(error) + DONE, event(piece('Hi')) + event(error) + DONE]) {
      // JSON text alone begins with a quote, which no server's whole answer does.
      if (body.startsWith('"')) continue;
      raw(body, body.startsWith('data') ? 'text/event-stream' : 'application/json');
      const failed = run();
      await expect(failed).rejects.toThrow(words);
      await expect(failed).rejects.toBeInstanceOf(OpenAiResponseError);
    }
  });

  test('of an error event that is no JSON', async () => {
    raw('event: error\ndata: slot lost\n\n');
    await expect(run()).rejects.toThrow(/broke off: slot lost/);
  });

  test('is none where the field is empty', async () => {
    for (const error of [null, '', false, {}, []]) {
      raw(event({ ...piece('Hi'), error }) + event({ ...finish('stop'), error, detail: 'x' }) + DONE);
      expect((await run()).completion).toBe('Hi');
    }
  });

  test('keeps the key to itself, and a terminal as it is', async () => {
    raw(event({ error: `bad key sk-secret \u001b[31m${'x'.repeat(437_000)}` }));
    const error = await run({}, { BITNET_OPENAI_API_KEY: 'sk-secret' }).catch((thrown: Error) => thrown);
    expect((error as Error).message).toMatch(/bad key \*\*\* \[31mx/);
    expect((error as Error).message).not.toContain('sk-secret');
    expect((error as Error).message.length).toBeLessThan(600);
  });
});

describe('content', () => {
  test('as a list of parts: those of text, and thought apart', async () => {
    const parts = [
      { type: 'thinking', thinking: [{ type: 'text', text: 'hm' }] },
      { type: 'reference', reference_ids: [1], text: 'no' },
      { type: 'text', text: 'Hi' },
    ];
    raw(
      event(delta({ role: 'assistant', content: parts })) +
        event(delta({ content: [{ type: 'text', text: ' you' }] }, { finish_reason: 'stop' })) +
        DONE,
    );
    const result = await run({ messages });
    expect(result).toMatchObject({ completion: 'Hi you', reasoning: 'hm' });
    expect(result.trace).toHaveLength(2);
  });

  test.each<[string, unknown]>([
    ['texts in a list', ['Hi', ' you']],
    ['output_text', [{ type: 'output_text', text: 'Hi you', annotations: [] }]],
    ['one part', { type: 'text', text: 'Hi you' }],
    ['parts without a type', [{ text: 'Hi' }, { text: ' you' }]],
    ['a value within', [{ type: 'text', text: { value: 'Hi you' } }]],
    ['with pictures', [{ type: 'image_url', image_url: {} }, { type: 'text', text: 'Hi you' }, null, 5]],
  ])('as %s', async (_, content) => {
    raw(event(delta({ content }, { finish_reason: 'stop' })) + DONE);
    expect((await run({ messages })).completion).toBe('Hi you');
    raw(JSON.stringify({ choices: [{ index: 0, message: { content }, finish_reason: 'stop' }] }), 'application/json');
    expect((await run({ messages })).completion).toBe('Hi you');
  });

  test.each([null, undefined, 0, '0'])('of a choice whose index is %j', async (index) => {
    raw(
      event({
        choices: [
          { index: 1, text: 'other' },
          { index, text: 'Hi', finish_reason: 'stop' },
        ],
      }) + DONE,
    );
    expect((await run()).completion).toBe('Hi');
  });

  test.each<[string, readonly unknown[]]>([
    [
      'null',
      [
        delta({ content: null }),
        { choices: [{ index: 0, delta: null }] },
        { choices: [null] },
        { choices: null, object: 'chat.completion.chunk' },
      ],
    ],
    [
      'other types',
      [{ choices: [{ index: 0, delta: 5, text: 7, logprobs: 'x', token_ids: {} }] }, { choices: {} }, {}],
    ],
    ['deep lists', [delta({ content: [[[[[[['no']]]]]]] })]],
  ])('with %s in it', async (_, odd) => {
    server.answer = stream([...odd, delta({ content: 'Hi' }), ended('stop'), DONE]);
    expect((await run({ messages })).completion).toBe('Hi');
  });

  test('that is refused is what the model says', async () => {
    server.answer = stream([delta({ content: null, refusal: 'I cannot.' }), ended('stop'), DONE]);
    expect((await run({ messages })).completion).toBe('I cannot.');
  });
});

describe('thought', () => {
  const lp = (token: string, logprob: number) => ({
    logprobs: { content: [{ token, logprob, bytes: null, top_logprobs: [] }] },
  });

  test.each(['reasoning_content', 'reasoning', 'reasoning_text', 'thinking'])(
    'in %s is no part of the trace',
    async (name) => {
      server.answer = stream([
        delta({ role: 'assistant', content: null, [name]: 'Let' }, lp('Let', -0.1)),
        delta({ [name]: ' me', content: '' }, lp(' me', -0.2)),
        delta({ content: 'Blue' }, lp('Blue', -0.3)),
        delta({ content: '.' }, { finish_reason: 'stop', ...lp('.', -0.4) }),
        DONE,
      ]);
      const result = await run({ messages });
      expect(result).toMatchObject({ completion: 'Blue.', reasoning: 'Let me', usage: { completionTokens: 2 } });
      expect(result.trace.map(({ step, token, logprob, color }) => [step, token, logprob, color])).toEqual([
        [0, 'Blue', -0.3, '#6404C3'],
        [1, '.', -0.4, '#EB6AF7'],
      ]);
      expect(result).not.toHaveProperty('warnings');
    },
  );

  test('and answer in one event share its tokens', async () => {
    const content = ['</', 'think>', 'Blue', '.'].map((token, i) => ({ token, logprob: -i, bytes: null }));
    server.answer = stream([
      delta({ reasoning: '</think>', content: 'Blue.' }, { logprobs: { content } }),
      ended('stop'),
      DONE,
    ]);
    const { trace } = await run({ messages });
    expect(trace.map(({ token, logprob }) => [token, logprob])).toEqual([
      ['Blue', -2],
      ['.', -3],
    ]);
  });

  test('alone says that there is no answer', async () => {
    server.answer = stream([delta({ content: '' }), delta({ reasoning: 'Let me think' }), ended('length'), DONE]);
    const result = await run({ messages });
    expect(result).toMatchObject({
      completion: '',
      reasoning: 'Let me think',
      finishReason: 'length',
      trace: [],
      tritSum: 0,
    });
    expect(result.warnings).toEqual([
      'there is no answer: all that the model wrote is thought (see reasoning); give it more tokens',
    ]);
  });

  test('is not counted among the tokens of the answer, where the server tells', async () => {
    const counts = { prompt_tokens: 5, completion_tokens: 9, completion_tokens_details: { reasoning_tokens: 7 } };
    server.answer = stream([
      delta({ reasoning: 'hm' }),
      delta({ content: 'a' }),
      delta({ content: 'b' }),
      ended('length'),
      usage(counts),
      DONE,
    ]);
    expect((await run({ messages })).usage).toEqual({ promptTokens: 5, completionTokens: 2, reasoningTokens: 7 });
  });

  test('of a whole answer', async () => {
    const message = { role: 'assistant', reasoning_content: 'hm', content: 'Hi' };
    raw(JSON.stringify({ choices: [{ index: 0, message, finish_reason: 'stop' }] }), 'application/json');
    expect(await run({ messages })).toMatchObject({ completion: 'Hi', reasoning: 'hm' });
  });
});

describe('log-probabilities', () => {
  test.each(['-Infinity', 'Infinity', 'NaN', 'null', '"-Infinity"', '"NaN"', '1e999', '[]'])(
    'of %s count as not told',
    async (value) => {
      raw(
        `data: {"choices":[{"index":0,"text":"Hi","finish_reason":null,"logprobs":{"tokens":["Hi"],"token_logprobs":[-0.5],"top_logprobs":[{"Hi":-0.5,"x":-Infinity}]}}]}\n\n` +
          `data: {"choices":[{"index":0,"text":" you","finish_reason":"stop","logprobs":{"tokens":[" you"],"token_logprobs":[${value}],"top_logprobs":[]}}]}\n\n${DONE}`,
      );
      const { completion, trace } = await run();
      expect(completion).toBe('Hi you');
      expect(trace.map(({ logprob }) => logprob)).toEqual([-0.5, undefined]);
    },
  );
});

describe('several tokens in one event', () => {
  const one = (text: string, id: number, logprob: number) =>
    delta({ content: text }, { logprobs: { content: [{ id, token: text, bytes: [...Buffer.from(text)], logprob }] } });

  test('are counted as the server counts, and shown without the last one’s numbers', async () => {
    server.answer = stream([
      delta({ role: 'assistant', content: null }),
      one('|', 91, -0.1868),
      one('猫te', 278, -0.0364),
      one('te', 278, -0.0264),
      ended('length'),
      usage({ completion_tokens: 6, prompt_tokens: 22, total_tokens: 28 }),
      DONE,
    ]);
    const result = await run({ messages });
    expect(server.asked[0]!.body).toMatchObject({ stream_options: { include_usage: true } });
    expect(result.usage).toEqual({ promptTokens: 22, completionTokens: 6 });
    expect(
      result.trace.map(({ token, tokenId, logprob, merged, tokens }) => ({ token, tokenId, logprob, merged, tokens })),
    ).toEqual([
      { token: '|', tokenId: 91, logprob: -0.1868, merged: undefined, tokens: undefined },
      { token: '猫te', tokenId: undefined, logprob: undefined, merged: true, tokens: 4 },
      { token: 'te', tokenId: 278, logprob: -0.0264, merged: undefined, tokens: undefined },
    ]);
    expect(result.warnings).toEqual([
      'some steps stand for several tokens (the server sent 6 tokens): colors and trit sums count the steps',
    ]);
  });

  test('one suspect alone is it, by the count', async () => {
    server.answer = stream([
      one('a', 1, -1),
      one('🦊', 2, -2),
      one('b', 3, -3),
      ended('length'),
      usage({ completion_tokens: 6 }),
      DONE,
    ]);
    const { trace } = await run({ messages });
    expect(trace[1]).toMatchObject({ token: '🦊', merged: true, tokens: 4 });
    expect(trace[1]).not.toHaveProperty('logprob');
    expect(trace[2]).toMatchObject({ tokenId: 3, logprob: -3 });
  });

  test('among several suspects nobody is accused, and none shows numbers', async () => {
    server.answer = stream([
      one('猫', 1, -1),
      one('犬', 2, -2),
      one('b', 3, -3),
      ended('length'),
      usage({ completion_tokens: 5 }),
      DONE,
    ]);
    const { trace, warnings } = await run({ messages });
    expect(trace.map(({ tokenId, merged }) => [tokenId, merged])).toEqual([
      [undefined, undefined],
      [undefined, undefined],
      [3, undefined],
    ]);
    expect(warnings).toHaveLength(1);
  });

  test('the token that ends a text hides nothing', async () => {
    server.answer = stream([one('猫', 1, -1), one('b', 3, -3), ended('stop'), usage({ completion_tokens: 3 }), DONE]);
    const result = await run({ messages });
    expect(result.trace[0]).toMatchObject({ tokenId: 1, logprob: -1 });
    expect(result).not.toHaveProperty('warnings');
    expect(result.usage.completionTokens).toBe(3);
  });

  test('whose own text is only the end of it', async () => {
    const odd = { logprobs: { content: [{ id: 278, token: 'te', bytes: [116, 101], logprob: -0.1 }] } };
    server.answer = stream([delta({ content: '猫te' }, odd), ended('length'), DONE]);
    const { trace, usage: counts } = await run({ messages });
    expect(trace[0]).toMatchObject({ token: '猫te', merged: true });
    expect(trace[0]).not.toHaveProperty('tokenId');
    expect(counts.completionTokens).toBe(1);
  });

  test('listed, but not where one ends', async () => {
    const content = ['x', 'y', 'z'].map((token) => ({ token, logprob: -1, bytes: null }));
    server.answer = stream([delta({ content: 'Hi' }, { logprobs: { content } }), ended('length'), DONE]);
    const { trace, usage: counts } = await run({ messages });
    expect(trace).toMatchObject([{ token: 'Hi', merged: true, tokens: 3 }]);
    expect(counts.completionTokens).toBe(3);
  });
});

describe('the end', () => {
  test.each(['silent', 'with comments'])('after finish_reason, of a connection that stays open %s', async (how) => {
    server.answer = async (response) => {
      response.writeHead(200, { 'content-type': 'text/event-stream' });
      response.write(HI.map(event).join(''));
      while (how !== 'silent' && !response.destroyed) {
        response.write(': ping\n\n');
        await sleep(100);
      }
    };
    expect(await run()).toMatchObject({ completion: 'Hi you', finishReason: 'stop' });
    await expect.poll(() => server.hangUps).toBe(1);
  });

  test('after finish_reason, of a connection that breaks', async () => {
    server.answer = async (response) => {
      response.writeHead(200, { 'content-type': 'text/event-stream' });
      response.write(HI.map(event).join(''));
      await sleep(50);
      response.destroy();
    };
    expect(await run()).toMatchObject({ completion: 'Hi you', finishReason: 'stop' });
  });

  test.each([
    ['max_tokens', 'length'],
    ['length', 'length'],
    ['eos', 'stop'],
    ['content_filter', 'stop'],
  ])('for the reason %s', async (reason, expected) => {
    server.answer = stream([piece('Hi'), finish(reason), DONE]);
    expect((await run()).finishReason).toBe(expected);
  });

  test('by a call of a tool has the call as its answer', async () => {
    const call = { tool_calls: [{ index: 0, id: 'x', function: { name: 'f', arguments: '{}' } }] };
    server.answer = stream([delta({ content: null, ...call }), ended('tool_calls'), DONE]);
    const { toolCalls, content, warnings } = await run({ messages });
    expect(toolCalls).toEqual([{ id: 'x', name: 'f', arguments: '{}' }]);
    expect([content, warnings]).toEqual(['', undefined]);
  });

  test('in a null that is text is none', async () => {
    server.answer = stream([piece('Hi', { finish_reason: 'null' }), piece(' you', { finish_reason: '' })]);
    await expect(run()).rejects.toThrow(/ended without finish_reason/);
  });
});

describe('the body', () => {
  test.each([
    'application/json',
    'application/x-ndjson',
    'text/plain',
    'application/octet-stream',
    'TEXT/EVENT-STREAM',
    null,
  ])('of data lines is a stream, called %s', async (type) => {
    raw(HI_SSE, type);
    expect((await run()).completion).toBe('Hi you');
  });

  test.each<[string, string, string]>([
    ['JSON under the name of a stream', JSON.stringify(HI.at(-1)), 'text/event-stream'],
    ['JSON over many lines', JSON.stringify(piece(' you', { finish_reason: 'stop' }), null, 2), 'text/plain'],
    ['an object a line', `${HI.map((one) => JSON.stringify(one)).join('\n')}\n`, 'application/x-ndjson'],
    ['an object a line, and its end', `${JSON.stringify(piece(' you'))}\n[DONE]\n`, 'application/x-ndjson'],
  ])('%s', async (_, body, type) => {
    raw(body, type);
    expect((await run()).completion).toMatch(/^(Hi)? you$/);
  });

  test('of objects a line that just ends is not whole', async () => {
    raw(`${JSON.stringify(piece('Hi'))}\n${JSON.stringify(piece(' you'))}\n`, 'application/x-ndjson');
    await expect(run()).rejects.toThrow(/ended without finish_reason/);
  });

  test.each([
    ['with a byte order mark', `\ufeff${HI_SSE}`],
    ['with CRLF', HI_SSE.replaceAll('\n', '\r\n')],
    [
      'with comments, ids and empty data',
      `: hello\n\nid: 1\nretry: 5\n${HI_SSE.replace('data', 'data:\n\nevent: x\n\ndata')}`,
    ],
    ['with white space around the end', HI_SSE.replace('[DONE]', ' [done] ')],
    ['with line breaks in front', `\n\n\n${HI_SSE}`],
    ['without an end', HI.map(event).join('')],
    ['without spaces', HI_SSE.replaceAll('data: ', 'data:')],
  ])('%s', async (_, body) => {
    raw(body);
    expect(await run()).toMatchObject({ completion: 'Hi you', finishReason: 'stop' });
  });

  test('packed with gzip', async () => {
    raw(gzipSync(HI_SSE), 'text/event-stream', { 'content-encoding': 'gzip' });
    expect((await run()).completion).toBe('Hi you');
  });

  test('cut within characters and lines', async () => {
    const bytes = Buffer.from(event(piece('猫é🦊', { finish_reason: 'stop' })) + DONE);
    server.answer = async (response) => {
      response.writeHead(200, { 'content-type': 'application/json' });
      for (const byte of bytes) {
        response.write(Buffer.of(byte));
        await new Promise(setImmediate);
      }
      response.end();
    };
    expect((await run()).completion).toBe('猫é🦊');
  });

  test.each<[string, string, string | null, RegExp]>([
    ['a web page', '<!DOCTYPE html><html></html>', 'text/html', /the content type "text\/html"/],
    ['a web page without a name', '\n <html></html>', null, /it sent a web page/],
    ['words', 'Internal Server Error', 'text/plain', /it sent "Internal Server Error"/],
    ['JSON cut off', '{"choices": [', 'application/json', /which is not JSON/],
    ['nested thousands deep', `data: ${'['.repeat(100_000)}\n\n`, 'text/event-stream', /nested deeper than 128/],
    ['a number', 'data: 5\n\n', 'text/event-stream', /5, which is no object/],
  ])('that is %s', async (_, body, type, message) => {
    raw(body, type);
    const failed = run();
    await expect(failed).rejects.toThrow(message);
    await expect(failed).rejects.toBeInstanceOf(OpenAiStreamError);
    expect(((await failed.catch((error: Error) => error.message)) as string).length).toBeLessThan(400);
  });

  test('of many lines that are no JSON is read once', async () => {
    raw(`{"a": [\n${'{}\n'.repeat(200_000)}`, 'application/json');
    await expect(run()).rejects.toThrow(OpenAiStreamError);
  });
});

describe('a server that is slow', () => {
  test('is waited for, unless a limit is set, which is told', async () => {
    server.answer = async (response) => {
      await sleep(400);
      await stream([piece('Hi'), finish('stop'), DONE], 300)(response, server.asked[0]!);
    };
    expect((await run({}, { BITNET_OPENAI_IDLE_SECONDS: '30' })).completion).toBe('Hi');
    const failed = run({}, { BITNET_OPENAI_IDLE_SECONDS: '0.1' });
    await expect(failed).rejects.toThrow(/no data for 0.1 seconds .*BITNET_OPENAI_IDLE_SECONDS/);
    await expect(failed).rejects.toBeInstanceOf(OpenAiConnectionError);
  });

  test('within its stream, too', async () => {
    server.answer = (response) => {
      response.writeHead(200, { 'content-type': 'text/event-stream' });
      response.write(event(piece('Hi')));
    };
    await expect(run({}, { BITNET_OPENAI_IDLE_SECONDS: '0.2' })).rejects.toThrow(/no data for 0.2 seconds/);
  });

  test.each(['x', '0', '-1', 'Infinity', '1e99'])('by a limit of %j is a wrong call', async (value) => {
    await expect(run({}, { BITNET_OPENAI_IDLE_SECONDS: value })).rejects.toBeInstanceOf(ArgumentError);
  });
});

describe('a server with another model', () => {
  test('is what the result names, and says both once', async () => {
    server.answer = stream([{ ...piece('Hi'), model: 'owl-7b' }, { ...finish('stop'), model: 'owl-7b' }, DONE]);
    const result = await run({ model: 'nosuch' });
    expect(result.model).toBe('owl-7b');
    expect(result.warnings).toEqual(['the model "nosuch" was asked for, the server answered with "owl-7b"']);
  });

  test('goes on under the name that was asked for', async () => {
    server.answer = stream([{ ...piece('Hi', { finish_reason: 'length' }), model: 'owl' }, DONE]);
    const { continuation } = await run({ model: 'nosuch' });
    await generateWith(new Engine({ env: { BITNET_OPENAI_BASE_URL: server.url } }), {
      model: 'x',
      backend: 'openai',
      continuation: continuation!,
    });
    expect(server.asked.at(-1)!.body.model).toBe('nosuch');
  });

  test.each([null, 5, '', ' ', undefined])('told as %j is the one asked for', async (model) => {
    server.answer = stream([{ ...piece('Hi'), model }, finish('stop'), DONE]);
    const result = await run();
    expect(result.model).toBe('m');
    expect(result).not.toHaveProperty('warnings');
  });

  test('is named on the command line, once on stderr and in the last line', async () => {
    server.answer = stream([{ ...piece('Hi'), model: 'owl\u001b[31m' }, finish('stop'), DONE]);
    const { stdout, stderr } = await runCli(['infer', 'x', '--backend', 'openai', '--model', 'nosuch'], {
      env: { BITNET_OPENAI_BASE_URL: server.url },
    });
    expect(stdout).toBe('Hi\n');
    expect(stderr.split('\n').slice(0, 2)).toEqual([
      'warning: the model "nosuch" was asked for, the server answered with "owl [31m"',
      expect.stringContaining(`(openai, owl [31m at ${server.url})`),
    ]);
  });
});

test('another host is asked through the proxy', async () => {
  server.answer = stream([piece('Hi'), finish('stop'), DONE]);
  const env = { BITNET_OPENAI_BASE_URL: 'http://llm.invalid/v1', HTTP_PROXY: server.url.replace('/v1', '') };
  expect((await run({}, env)).completion).toBe('Hi');
  expect(server.asked[0]!.path).toBe('http://llm.invalid/v1/completions');
});
