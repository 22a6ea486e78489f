// The backend "openai" against a server of our own on the loopback interface, which can misbehave in every way we care
// about. Answers are written as the servers write them: llama-server, vLLM, mlx_lm.server, OpenAI.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { ArgumentError } from '../../../src/errors.ts';
import { Engine } from '../../../src/generate/engine.ts';
import { EngineHost } from '../../../src/generate/engine-host.ts';
import { generateWith } from '../../../src/generate/generate.ts';
import { OpenAiConnectionError, OpenAiResponseError, OpenAiStreamError } from '../../../src/generate/openai/errors.ts';
import type { GenerateHooks, GenerateRequest } from '../../../src/generate/types.ts';
import { generateWithTraceTool } from '../../../src/tools/generate-with-trace.ts';
import { MAIN, runCli } from '../../cli/run-cli.ts';
import { DONE, finish, type MockServer, openMockServer, piece, sleep, stream } from './mock-server.ts';

let server: MockServer;
beforeEach(async () => {
  server = await openMockServer();
});
afterEach(() => server[Symbol.asyncDispose]());

function run(request: Partial<GenerateRequest> = {}, hooks: GenerateHooks = {}, env: Record<string, string> = {}) {
  const engine = new Engine({ env: { BITNET_OPENAI_BASE_URL: server.url, ...env } });
  const begin = request.messages === undefined && request.continuation === undefined ? { prompt: 'Once' } : {};
  return generateWith(engine, { model: 'big-model', backend: 'openai', ...begin, ...request }, hooks);
}

const textOf = ({ trace }: { trace: readonly { token: string }[] }) => trace.map(({ token }) => token);

describe('a trace', () => {
  test('has our colors and trits, and its texts join to the completion', async () => {
    server.answer = stream([piece(' upon'), piece(' a'), piece(' time'), finish('stop'), DONE]);
    const announced: string[] = [];
    const result = await run({}, { onStep: ({ token }) => announced.push(token) });
    expect(textOf(result)).toEqual([' upon', ' a', ' time']);
    expect(announced).toEqual([' upon', ' a', ' time']);
    expect(result).toMatchObject({
      model: 'big-model',
      completion: ' upon a time',
      output: 'Once upon a time',
      finishReason: 'stop',
      tritSum: -3,
      conserved: true,
      usage: { completionTokens: 3 },
      engine: { backend: 'openai', endpoint: server.url },
    });
    expect(result.trace.map(({ color }) => color)).toEqual(['#6404C3', '#EB6AF7', '#7F1747']);
    // What the server does not tell is absent.
    for (const step of result.trace) expect(Object.keys(step).sort()).toEqual(['color', 'step', 'token', 'trit']);
    expect(result.usage).not.toHaveProperty('promptTokens');
  });

  test('of llama-server: ids, log-probabilities, a character over two tokens, usage at the end', async () => {
    const entry = (id: number, token: string, bytes: number[], logprob: number) => ({ id, token, bytes, logprob });
    const content = (...entries: object[]) => ({ logprobs: { content: entries } });
    server.answer = stream([
      ': ping\n\n',
      piece(' caf', content(entry(7, ' caf', [32, 99, 97, 102], -0.5))),
      piece('é!', content(entry(8, '', [0xc3], -1.5), entry(9, '!', [0xa9, 33], -0.25))),
      { choices: [{ text: '', index: 0, finish_reason: 'length' }], usage: { prompt_tokens: 5, completion_tokens: 3 } },
      DONE,
    ]);
    const result = await run({ maxTokens: 3 });
    expect(result.trace.map(({ token, tokenId, logprob }) => [token, tokenId, logprob])).toEqual([
      [' caf', 7, -0.5],
      ['', 8, -1.5],
      ['é!', 9, -0.25],
    ]);
    expect(result).toMatchObject({ finishReason: 'length', usage: { promptTokens: 5, completionTokens: 3 } });
  });

  test('of vLLM: several tokens in one chunk, ids beside them, the end token left out', async () => {
    server.answer = stream([
      piece(' the fox', {
        logprobs: { tokens: [' the', ' fox'], token_logprobs: [-0.1, -0.2], text_offset: [0, 4] },
        token_ids: [1, 2],
      }),
      piece(' ran', {
        logprobs: { tokens: [' ran', '</s>'], token_logprobs: [-0.3, -0.01] },
        token_ids: [3, 0],
        finish_reason: 'stop',
      }),
      DONE,
    ]);
    const { trace, completion } = await run();
    expect(completion).toBe(' the fox ran');
    expect(trace.map(({ token, tokenId, logprob }) => [token, tokenId, logprob])).toEqual([
      [' the', 1, -0.1],
      [' fox', 2, -0.2],
      [' ran', 3, -0.3],
    ]);
  });

  test('of a chat: messages go out as they are, deltas come back', async () => {
    const delta = (content: string | null, more: object = {}) => ({
      choices: [{ index: 0, delta: { content }, ...more }],
    });
    server.answer = stream([
      { choices: [{ index: 0, delta: { role: 'assistant', content: null } }] },
      delta('Hi', { logprobs: { content: [{ token: 'Hi', logprob: -0.7, bytes: [72, 105] }] } }),
      delta('!', { finish_reason: 'stop' }),
      { choices: [], usage: { prompt_tokens: 11 } },
      DONE,
    ]);
    const messages = [{ role: 'user', content: 'Hello' }];
    const result = await run({ messages });
    expect(server.asked[0]).toMatchObject({ path: '/v1/chat/completions', body: { messages, stream: true } });
    expect(result).toMatchObject({ completion: 'Hi!', output: 'user: Hello\nassistant: Hi!' });
    expect(result.usage).toEqual({ promptTokens: 11, completionTokens: 2 });
    expect(result.trace[0]).toMatchObject({ token: 'Hi', logprob: -0.7 });
  });

  test("of a chat with tools: a call's arguments go out as text, as the API has them", async () => {
    server.answer = stream([{ choices: [{ index: 0, delta: { content: '3' }, finish_reason: 'stop' }] }, DONE]);
    const result = await run({
      messages: [
        { role: 'user', content: 'Roll' },
        { role: 'assistant', tool_calls: [{ function: { name: 'dice', arguments: { sides: 6 } } }] },
        { role: 'tool', content: '3', tool_call_id: 'call_0' },
      ],
    });
    expect(server.asked[0]!.body.messages).toEqual([
      { role: 'user', content: 'Roll' },
      {
        role: 'assistant',
        content: null,
        tool_calls: [{ id: 'call_0', type: 'function', function: { name: 'dice', arguments: '{"sides":6}' } }],
      },
      { role: 'tool', content: '3', tool_call_id: 'call_0' },
    ]);
    expect(result.completion).toBe('3');
  });

  test('of a server that marks the end without a reason, and of one that gives a reason without a mark', async () => {
    server.answer = stream([piece('a'), DONE]);
    expect(await run()).toMatchObject({ completion: 'a', finishReason: 'stop' });
    server.answer = stream([piece('a'), finish('length')]);
    expect(await run()).toMatchObject({ completion: 'a', finishReason: 'length' });
  });

  test('halves of a character in two chunks become one', async () => {
    const half = (json: string) => `data: {"choices":[{"index":0,"text":"${json}"}]}\n\n`;
    server.answer = stream([half('a\\ud83e'), half('\\udd8ab'), half('\\ud83e'), finish('length'), DONE]);
    const result = await run();
    expect(textOf(result)).toEqual(['a', '🦊b', '\ufffd']);
    expect(result.completion).toBe('a🦊b\ufffd');
  });

  test('of a server that does not stream is its one answer', async () => {
    server.answer = (response) => {
      const choice = { index: 0, text: ' all at once', finish_reason: 'stop' };
      response.writeHead(200, { 'content-type': 'application/json' });
      response.end(JSON.stringify({ choices: [choice], usage: { prompt_tokens: 2 } }));
    };
    expect(await run()).toMatchObject({ completion: ' all at once', usage: { promptTokens: 2, completionTokens: 1 } });
  });
});

describe('a request', () => {
  test('carries the sampling, the key, and a seed only where it matters', async () => {
    server.answer = stream([piece('x'), finish('stop'), DONE]);
    const env = { BITNET_OPENAI_API_KEY: ' secret-key\n' };
    await run(
      { temperature: 0.5, topK: 4, topP: 0.9, sampleSeed: 2n ** 63n + 5n, stop: ['END'], maxTokens: 7 },
      {},
      env,
    );
    await run();
    const [first, second] = server.asked;
    expect(first!.authorization).toBe('Bearer secret-key');
    expect(first!.body).toMatchObject({
      model: 'big-model',
      prompt: 'Once',
      max_tokens: 7,
      temperature: 0.5,
      top_k: 4,
      top_p: 0.9,
      seed: 5,
      stop: ['END'],
      logprobs: 1,
    });
    expect(second!.authorization).toBeUndefined();
    expect(second!.body).toMatchObject({ temperature: 0 });
    for (const name of ['seed', 'top_k', 'top_p', 'stop']) expect(second!.body).not.toHaveProperty(name);
  });

  test('keeps to itself more stop strings than servers take', async () => {
    server.answer = stream([piece('one five two'), finish('stop'), DONE]);
    expect(await run({ stop: ['a1', 'b2', 'c3', 'd4', 'five'] })).toMatchObject({ completion: 'one ' });
    expect(server.asked[0]!.body).not.toHaveProperty('stop');
  });

  test('refused for its extras is sent again without them', async () => {
    server.answer = (response, asked) => {
      if ('logprobs' in asked.body) response.writeHead(400).end('{"error":{"message":"logprobs are not supported"}}');
      else void stream([piece('plain'), finish('stop'), DONE])(response, asked);
    };
    expect((await run()).completion).toBe('plain');
    expect(server.asked).toHaveLength(2);
    for (const name of ['logprobs', 'return_token_ids']) expect(server.asked[1]!.body).not.toHaveProperty(name);
  });

  test('refused for all of them is sent bare', async () => {
    server.answer = (response, asked) => {
      if ('stream_options' in asked.body) response.writeHead(422).end('{"detail":"extra fields"}');
      else void stream([piece('plain'), finish('stop'), DONE])(response, asked);
    };
    expect((await run()).completion).toBe('plain');
  });

  test('that takes no logprobs beside tools still hears whether to think', async () => {
    server.answer = (response, asked) => {
      if ('logprobs' in asked.body) response.writeHead(400).end('{"error":{"message":"no logprobs with tools"}}');
      else void stream([piece('x'), finish('stop'), DONE])(response, asked);
    };
    const told = await run({ messages: [{ role: 'user', content: 'Hi' }], thinking: 'off' });
    expect(told).not.toHaveProperty('warnings');
    expect(server.asked.at(-1)!.body).toMatchObject({ thinking: 'off', stream_options: { include_usage: true } });
  });

  test('asks for one call at a time where that is wanted', async () => {
    server.answer = stream([piece('x'), finish('stop'), DONE]);
    const tools = [{ type: 'function', function: { name: 'dice', parameters: { type: 'object' } } }];
    const chat = { messages: [{ role: 'user', content: 'Hi' }], tools };
    await run(chat);
    await run({ ...chat, parallelToolCalls: false });
    expect(server.asked[0]!.body).not.toHaveProperty('parallel_tool_calls');
    expect(server.asked[1]!.body).toMatchObject({ parallel_tool_calls: false });
  });

  test.each(['{"sides": 6', '[6]', 'six', '"six"'])(
    'leaves out a call with the arguments %s, and says so',
    async (text) => {
      const call = (index: number, args: string) => ({
        index,
        id: `c${index}`,
        function: { name: 'dice', arguments: args },
      });
      const calls = { choices: [{ delta: { tool_calls: [call(0, '{"sides":6}'), call(1, text)] } }] };
      server.answer = stream([calls, finish('length'), DONE]);
      const told = await run({ messages: [{ role: 'user', content: 'Roll' }], maxTokens: 9 });
      expect(told.toolCalls).toEqual([{ id: 'c0', name: 'dice', arguments: '{"sides":6}' }]);
      expect(told.warnings).toEqual([expect.stringMatching(/the call of "dice" is left out.*more tokens/)]);
    },
  );

  test.each([
    ['on', { chat_template_kwargs: { enable_thinking: true } }],
    ['off', { chat_template_kwargs: { enable_thinking: false } }],
    [0, { chat_template_kwargs: { enable_thinking: false }, reasoning_budget_tokens: 0 }],
    [40, { chat_template_kwargs: { enable_thinking: true }, reasoning_budget_tokens: 40 }],
  ] as const)('says whether to think: %s', async (thinking, sent) => {
    server.answer = stream([piece('x'), finish('stop'), DONE]);
    const chat = { messages: [{ role: 'user', content: 'Hi' }], thinking };
    expect(await run(chat)).not.toHaveProperty('warnings');
    expect(server.asked[0]!.body).toMatchObject({ ...sent, thinking });
  });

  test('that cannot say so warns', async () => {
    server.answer = (response, asked) => {
      if ('chat_template_kwargs' in asked.body)
        response.writeHead(400).end('{"error":{"message":"unknown parameter"}}');
      else void stream([piece('x'), finish('stop'), DONE])(response, asked);
    };
    const told = await run({ messages: [{ role: 'user', content: 'Hi' }], thinking: 'off' });
    expect(told.warnings).toEqual([expect.stringMatching(/does not take `thinking`/)]);
  });

  test('for "default" takes the only model there is, or lists them', async () => {
    let models = [{ id: 'only/one' }];
    server.answer = (response, asked) => {
      if (asked.path === '/v1/models') response.end(JSON.stringify({ data: models }));
      else void stream([piece('x'), finish('stop'), DONE])(response, asked);
    };
    expect((await run({ model: 'default' })).model).toBe('only/one');
    expect(server.asked.at(-1)!.body.model).toBe('only/one');
    models = [{ id: 'one' }, { id: 'two' }];
    await expect(run({ model: 'default' })).rejects.toThrow(/2 models .*name one with --model: one, two/);
    models = [];
    await expect(run({ model: 'default' })).rejects.toThrow(/lists no model/);
  });
});

describe('ends', () => {
  test('before a stop string that the server let through, and hangs up', async () => {
    server.answer = stream([piece('one E'), piece('N'), piece('D two'), ...Array(200).fill(piece(' more'))], 5);
    const result = await run({ stop: ['END'] });
    expect(result).toMatchObject({ completion: 'one ', finishReason: 'stop' });
    await expect.poll(() => server.hangUps).toBe(1);
  });

  test('at the token limit when the server does not', async () => {
    server.answer = stream([...Array(50).fill(piece('x'))], 2);
    const result = await run({ maxTokens: 4 });
    expect(result).toMatchObject({ completion: 'xxxx', finishReason: 'length' });
    await expect.poll(() => server.hangUps).toBe(1);
  });

  test('at the token limit of a server that then says nothing', async () => {
    server.answer = (response) => {
      response.writeHead(200, { 'content-type': 'text/event-stream' });
      response.write(`data: ${JSON.stringify(piece('x'))}\n\n`);
    };
    expect(await run({ maxTokens: 1 })).toMatchObject({ completion: 'x', finishReason: 'length' });
  });

  test('at the time limit, also while the server is silent, with a handle that sends the text again', async () => {
    server.answer = (response) => {
      response.writeHead(200, { 'content-type': 'text/event-stream' });
      response.write(`data: ${JSON.stringify(piece(' upon'))}\n\n`);
    };
    // The server would be silent for ever.
    const result = await run({ maxSeconds: 1 });
    expect(result).toMatchObject({ finishReason: 'time', completion: ' upon' });
    await expect.poll(() => server.hangUps).toBe(1);

    server.answer = stream([piece(' a'), piece(' time'), finish('stop'), DONE]);
    const next = await run({ continuation: result.continuation! });
    expect(server.asked.at(-1)!.body.prompt).toBe('Once upon');
    expect(next.output).toBe('Once upon a time');
    expect(next.trace.map(({ step, color }) => [step, color])).toEqual([
      [1, '#EB6AF7'],
      [2, '#7F1747'],
    ]);
  });

  test('a chat without a handle: no server can be counted on to go on within a turn', async () => {
    server.answer = stream([piece('x'), finish('length'), DONE]);
    const result = await run({ messages: [{ role: 'user', content: 'a' }] });
    expect(result.finishReason).toBe('length');
    expect(result).not.toHaveProperty('continuation');
  });

  test.each([
    ['while it writes', 3],
    ['before the first token', 0],
  ])('when it is cancelled %s: the request is ended, too', async (_, after) => {
    const controller = new AbortController();
    server.answer = (response) => {
      response.writeHead(200, { 'content-type': 'text/event-stream' });
      for (let i = 0; i < after; i += 1) response.write(`data: ${JSON.stringify(piece('x'))}\n\n`);
      // Never ended.
      if (after === 0) response.write(': wait\n\n', () => controller.abort());
    };
    const onStep = ({ step }: { step: number }) => step === after - 1 && controller.abort();
    const result = await run({}, { signal: controller.signal, onStep });
    expect(result).toMatchObject({ finishReason: 'cancelled', completion: 'x'.repeat(after) });
    await expect.poll(() => server.hangUps).toBe(1);
  });
});

describe('continuation handles stay with their kind of backend', () => {
  test('in both directions', async () => {
    server.answer = stream([piece(' upon'), finish('length'), DONE]);
    const theirs = (await run()).continuation!;
    using engine = new Engine();
    const local = { model: 'default', backend: 'js' as const };
    await expect(generateWith(engine, { ...local, continuation: theirs })).rejects.toThrow(
      /made by the backend "openai"/,
    );
    const ours = (await generateWith(engine, { ...local, prompt: 'Once', maxTokens: 1 })).continuation!;
    await expect(run({ continuation: ours })).rejects.toThrow(/made by an engine of our own, this is "openai"/);
  });
});

describe('errors say what to do', () => {
  const status = (code: number, body: string) => {
    server.answer = (response) => void response.writeHead(code, { 'content-type': 'application/json' }).end(body);
  };

  test.each<[number, string, RegExp]>([
    [401, '{"error":{"message":"bad key"}}', /refused the key \(HTTP 401\): bad key .*BITNET_OPENAI_API_KEY/],
    [403, '{"detail":"no"}', /refused the key \(HTTP 403\): no/],
    [429, '', /fewer requests \(HTTP 429\)/],
    [500, '<html>oh</html>', /the server failed \(HTTP 500\) \(http/],
    [302, '', /sends us elsewhere \(HTTP 302\)/],
    [
      400,
      '{"message":"max_tokens is\\u001b[31m too large"}',
      /refused the request \(HTTP 400\): max_tokens is \[31m too large/,
    ],
    [422, `{"error":"${'long '.repeat(1000)}"}`, /\(HTTP 422\): (long ){55}/],
  ])('status %i', async (code, body, message) => {
    status(code, body);
    const failed = run();
    await expect(failed).rejects.toThrow(message);
    await expect(failed).rejects.toBeInstanceOf(OpenAiResponseError);
    await expect(failed).rejects.toMatchObject({ status: code, code: 'OPENAI_RESPONSE' });
    expect(((await failed.catch((error: Error) => error.message)) as string).length).toBeLessThan(600);
  });

  test('an unknown model: those that the server has', async () => {
    server.answer = (response, { path }) => {
      if (path === '/v1/models') response.end('{"data":[{"id":"fox-3b"},{"id":"owl-7b"}]}');
      else response.writeHead(404).end('{"error":{"message":"no model big-model"}}');
    };
    await expect(run()).rejects.toThrow(
      /no such model or path \(HTTP 404\): no model big-model .*fox-3b, owl-7b.*--chat/,
    );
  });

  test('a redirect: neither prompt nor key follow it', async () => {
    server.answer = (response) => void response.writeHead(307, { location: `${server.url}/elsewhere` }).end();
    await expect(run({}, {}, { BITNET_OPENAI_API_KEY: 'secret' })).rejects.toThrow(/sends us elsewhere \(HTTP 307\)/);
    expect(server.asked.map(({ path }) => path)).toEqual(['/v1/completions']);
  });

  test('nobody there', async () => {
    await server[Symbol.asyncDispose]();
    const failed = run();
    await expect(failed).rejects.toThrow(/nobody listens there \(ECONNREFUSED\) .*completions\); start the server/);
    await expect(failed).rejects.toBeInstanceOf(OpenAiConnectionError);
  });

  test.each<[string, readonly unknown[], new (...args: never[]) => Error, RegExp]>([
    ['no JSON', ['data: {"choices": [\n\n'], OpenAiStreamError, /it sent .*which is not JSON/],
    ['no object', ['data: 5\n\n'], OpenAiStreamError, /5, which is no object/],
    [
      'an error inside',
      [piece('x'), { error: { message: 'out of memory' } }],
      OpenAiResponseError,
      /broke off: out of memory/,
    ],
    [
      'an error event',
      ['event: error\ndata: {"message":"slot lost"}\n\n'],
      OpenAiResponseError,
      /broke off: slot lost/,
    ],
    ['an old error field', ['error: {"message":"slot lost"}\n\n'], OpenAiResponseError, /broke off: slot lost/],
    ['an early end', [piece('x')], OpenAiConnectionError, /broke off: it ended without finish_reason or \[DONE\]/],
    ['nothing at all', [], OpenAiConnectionError, /broke off: it ended without finish_reason or \[DONE\]/],
  ])('a stream with %s', async (_, events, kind, message) => {
    server.answer = stream(events);
    const failed = run();
    await expect(failed).rejects.toThrow(message);
    await expect(failed).rejects.toBeInstanceOf(kind);
  });

  test('a connection that breaks in the middle', async () => {
    server.answer = async (response) => {
      response.writeHead(200, { 'content-type': 'text/event-stream' });
      response.write(`data: ${JSON.stringify(piece('x'))}\n\n`);
      await sleep(50);
      response.destroy();
    };
    await expect(run()).rejects.toBeInstanceOf(OpenAiConnectionError);
  });

  test('a page instead of the API', async () => {
    server.answer = (response) => void response.writeHead(200, { 'content-type': 'text/html' }).end('<html>');
    await expect(run()).rejects.toThrow(/it sent the content type "text\/html" .*ends in \/v1/);
  });

  test('a line without end is not read to its end', async () => {
    let sent = 0;
    server.answer = async (response) => {
      response.writeHead(200, { 'content-type': 'text/event-stream' });
      response.write('data: ');
      const block = 'x'.repeat(1 << 20);
      while (!response.destroyed && sent < 64) {
        if (!response.write(block)) await Promise.race([once(response, 'drain'), once(response, 'close')]);
        sent += 1;
      }
      response.end();
    };
    await expect(run()).rejects.toThrow(/a line exceeds 4194304 characters/);
    expect(sent).toBeLessThan(64);
  });

  test.each<[string, Partial<GenerateRequest>, Record<string, string>, RegExp]>([
    ['threads', { threads: 2 }, {}, /threads has no meaning with the backend "openai"/],
    ['a head', { head: 'int8' }, {}, /head has no meaning/],
    ['activations', { activations: true }, {}, /trits of the layers cannot be counted/],
    ['a URL that is none', {}, { BITNET_OPENAI_BASE_URL: 'localhost:8080' }, /is not an http or https URL/],
    ['a URL with a password', {}, { BITNET_OPENAI_BASE_URL: 'http://a:b@127.0.0.1/v1' }, /without user and password/],
    ['a key with spaces inside', {}, { BITNET_OPENAI_API_KEY: 'two words' }, /characters that no key has/],
  ])('%s', async (_, request, env, message) => {
    const failed = run(request, {}, env);
    await expect(failed).rejects.toThrow(message);
    await expect(failed).rejects.toBeInstanceOf(ArgumentError);
  });
});

describe('the engine of a server takes its backend from BITNET_BACKEND', () => {
  const generate = async (backend: string) => {
    vi.stubEnv('BITNET_BACKEND', backend);
    vi.stubEnv('BITNET_OPENAI_BASE_URL', server.url);
    const host = new EngineHost();
    try {
      return await host.generate({ model: 'm', prompt: 'Once', maxTokens: 5 });
    } finally {
      vi.unstubAllEnvs();
      await host.close();
    }
  };

  test('as here', async () => {
    server.answer = stream([piece(' upon'), finish('stop'), DONE]);
    expect(await generate('openai')).toMatchObject({ completion: ' upon', engine: { backend: 'openai' } });
  });

  test('and says what may stand there', async () => {
    await expect(generate('vulkan')).rejects.toThrow(/BITNET_BACKEND is "vulkan"; set it to one of auto, metal/);
  });

  test('and errors cross the border whole', async () => {
    server.answer = (response) => void response.writeHead(401).end();
    await expect(generate('openai')).rejects.toMatchObject({ code: 'OPENAI_RESPONSE', fault: 'call' });
  });
});

describe('the command line', () => {
  const env = () => ({ BITNET_OPENAI_BASE_URL: server.url });

  test('prints text, a trace, and JSON that fits the schema of the tool', async () => {
    server.answer = stream([piece(' upon'), piece(' a'), finish('stop'), DONE]);
    const args = ['infer', 'Once', '--backend', 'openai', '--model', 'm'];
    const plain = await runCli(args, { env: env() });
    expect(plain).toMatchObject({ code: 0, stdout: ' upon a\n' });
    expect(plain.stderr).toContain(`(openai, m at ${server.url})`);
    const traced = await runCli([...args, '--trace-gf3'], { env: env() });
    expect(traced.stdout).toContain('  [-] #6404C3  upon\n');
    const result = JSON.parse((await runCli([...args, '--json'], { env: env() })).stdout);
    expect(result.engine).toEqual({ backend: 'openai', endpoint: server.url });
    expect(generateWithTraceTool.output.safeParse(result).error).toBeUndefined();
  });

  test('prints the half of a character that no step has had time for', async () => {
    server.answer = stream([`data: {"choices":[{"index":0,"text":"a\\ud83e"}]}\n\n`, finish('length'), DONE]);
    const { stdout } = await runCli(['infer', 'Once', '--backend', 'openai', '--model', 'm'], { env: env() });
    expect(stdout).toBe('a\ufffd\n');
  });

  test('ends the request at Ctrl-C', async () => {
    server.answer = stream(Array(400).fill(piece('x')), 20);
    const child = spawn(process.execPath, [MAIN, 'infer', 'Once', '--backend', 'openai', '--model', 'm'], {
      env: { ...process.env, ...env() },
      stdio: ['ignore', 'pipe', 'ignore'],
    });
    await once(child.stdout, 'data');
    child.kill('SIGINT');
    expect((await once(child, 'exit'))[0]).toBe(130);
    await expect.poll(() => server.hangUps).toBe(1);
  });

  test.each([
    [
      ['eval', 'm', '--ids', '1'],
      'cannot give the logits that are needed here: it asks a server for text and serves infer',
    ],
    [['verify', 'test/golden/model/bitnet_packed_a_s111'], 'cannot verify a checkpoint'],
    [['bench'], 'cannot be timed by bench'],
  ])('%j says what the backend can do', async (args, message) => {
    const { code, stdout, stderr } = await runCli([...args, '--backend', 'openai'], { env: env() });
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' });
    expect(stderr).toContain(message);
    expect(server.asked).toHaveLength(0);
  });
});
