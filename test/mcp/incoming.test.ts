// Messages as clients write them: what is meant is taken, what is too much is refused, and numbers keep their text.

import { PassThrough } from 'node:stream';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { JsonScan, MAX_VALUES, parseMessage } from '../../src/mcp/incoming.ts';
import { LineTransport } from '../../src/mcp/line-transport.ts';
import { lostText } from '../../src/tools/lost-number.ts';
import { openSession, send, startServer, statelessCall } from './http-harness.ts';
import { RawClient } from './server-process.ts';

const callOf = (args: string) =>
  `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"palette","arguments":${args}}}`;
const paramsOf = (text: string) => (parseMessage(text) as { params: Record<string, unknown> }).params;

describe('a message', () => {
  test.each([['null'], ['[]']])('with %s for its arguments has none', (args) => {
    expect(paramsOf(callOf(args))).toEqual({ name: 'palette' });
  });

  test('with an object as text has that object', () => {
    expect(paramsOf(callOf(JSON.stringify('{"n":3}'))).arguments).toEqual({ n: 3 });
    expect(paramsOf(callOf('"{n:3}"')).arguments).toBe('{n:3}');
    expect(paramsOf(callOf('[1]')).arguments).toEqual([1]);
  });

  test('with null for its parameters has none', () => {
    expect(parseMessage('{"method":"tools/list","params":null}')).toEqual({ method: 'tools/list' });
    expect(parseMessage('{"method":"x","params":{"_meta":null,"arguments":null}}')).toEqual({
      method: 'x',
      params: { arguments: null },
    });
  });

  test('shows numbers that cannot be held as they were sent, among arguments only', () => {
    const text = callOf(
      '{"n":9007199254740993,"seed":"9007199254740993","start":1e400,"m":0.1234567890123456789,"k":9007199254740991}',
    );
    const { arguments: args } = paramsOf(text) as { arguments: Record<string, unknown> };
    expect(lostText(args.n)).toBe('9007199254740993');
    expect(lostText(args.start)).toBe('1e400');
    expect(args).toMatchObject({ seed: '9007199254740993', m: 0.12345678901234568, k: 9007199254740991 });
    expect(parseMessage('{"id":9007199254740993,"method":"tools/call","params":{}}')).toMatchObject({ id: 2 ** 53 });
  });

  test('is otherwise what JSON.parse makes of it', () => {
    fc.assert(
      fc.property(fc.json(), (text) => {
        expect(parseMessage(text)).toEqual(JSON.parse(text));
      }),
    );
    const names = fc.dictionary(
      fc.string(),
      fc.oneof(fc.string(), fc.double({ noInteger: true }), fc.maxSafeInteger()),
    );
    fc.assert(
      fc.property(names, (args) => {
        const text = callOf(JSON.stringify({ ...args, n: '1234567890123456' }));
        expect(paramsOf(text)).toEqual(JSON.parse(text).params);
      }),
    );
  });
});

test('a text is scanned the same whole and in pieces', () => {
  const problem = (text: string, size: number) => {
    const scan = new JsonScan();
    const bytes = Buffer.from(text);
    let found: string | undefined;
    for (let at = 0; at < bytes.length; at += size) found ??= scan.take(bytes.subarray(at, at + size));
    return found;
  };
  const deep = (depth: number) => `{"a\\"[":${'['.repeat(depth - 1)}"[[[\\\\"${']'.repeat(depth - 1)}}`;
  for (const size of [1, 2, 7, 1000]) {
    expect(problem(deep(64), size)).toBeUndefined();
    expect(problem(deep(65), size)).toContain('nests deeper than 64');
  }
  expect(problem(`[${'0,'.repeat(MAX_VALUES - 1)}0]`, 65_536)).toBeUndefined();
  expect(problem(`[${'0,'.repeat(MAX_VALUES)}0]`, 65_536)).toContain('more than 50000 values');
});

describe('a connection of lines', () => {
  async function answers(chunks: readonly (string | Buffer)[], maxLine = 1000) {
    const input = new PassThrough();
    const output = new PassThrough();
    const messages: unknown[] = [];
    const transport = new LineTransport(input, output, maxLine);
    transport.onmessage = (message) => messages.push(message);
    await transport.start();
    for (const chunk of chunks) {
      input.write(chunk);
      await new Promise((resolve) => setImmediate(resolve));
    }
    const closed = new Promise<void>((resolve) => {
      transport.onclose = resolve;
    });
    input.end();
    await closed;
    const told = String(output.read() ?? '');
    return {
      messages,
      told: told
        .split('\n')
        .filter(Boolean)
        .map((line) => JSON.parse(line)),
    };
  }
  const ping = (id: number) => `{"jsonrpc":"2.0","id":${id},"method":"ping"}\n`;

  test('goes on after every line that is no message, and says what is wrong with it', async () => {
    const { messages, told } = await answers([
      ping(1),
      'no JSON\n{"jsonrpc":"2.0"}\n\n[]\n',
      '{"jsonrpc":"1.0","id":"a","method":"ping"}\n',
      '{"jsonrpc":"2.0","id":5,"method":7}\n',
      '{"jsonrpc":"2.0","id":{},"method":"ping"}\n',
      `[${ping(9).trim()}]\n`,
      '{"jsonrpc":"2.0","id":6,"method":"pi\n',
      `${'['.repeat(100)}\n`,
      ping(2).replace('\n', '\r\n'),
    ]);
    expect(messages).toMatchObject([{ id: 1 }, { id: 2 }]);
    expect(told.map(({ id, error }) => [id, error.code])).toEqual([
      [null, -32700],
      [null, -32600],
      [null, -32600],
      ['a', -32600],
      [5, -32600],
      [null, -32600],
      [null, -32600],
      [null, -32700],
      [null, -32600],
    ]);
    expect(told[6].error.message).toContain('one message a line');
  });

  const long = 'x'.repeat(5000);
  test.each([
    ['first', `{"jsonrpc":"2.0","id":7,"method":"ping","params":{"x":"${long}"}}`, 7],
    ['last', `{"method":"ping","params":{"x":"${long}"},"jsonrpc":"2.0","id":"q-7"}`, 'q-7'],
    ['before the version', `{"method":"ping","params":{"x":"${long}"},"id":7,"jsonrpc":"2.0"}`, 7],
    ['nowhere', `{"method":"ping","params":{"x":"${long}","id":7}}`, null],
    ['in another object', `{"method":"ping","params":{"x":"${long}","id":7},"y":1}`, null],
  ])('skips a line that is too long, whose id is %s', async (_, line, id) => {
    const pieces = (line.match(/.{1,300}/g) ?? []) as string[];
    const { messages, told } = await answers([ping(1), ...pieces, '\n', ping(2)]);
    expect(messages).toMatchObject([{ id: 1 }, { id: 2 }]);
    expect(told).toMatchObject([
      { id, error: { code: -32600, message: expect.stringContaining('more than 1000 bytes') } },
    ]);
    expect((await answers([`${line}\n${ping(3)}`])).messages).toMatchObject([{ id: 3 }]);
  });

  test('keeps characters that arrive in two pieces', async () => {
    const bytes = Buffer.from(`{"jsonrpc":"2.0","id":1,"method":"ping","params":{"x":"狐"}}\n`);
    const at = bytes.indexOf(Buffer.from('狐')) + 1;
    const { messages } = await answers([bytes.subarray(0, at), bytes.subarray(at)]);
    expect(messages).toMatchObject([{ params: { x: '狐' } }]);
  });
});

test('over stdio: arguments as text, nothing and null; and numbers as they were sent', async () => {
  const client = new RawClient();
  await client.initialize();
  const { result } = await client.call('palette', { n: '3' });
  expect(result.structuredContent.colors).toHaveLength(3);
  const written = await client.call('generate_with_trace', { prompt: 'Hi', max_tokens: '3', temperature: '0' });
  expect(written.result.structuredContent.usage.completion_tokens).toBe(3);
  const balanced = await client.call('balance_triad', { skills: '["worlding"]' });
  expect(balanced.result.structuredContent.skills).toEqual([{ name: 'worlding', trit: -1 }]);
  for (const args of [null, [], undefined]) {
    const { answer } = client.request('tools/call', { name: 'color_at', arguments: args });
    expect((await answer).result.content[0].text).toContain('index is missing');
  }
  const list = await client.request('tools/list', null as never).answer;
  expect(list.result.tools).toHaveLength(7);
  client.child.stdin!.write(
    '{"jsonrpc":"2.0","id":900,"method":"tools/call","params":{"name":"palette","arguments":{"n":9007199254740993,"start":1e400}}}\n',
  );
  await client.call('palette', { n: 1 });
  const told = client.lines.map((line) => JSON.parse(line)).find(({ id }) => id === 900);
  expect(told.result.content[0].text).toContain('n must be an integer from 1 to 4096, got 9007199254740993');
  expect(told.result.content[0].text).toContain('start must be an integer >= 0, got 1e400');
  client.child.kill();
});

test('over HTTP: the same in both protocols; a body in an encoding that nobody reads is told to be', async () => {
  const server = await startServer();
  const { headers } = await openSession(server);
  const inSession = (params: unknown) => ({ headers, body: { jsonrpc: '2.0', id: 1, method: 'tools/call', params } });
  for (const args of [null, []]) {
    const stateless = statelessCall(1, 'color_at', args as never);
    for (const sent of [stateless, inSession({ name: 'color_at', arguments: args })]) {
      expect((await send(server, sent)).text).toContain('index is missing');
    }
  }
  expect((await send(server, inSession({ name: 'palette', arguments: { n: '2' } }))).text).toContain('"conserved"');
  const call = statelessCall(1, 'color_at', { index: 1 });
  for (const encoding of ['gzip', 'br', 'identity, gzip', 'x'.repeat(3000)]) {
    const answer = await send(server, { ...call, headers: { ...call.headers, 'content-encoding': encoding } });
    expect(answer.status).toBe(415);
    expect(answer.headers['accept-encoding']).toBe('identity');
    expect(answer.text.length).toBeLessThan(300);
  }
  for (const encoding of ['identity', ' Identity', '']) {
    expect((await send(server, { ...call, headers: { ...call.headers, 'content-encoding': encoding } })).status).toBe(
      200,
    );
  }
  await server.close();
});
