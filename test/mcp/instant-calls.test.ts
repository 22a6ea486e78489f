// Calls that are answered without a server object of the SDK: they give what the SDK gives, and everything that is not
// plainly such a call still goes to the SDK.

import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { CancelledError } from '../../src/errors.ts';
import { DeskHost } from '../../src/tools/desk-host.ts';
import type { Desk } from '../../src/tools/services.ts';
import {
  type Answer,
  MCP_HEADERS,
  messagesOf,
  openSession,
  openSocket,
  type Sent,
  send,
  startServer,
  statelessCall,
  type TestServer,
} from './http-harness.ts';

/** One that takes the short way, and one whose every answer is the SDK's. */
let short: TestServer;
let sdk: TestServer;
beforeAll(async () => {
  short = await startServer();
  sdk = await startServer({ instantly: false });
});
afterAll(() => Promise.all([short.close(), sdk.close()]));

/** What a client sees; the Host is in no answer. */
const seen = ({ status, headers, text }: Answer) => {
  const { date: _, ...rest } = headers;
  return { status, headers: rest, text };
};

/** The answer of the short way. Fails where the SDK was asked. */
async function shortly(sent: Sent): Promise<Answer> {
  const before = short.created();
  const answer = await send(short, sent);
  expect(short.created()).toBe(before);
  return answer;
}

async function bySdk(server: TestServer, sent: Sent): Promise<Answer> {
  const before = server.created();
  const answer = await send(server, sent);
  expect(server.created()).toBe(before + 1);
  return answer;
}

const CALLS: readonly [string, Record<string, unknown>][] = [
  ['color_at', { index: 1 }],
  ['color_at', { index: 7, seed: '0xffffffffffffffff', scheme: 'gay.jl' }],
  ['color_at', {}],
  ['color_at', { index: -1 }],
  ['color_at', { index: 'é☕\u{1f600}' }],
  ['color_at', { index: 1, sede: 4 }],
  ['palette', { n: 3 }],
  ['palette', { n: 64, seed: '7' }],
  ['palette', { n: 4096 }],
  ['palette', { n: 4097, start: [] }],
  ['balance_triad', { trits: [1, 1, 1] }],
  ['balance_triad', { skills: ['mlx-bitnet-gf3', 'worlding'] }],
  ['balance_triad', { skills: ['nobody'] }],
];

describe('stateless', () => {
  test.each(CALLS)('%s %j: the first goes to the SDK, the next does not, and both get the same', async (name, args) => {
    const call = statelessCall(1, name, args, {
      'io.modelcontextprotocol/clientInfo': { name: `${name}`, version: JSON.stringify(args) },
    });
    const first = await bySdk(short, call);
    expect(seen(await shortly(call))).toEqual(seen(first));
    expect(first.status).toBe(200);
  });

  test('Claude gets a page, as from the SDK', async () => {
    const claude = { 'io.modelcontextprotocol/clientInfo': { name: 'claude-code', version: '2' } };
    const call = statelessCall(5, 'palette', { n: 4096 }, claude);
    const first = await bySdk(short, call);
    expect(seen(await shortly(call))).toEqual(seen(first));
    expect(JSON.parse(first.text).result.structuredContent.next).toBeDefined();
  });

  const call = statelessCall(1, 'color_at', { index: 1 });
  const { headers, body } = call as { headers: Record<string, string>; body: { params: { _meta: object } } };
  const params = (changes: object): Sent => ({ headers, body: { ...body, params: { ...body.params, ...changes } } });
  const meta = (changes: object): Sent => params({ _meta: { ...body.params._meta, ...changes } });

  test.each<[string, Sent]>([
    ['asks for progress', meta({ progressToken: 'p' })],
    ['is traced', meta({ traceparent: '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01' })],
    ['has more in its parameters', params({ task: {} })],
    ['has more beside them', { headers, body: { ...body, extra: 1 } }],
    ['has more arguments than the SDK lets pass', statelessCall(1, 'balance_triad', { trits: Array(100_001).fill(0) })],
    ['comes in chunks', { headers: { ...headers, 'content-length': undefined, 'transfer-encoding': 'chunked' }, body }],
    ['is of a tool that waits', statelessCall(1, 'palette', { n: 1, image: true })],
    ['may be a long walk', statelessCall(1, 'color_at', { index: 1, scheme: 'gay-mcp' })],
    ['is of no tool', statelessCall(1, 'constructor', {})],
    ['is of another revision', meta({ 'io.modelcontextprotocol/protocolVersion': '2030-01-01' })],
    ['has no client', meta({ 'io.modelcontextprotocol/clientInfo': undefined })],
    ['has a client without version', meta({ 'io.modelcontextprotocol/clientInfo': { name: 'x' } })],
    ['has an id that is none', { headers, body: { ...body, id: 1.5 } }],
    ['has no id', { headers, body: { ...body, id: undefined } }],
    ['is not of JSON-RPC 2', { headers, body: { ...body, jsonrpc: '1.0' } }],
    ['has a list for arguments', params({ arguments: [1] })],
    ['has null for arguments', params({ arguments: null })],
    ['comes in a batch', { headers, body: [body] }],
    ['names another tool in its header', { headers: { ...headers, 'mcp-name': 'palette' }, body }],
    ['names another method in its header', { headers: { ...headers, 'mcp-method': 'tools/list' }, body }],
    ['names another version in its header', { headers: { ...headers, 'mcp-protocol-version': '2025-11-25' }, body }],
    ['lacks the header of its version', { headers: { ...headers, 'mcp-protocol-version': undefined as never }, body }],
    ['lacks the header of its name', { headers: { ...headers, 'mcp-name': undefined as never }, body }],
  ])('a call that %s is answered as by the SDK alone, however often it comes', async (_, sent) => {
    // Its envelope, if that is sound, is known.
    await send(short, call);
    await shortly(call);
    const wanted = await send(sdk, sent);
    for (let i = 0; i < 3; i++) expect(seen(await send(short, sent))).toEqual(seen(wanted));
  });

  test('any change to a call is answered as by the SDK alone', async () => {
    const keys = fc.constantFrom(
      'jsonrpc',
      'id',
      'method',
      'params',
      'name',
      'arguments',
      '_meta',
      'other',
      '__proto__',
    );
    const value = fc.oneof(
      fc.jsonValue({ maxDepth: 2 }),
      fc.constantFrom('2.0', 'tools/call', 'color_at', 1, undefined),
    );
    const where = fc.constantFrom('body', 'params', 'arguments', 'meta');
    const change = fc.tuple(where, keys, value);
    await send(short, call);
    await fc.assert(
      fc.asyncProperty(fc.array(change, { minLength: 1, maxLength: 2 }), async (changes) => {
        const changed = structuredClone(body) as Record<string, unknown> & { params: Record<string, object> };
        for (const [place, key, to] of changes) {
          const target = {
            body: changed,
            params: changed.params,
            arguments: changed.params?.arguments,
            meta: changed.params?._meta,
          }[place];
          if (typeof target === 'object' && target !== null)
            Object.defineProperty(target, key, { value: to, enumerable: true, configurable: true, writable: true });
        }
        const sent = { headers, body: changed };
        expect(seen(await send(short, sent))).toEqual(seen(await send(sdk, sent)));
      }),
      { numRuns: 500 },
    );
  });
});

test('what the desk computes goes out as it came, the same as through the SDK', async () => {
  const desk = new DeskHost();
  const generate = () => Promise.reject(new Error('not called'));
  const server = await startServer({ services: { generate, desk } });
  const clientInfo = { name: 'desk', version: '1' };
  for (const args of [{ n: 4096 }, { n: 9, image: true }, { n: 65, start: '3' }, { n: 5000 }, { n: '66', seed: -1 }]) {
    const call = statelessCall(1, 'palette', args, { 'io.modelcontextprotocol/clientInfo': clientInfo });
    clientInfo.version += '1';
    const first = await bySdk(server, call);
    const before = server.created();
    expect(seen(await send(server, call))).toEqual(seen(first));
    expect(server.created()).toBe(before);
    expect(first.status).toBe(200);
    const here = await send(sdk, call);
    expect(JSON.parse(first.text)).toEqual(JSON.parse(here.text));
  }
  await server.close();
  await desk.close();
});

test('a client that goes away does not keep the desk busy', async () => {
  let asked = 0;
  let ended = 0;
  const desk = {
    call: (_tool: string, _args: unknown, { signal }: { signal?: AbortSignal }) => {
      asked += 1;
      return new Promise<never>((_, reject) => {
        const end = () => {
          ended += 1;
          reject(new CancelledError());
        };
        // A client may be gone before its call comes up.
        if (signal!.aborted) end();
        else signal!.addEventListener('abort', end);
      });
    },
  } as unknown as Desk;
  const server = await startServer({ services: { generate: () => Promise.reject(new Error('not called')), desk } });
  await send(server, statelessCall(1, 'color_at', { index: 1 }));
  const { headers, body } = statelessCall(2, 'palette', { n: 100 });
  const text = JSON.stringify(body);
  const head = Object.entries({ host: 'localhost', ...MCP_HEADERS, ...headers, 'content-length': text.length });
  const sockets = await Promise.all(Array.from({ length: 6 }, () => openSocket(server.port)));
  for (const { socket } of sockets) {
    socket.write(`POST /mcp HTTP/1.1\r\n${head.map(([key, value]) => `${key}: ${value}\r\n`).join('')}\r\n${text}`);
  }
  while (asked < 3) await new Promise((resolve) => setTimeout(resolve, 5));
  for (const { socket } of sockets) socket.destroy();
  while (ended < asked || asked < 3) await new Promise((resolve) => setTimeout(resolve, 5));
  // Those that waited are gone from the line, too: it is free.
  expect(asked).toBeLessThanOrEqual(6);
  await server.close();
});

describe('in a session', () => {
  const body = (name: string, args: Record<string, unknown>, changes = {}) => ({
    jsonrpc: '2.0',
    id: 3,
    method: 'tools/call',
    params: { name, arguments: args, ...changes },
  });

  // Longer palettes wait for the desk.
  const atOnce = CALLS.filter(([, { n = 1 }]) => Number(n) <= 64);

  test.each(atOnce)('%s %j: one JSON document with what the SDK says in a stream', async (name, args) => {
    const { headers } = await openSession(short);
    const { headers: sdkHeaders } = await openSession(sdk);
    const answer = await shortly({ headers, body: body(name, args) });
    expect(answer).toMatchObject({ status: 200, headers: { 'content-type': 'application/json' } });
    expect(messagesOf(answer)).toEqual(messagesOf(await send(sdk, { headers: sdkHeaders, body: body(name, args) })));
  });

  test.each<[string, object, Record<string, string>]>([
    ['asks for progress', body('color_at', { index: 1 }, { _meta: { progressToken: 1 } }), {}],
    ['has more arguments than the SDK lets pass', body('balance_triad', { trits: Array(100_001).fill(0) }), {}],
    ['waits', body('palette', { n: 1, image: true }), {}],
    ['comes in a batch', [body('color_at', { index: 1 })], {}],
    ['speaks another version', body('color_at', { index: 1 }), { 'mcp-protocol-version': '2025-06-18' }],
    ['speaks no known version', body('color_at', { index: 1 }), { 'mcp-protocol-version': '1999-01-01' }],
  ])('a call that %s is answered by the SDK', async (_, sent, more) => {
    const answers = await Promise.all(
      [short, sdk].map(async (server) => {
        const { headers } = await openSession(server);
        return await send(server, { headers: { ...headers, ...more }, body: sent });
      }),
    );
    expect(answers[0]!.headers['content-type']).toBe(answers[1]!.headers['content-type']);
    expect(answers[0]!.status).toBe(answers[1]!.status);
    const of = (answer: Answer) =>
      answer.headers['content-type'] === 'text/event-stream' ? messagesOf(answer) : answer.text;
    expect(of(answers[0]!)).toEqual(of(answers[1]!));
  });

  test("a session that ended, or is another's, is 404 as ever", async () => {
    const server = await startServer({ tokens: ['one', 'two'] });
    const { headers } = await openSession(server, { authorization: 'Bearer one' });
    const call = { headers, body: body('color_at', { index: 1 }) };
    expect((await send(server, call)).status).toBe(200);
    expect((await send(server, { ...call, headers: { ...headers, authorization: 'Bearer two' } })).status).toBe(404);
    await send(server, { method: 'DELETE', headers });
    expect((await send(server, call)).status).toBe(404);
    await server.close();
  });
});
