// What the HTTP face answers and refuses, and what it costs when somebody means harm.

import { readFile } from 'node:fs/promises';
import { request as nodeRequest } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { McpServer } from '@modelcontextprotocol/server';
import { afterEach, describe, expect, test, vi } from 'vitest';
import type { GenerateResult } from '../../src/generate/types.ts';
import type { Services } from '../../src/tools/services.ts';
import { DONE, finish, openMockServer, piece } from '../generate/openai/mock-server.ts';
import {
  INITIALIZE,
  messagesOf,
  openSession,
  openSocket,
  type RunningServer,
  send,
  startProcess,
  startServer,
  statelessCall,
  type TestServerOptions,
} from './http-harness.ts';
import { ROOT } from './server-process.ts';

type Answered = {
  readonly result: {
    readonly content: { readonly text: string }[];
    readonly structuredContent: { readonly colors: object[]; readonly next: { readonly start: number } };
  };
};

const servers: RunningServer[] = [];
async function start(options: TestServerOptions = {}): Promise<RunningServer> {
  const server = await startServer(options);
  servers.push(server);
  return server;
}
afterEach(async () => {
  vi.restoreAllMocks();
  await Promise.all(servers.splice(0).map((server) => server.close()));
});

const colorCall = (id: number, index = id) => statelessCall(id, 'color_at', { index });

/** The server still does what it is for. */
async function expectAlive(server: RunningServer): Promise<void> {
  const { status, text } = await send(server, colorCall(1));
  expect(status).toBe(200);
  expect(JSON.parse(text).result.structuredContent.hex).toBe('#6404C3');
}

const RESULT: GenerateResult = {
  model: 'default',
  output: 'ab',
  completion: 'b',
  finishReason: 'length',
  trace: [{ step: 0, token: 'b', tokenId: 1, logprob: -1, color: '#6404C3', trit: -1 }],
  tritSum: -1,
  gf3Residue: 2,
  conserved: false,
  seed: 1069n,
  scheme: 'trace',
  usage: { promptTokens: 1, completionTokens: 1 },
  timings: { promptMs: 1, firstTokenMs: 1, tokensPerSecond: 1 },
  engine: { backend: 'js', threads: 1, head: 'full' },
};

/** An engine whose generations end when told to, or by their signal. */
function manualEngine() {
  const running: { readonly prompt: string; readonly end: () => void }[] = [];
  let cancelled = 0;
  const services: Services = {
    generate: ({ prompt }, { signal }) =>
      new Promise((resolve) => {
        const end = (finishReason: GenerateResult['finishReason']) => resolve({ ...RESULT, finishReason });
        running.push({ prompt: prompt ?? '', end: () => end('length') });
        signal?.addEventListener('abort', () => {
          cancelled += 1;
          end('cancelled');
        });
      }),
  };
  return { services, running, cancelled: () => cancelled };
}

async function until(condition: () => boolean): Promise<void> {
  await expect.poll(condition, { interval: 10 }).toBe(true);
}

/** Bytes that are in use; what nobody has collected yet is not. */
function heapUsed(): number {
  setFlagsFromString('--expose-gc');
  (runInNewContext('gc') as () => void)();
  return process.memoryUsage().heapUsed;
}

/** Buckets do not fill again while a slow machine sends what is to overflow them. */
function stopClock(): void {
  vi.spyOn(performance, 'now').mockReturnValue(performance.now());
}

/** Until so many generations wait for their turn. */
async function untilWaiting(server: RunningServer, count: number, headers: Record<string, string> = {}): Promise<void> {
  const waiting = async () => {
    const { text } = await send(server, { method: 'GET', path: '/metrics', headers });
    return Number(/^bitnet_generations_waiting (\d+)$/m.exec(text)?.[1]);
  };
  await expect.poll(waiting, { interval: 10 }).toBe(count);
}

describe('who may call', () => {
  test.each([
    ['a name that was made to point here', { host: 'evil.example' }],
    ['a name that begins like ours', { host: 'localhost.evil.example' }],
    ['a page from elsewhere', { origin: 'https://evil.example' }],
    ['a page without origin', { origin: 'null' }],
    ['a file', { origin: 'file://' }],
  ])('403: %s', async (_, headers) => {
    const server = await start();
    for (const path of ['/mcp', '/sse', '/messages', '/metrics', '/.well-known/oauth-protected-resource']) {
      const { status } = await send(server, {
        ...colorCall(1),
        path,
        headers: { ...colorCall(1).headers, ...headers },
      });
      expect(status, path).toBe(403);
    }
    await expectAlive(server);
  });

  test('400: two Hosts, of which a proxy may have seen the other', async () => {
    const server = await start();
    const { socket, received } = await openSocket(server.port);
    socket.write('GET /metrics HTTP/1.1\r\nhost: localhost\r\nHOST: evil.example\r\nconnection: close\r\n\r\n');
    await until(() => received() !== '');
    expect(received()).toMatch(/^HTTP\/1\.1 400 /);
    await expectAlive(server);
  });

  test('names and pages that were allowed', async () => {
    const server = await start({ allowedHosts: ['mcp.example.com'], allowedOrigins: ['app.example.com'] });
    const headers = { host: 'mcp.example.com', origin: 'https://app.example.com' };
    const { status, headers: got } = await send(server, {
      ...colorCall(1),
      headers: { ...colorCall(1).headers, ...headers },
    });
    expect(status).toBe(200);
    expect(got['access-control-allow-origin']).toBe('https://app.example.com');
    const preflight = await send(server, { method: 'OPTIONS', headers });
    expect(preflight.status).toBe(204);
    expect(preflight.headers['access-control-allow-headers']).toContain('mcp-session-id');
  });

  test('a token: without, wrong, right; the challenge leads to the metadata', async () => {
    const server = await start({ tokens: ['correct-horse', 'second'] });
    for (const authorization of [
      undefined,
      'Bearer wrong',
      'Bearer ',
      'Basic correct-horse',
      'Bearer correct-horse2',
    ]) {
      for (const path of ['/mcp', '/sse', '/messages', '/metrics']) {
        const { status, headers } = await send(server, { ...colorCall(1), path, headers: { authorization } });
        expect(status, `${path} ${authorization}`).toBe(401);
        const challenge = headers['www-authenticate']!;
        expect(challenge).toMatch(/^Bearer /);
        const metadata = new URL(/resource_metadata="([^"]+)"/.exec(challenge)![1]!);
        const { status: found, text } = await send(server, { method: 'GET', path: metadata.pathname });
        expect(found).toBe(200);
        expect(JSON.parse(text)).toMatchObject({
          resource: `${server.url}/mcp`,
          bearer_methods_supported: ['header'],
        });
      }
    }
    for (const token of ['correct-horse', 'second']) {
      const call = colorCall(1);
      const authorization = `Bearer ${token}`;
      expect((await send(server, { ...call, headers: { ...call.headers, authorization } })).status).toBe(200);
    }
    expect((await send(server, { method: 'GET', path: '/healthz' })).status).toBe(200);
  });

  test('a session belongs to the token that opened it', async () => {
    const server = await start({ tokens: ['one', 'two'] });
    const { headers } = await openSession(server, { authorization: 'Bearer one' });
    const list = { jsonrpc: '2.0', id: 1, method: 'tools/list' };
    expect((await send(server, { headers, body: list })).status).toBe(200);
    const stolen = { ...headers, authorization: 'Bearer two' };
    expect((await send(server, { headers: stolen, body: list })).status).toBe(404);
    expect((await send(server, { method: 'DELETE', headers: stolen })).status).toBe(404);
    expect((await send(server, { headers, body: list })).status).toBe(200);
  });

  test('more requests than allowed: 429 and when to come again; others are not held up', async () => {
    const server = await start({ requestsPerSecond: 5, tokens: ['one', 'two'] });
    stopClock();
    const as = (token: string) => ({
      ...colorCall(1),
      headers: { ...colorCall(1).headers, authorization: `Bearer ${token}` },
    });
    const answers = await Promise.all(Array.from({ length: 30 }, () => send(server, as('one'))));
    const refused = answers.filter(({ status }) => status === 429);
    expect(refused.length).toBe(20);
    expect(answers.filter(({ status }) => status === 200)).toHaveLength(10);
    expect(Number(refused[0]!.headers['retry-after'])).toBeGreaterThan(0);
    expect((await send(server, as('two'))).status).toBe(200);
  });

  test('who guesses tokens is slowed down, who has one is not', async () => {
    const server = await start({ requestsPerSecond: 5, tokens: ['right'] });
    stopClock();
    const as = (token: string) => ({
      ...colorCall(1),
      headers: { ...colorCall(1).headers, authorization: `Bearer ${token}` },
    });
    const guesses = await Promise.all(Array.from({ length: 30 }, (_, i) => send(server, as(`guess-${i}`))));
    expect(new Set(guesses.map(({ status }) => status))).toEqual(new Set([401, 429]));
    expect((await send(server, as('right'))).status).toBe(200);
  });

  test('behind a proxy, the client is whom the proxy saw', async () => {
    const server = await start({ requestsPerSecond: 1, behindProxy: true });
    stopClock();
    const from = (forwarded: string) => ({
      ...colorCall(1),
      headers: { ...colorCall(1).headers, 'x-forwarded-for': forwarded },
    });
    const statuses: number[] = [];
    // The client may write what it likes before what the proxy adds.
    for (let i = 0; i < 4; i++) statuses.push((await send(server, from(`10.0.0.${i}, 192.0.2.1`))).status);
    expect(statuses).toEqual([200, 200, 429, 429]);
    expect((await send(server, from('192.0.2.2'))).status).toBe(200);
  });
});

describe('what is a request', () => {
  test.each([
    ['no JSON', { body: '{"jsonrpc":' }, 400],
    ['nothing', { body: '' }, 400],
    ['JSON that is no message', { body: { hello: 1 } }, 400],
    ['a number', { body: 12 }, 400],
    ['null', { body: 'null' }, 400],
    ['an empty batch', { body: [] }, 400],
    ['another version of JSON-RPC', { body: { jsonrpc: '1.0', id: 1, method: 'tools/list' } }, 400],
    ['no session', { body: { jsonrpc: '2.0', id: 1, method: 'tools/list' } }, 400],
    ['an unknown session', { body: INITIALIZE, headers: { 'mcp-session-id': 'x' } }, 404],
    ['another type', { body: INITIALIZE, headers: { 'content-type': 'text/plain' } }, 415],
    ['no type', { body: INITIALIZE, headers: { 'content-type': undefined } }, 415],
    ['a form', { body: 'a=1', headers: { 'content-type': 'application/x-www-form-urlencoded' } }, 415],
    ['an answer as HTML', { body: INITIALIZE, headers: { accept: 'text/html' } }, 406],
    ['a method of HTTP that is not ours', { method: 'PUT' }, 405],
    ['an address that is not ours', { path: '/../etc/passwd', body: INITIALIZE }, 404],
    ['__proto__', { path: '/__proto__', body: INITIALIZE }, 404],
    ['a GET without session', { method: 'GET', headers: { accept: 'text/event-stream' } }, 400],
    ['a revision that does not exist', { headers: { 'mcp-protocol-version': '1999-01-01' }, body: INITIALIZE }, 200],
    [
      'a header that says something else',
      { ...colorCall(1), headers: { ...colorCall(1).headers, 'mcp-name': 'palette' } },
      400,
    ],
    ['deep JSON', { body: `${'['.repeat(100_000)}${']'.repeat(100_000)}` }, 400],
    [
      'a deep argument',
      { ...statelessCall(1, 'color_at', { index: JSON.parse(`${'['.repeat(90)}${']'.repeat(90)}`) }) },
      400,
    ],
    ['a batch bomb', { body: Array.from({ length: 5000 }, (_, id) => ({ jsonrpc: '2.0', id, method: 'ping' })) }, 400],
  ])('%s', async (_, sent, expected) => {
    const server = await start();
    const { status, text } = await send(server, sent);
    expect(status, text).toBe(expected);
    await expectAlive(server);
  });

  test('a batch bomb in a session', async () => {
    const server = await start();
    const { headers } = await openSession(server);
    const body = Array.from({ length: 5000 }, (_, id) => ({ jsonrpc: '2.0', id, method: 'ping' }));
    expect((await send(server, { headers, body })).status).toBe(400);
    await expectAlive(server);
  });

  test('a hundred megabytes, announced or not, are not received', async () => {
    const server = await start();
    const before = process.memoryUsage().rss;
    const announced = await openSocket(server.port);
    announced.socket.write(
      `POST /mcp HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\naccept: */*\r\ncontent-length: ${100 << 20}\r\n\r\n`,
    );
    await announced.ended;
    expect(announced.received()).toMatch(/^HTTP\/1\.1 413 /);
    let status: number | undefined;
    const sent = await new Promise<number>((resolve) => {
      const outgoing = nodeRequest(`${server.url}/mcp`, {
        method: 'POST',
        headers: { 'content-type': 'application/json', accept: '*/*', 'transfer-encoding': 'chunked' },
      });
      const chunk = Buffer.alloc(1 << 20, 'a');
      let bytes = 0;
      // A text that never ends: what is no JSON is refused at its first byte.
      outgoing.write('"');
      const more = () => {
        while (bytes < 100 << 20) {
          bytes += chunk.length;
          if (!outgoing.write(chunk)) return;
        }
        outgoing.end();
      };
      outgoing.on('drain', more);
      outgoing.on('response', ({ statusCode }) => {
        status = statusCode;
        resolve(bytes);
      });
      outgoing.on('error', () => resolve(bytes));
      more();
    });
    // Undefined where the connection was closed before the answer was read.
    expect([413, undefined]).toContain(status);
    expect(sent).toBeLessThan(100 << 20);
    expect(process.memoryUsage().rss - before).toBeLessThan(64 << 20);
    await expectAlive(server);
  });

  test('health and metrics', async () => {
    const server = await start();
    await send(server, colorCall(1));
    await send(server, statelessCall(2, 'color_at', { index: -1 }));
    expect(JSON.parse((await send(server, { method: 'GET', path: '/healthz' })).text)).toEqual({ status: 'ok' });
    const { text, headers } = await send(server, { method: 'GET', path: '/metrics' });
    expect(headers['content-type']).toBe('text/plain; version=0.0.4; charset=utf-8');
    expect(text).toContain('bitnet_tool_calls_total{tool="color_at",outcome="ok"} 1\n');
    expect(text).toContain('bitnet_tool_calls_total{tool="color_at",outcome="error"} 1\n');
    expect(text).toContain('bitnet_http_requests_total{route="/mcp",status="200"} 2\n');
    expect(text).toContain('bitnet_tool_call_duration_seconds_count{tool="color_at"} 2\n');
    // As a scraper reads it: every line a comment or a sample, every sample's metric declared before it.
    const declared = new Set<string>();
    for (const line of text.trimEnd().split('\n')) {
      const comment = /^# (HELP|TYPE) (\w+) /.exec(line);
      if (comment !== null) declared.add(comment[2]!);
      else {
        const sample = /^(\w+)(\{\w+="[^"]*"(,\w+="[^"]*")*\})? [0-9.e+-]+$/.exec(line);
        expect(sample, line).not.toBeNull();
        expect(declared).toContain(sample![1]!.replace(/_(bucket|sum|count)$/, ''));
      }
    }
  });
});

describe('sessions', () => {
  test('live until they are deleted', async () => {
    const server = await start();
    const { answer, headers } = await openSession(server);
    expect(headers['mcp-session-id']).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
    expect(messagesOf(answer).at(-1)).toMatchObject({ result: { protocolVersion: '2025-11-25' } });
    const call = { jsonrpc: '2.0', id: 1, method: 'tools/call', params: { name: 'color_at', arguments: { index: 1 } } };
    const [result] = messagesOf(await send(server, { headers, body: call }));
    expect(result).toMatchObject({ id: 1, result: { structuredContent: { hex: '#6404C3' } } });
    expect((await send(server, { method: 'DELETE', headers })).status).toBe(200);
    expect((await send(server, { headers, body: call })).status).toBe(404);
  });

  test('end when nothing happens in them', async () => {
    const server = await start({ sessionIdleMs: 150 });
    const { headers } = await openSession(server);
    await sleep(500);
    expect((await send(server, { headers, body: { jsonrpc: '2.0', id: 1, method: 'ping' } })).status).toBe(404);
  });

  test('a thousand of one client: the first are served, the others refused, and nothing grows', async () => {
    const server = await start({ maxSessions: 100, maxSessionsPerClient: 50 });
    await openSession(server);
    const before = heapUsed();
    const statuses: number[] = [];
    for (let i = 0; i < 20; i++) {
      const answers = await Promise.all(Array.from({ length: 50 }, () => send(server, { body: INITIALIZE })));
      statuses.push(...answers.map(({ status }) => status));
    }
    expect(statuses.filter((status) => status === 200)).toHaveLength(49);
    expect(statuses.filter((status) => status === 429)).toHaveLength(951);
    expect(heapUsed() - before).toBeLessThan(64 << 20);
    await expectAlive(server);
  });

  test('what the server says before the client listens is not lost', async () => {
    const server = await start({
      createServer: () => {
        const asking = new McpServer({ name: 'asking', version: '0' });
        asking.registerTool('ask', {}, async (_context) => {
          const { action } = await asking.server.elicitInput({
            message: 'well?',
            requestedSchema: { type: 'object', properties: { answer: { type: 'string' } } },
          });
          return { content: [{ type: 'text', text: action }] };
        });
        return asking;
      },
    });
    const opening = { ...INITIALIZE, params: { ...INITIALIZE.params, capabilities: { elicitation: {} } } };
    const id = String((await send(server, { body: opening })).headers['mcp-session-id']);
    const headers = { 'mcp-session-id': id, 'mcp-protocol-version': '2025-11-25' };
    const call = send(server, {
      headers,
      body: { jsonrpc: '2.0', id: 1, method: 'tools/call', params: { name: 'ask' } },
    });
    await sleep(100);
    const question = await new Promise<{ id: number; method: string }>((resolve, reject) => {
      const listening = nodeRequest(
        `${server.url}/mcp`,
        { headers: { ...headers, accept: 'text/event-stream' } },
        (answer) => {
          answer.setEncoding('utf8').on('data', (text: string) => resolve(JSON.parse(/^data: (.+)$/m.exec(text)![1]!)));
          answer.on('error', () => {});
        },
      );
      listening.on('error', reject);
      listening.end();
    });
    expect(question.method).toBe('elicitation/create');
    await send(server, { headers, body: { jsonrpc: '2.0', id: question.id, result: { action: 'decline' } } });
    expect(messagesOf(await call).at(-1)).toMatchObject({ result: { content: [{ text: 'decline' }] } });
  });

  test('a client that lost its stream goes on where it stood', async () => {
    const engine = manualEngine();
    const server = await start({ services: engine.services });
    const { headers } = await openSession(server);
    const body = {
      jsonrpc: '2.0',
      id: 7,
      method: 'tools/call',
      params: { name: 'generate_with_trace', arguments: { prompt: 'a' } },
    };
    const lastEvent = await new Promise<string>((resolve, reject) => {
      const outgoing = nodeRequest(
        `${server.url}/mcp`,
        { method: 'POST', headers: { ...headers, accept: '*/*', 'content-type': 'application/json' } },
        (answer) => {
          answer.setEncoding('utf8').once('data', (text: string) => {
            resolve(/^id: (.+)$/m.exec(text)![1]!);
            answer.destroy();
          });
          answer.on('error', () => {});
        },
      );
      outgoing.on('error', reject);
      outgoing.end(JSON.stringify(body));
    });
    await until(() => engine.running.length === 1);
    engine.running[0]!.end();
    await sleep(50);
    const resumed = await send(server, {
      method: 'GET',
      headers: { ...headers, accept: 'text/event-stream', 'last-event-id': lastEvent },
    });
    expect(messagesOf(resumed)).toMatchObject([{ id: 7, result: { structuredContent: { completion: 'b' } } }]);
    // Nobody else's stream can be read with it.
    const other = await openSession(server);
    const foreign = await send(server, {
      method: 'GET',
      headers: { ...other.headers, accept: 'text/event-stream', 'last-event-id': lastEvent },
    });
    expect(foreign.status).toBe(400);
  });
});

test('a client whose model gets no large results gets pages, in both eras', async () => {
  const server = await start();
  const clientInfo = { name: 'claude-code', version: '2.1.0' };
  const stateless = await send(
    server,
    statelessCall(1, 'palette', { n: 4096 }, { 'io.modelcontextprotocol/clientInfo': clientInfo }),
  );
  const body = { ...INITIALIZE, params: { ...INITIALIZE.params, clientInfo } };
  const opened = await send(server, { body });
  const params = { name: 'palette', arguments: { n: 4096 } };
  const inSession = await send(server, {
    headers: { 'mcp-session-id': String(opened.headers['mcp-session-id']) },
    body: { jsonrpc: '2.0', id: 1, method: 'tools/call', params },
  });
  for (const { result } of [JSON.parse(stateless.text), ...messagesOf(inSession)] as Answered[]) {
    expect(JSON.stringify(result).length).toBeLessThan(40_000);
    const { colors, next } = result.structuredContent;
    expect(next).toEqual({ start: 1 + colors.length, n: 4096 - colors.length });
    expect(result.content[0]!.text).toContain(JSON.stringify(next.start));
  }
  const others = await send(server, statelessCall(1, 'palette', { n: 4096 }));
  expect(JSON.parse(others.text).result.structuredContent.colors).toHaveLength(4096);
});

describe('generations', () => {
  const generate = (id: number, prompt: string, meta = {}) =>
    statelessCall(id, 'generate_with_trace', { prompt }, meta);

  test('take turns, tell their place in the queue, and refuse when it is full', async () => {
    const engine = manualEngine();
    const server = await start({ services: engine.services, slots: 1, maxWaiting: 2 });
    const first = send(server, generate(1, 'first'));
    await until(() => engine.running.length === 1);
    const second = send(server, generate(2, 'second', { progressToken: 'two' }));
    await untilWaiting(server, 1);
    const third = send(server, generate(3, 'third', { progressToken: 'three' }));
    await untilWaiting(server, 2);
    // Progress comes at most every 50 ms.
    await sleep(60);
    const full = JSON.parse((await send(server, generate(4, 'fourth'))).text).result;
    expect(full.isError).toBe(true);
    expect(full.content[0].text).toContain('try again');
    engine.running[0]!.end();
    await first;
    await until(() => engine.running.length === 2);
    engine.running[1]!.end();
    await second;
    await until(() => engine.running.length === 3);
    engine.running[2]!.end();
    expect(engine.running.map(({ prompt }) => prompt)).toEqual(['first', 'second', 'third']);
    const messages = messagesOf(await third);
    const progress = messages.flatMap(({ params }) =>
      params === undefined ? [] : [params as Record<string, unknown>],
    );
    expect(progress.map(({ message }) => message)).toEqual([
      'waiting: 1 before this call',
      'waiting: 0 before this call',
    ]);
    expect(Number(progress[1]!.progress)).toBeGreaterThan(Number(progress[0]!.progress));
    expect(messages.at(-1)).toMatchObject({ id: 3, result: { structuredContent: { finish_reason: 'length' } } });
  });

  test('one client with many does not keep another with one waiting behind all of them', async () => {
    const engine = manualEngine();
    const server = await start({ services: engine.services, slots: 1, tokens: ['many', 'one'] });
    const as = (token: string, id: number) => {
      const call = generate(id, `${token} ${id}`);
      return send(server, { ...call, headers: { ...call.headers, authorization: `Bearer ${token}` } });
    };
    const calls = [as('many', 0)];
    await until(() => engine.running.length === 1);
    for (let id = 1; id <= 4; id++) {
      calls.push(as('many', id));
      await untilWaiting(server, id, { authorization: 'Bearer one' });
    }
    calls.push(as('one', 5));
    await untilWaiting(server, 5, { authorization: 'Bearer one' });
    for (let i = 0; i < 6; i++) {
      await until(() => engine.running.length === i + 1);
      engine.running[i]!.end();
    }
    await Promise.all(calls);
    expect(engine.running.map(({ prompt }) => prompt).indexOf('one 5')).toBeLessThanOrEqual(2);
  });

  test('closing the stream cancels a stateless call, running or waiting', async () => {
    const engine = manualEngine();
    const server = await start({ services: engine.services, slots: 1 });
    const call = (id: number) => {
      const { headers, body } = generate(id, `${id}`);
      const outgoing = nodeRequest(`${server.url}/mcp`, {
        method: 'POST',
        headers: { ...(headers as Record<string, string>), accept: '*/*', 'content-type': 'application/json' },
      });
      outgoing.on('error', () => {});
      outgoing.end(JSON.stringify(body));
      return outgoing;
    };
    const running = call(1);
    await until(() => engine.running.length === 1);
    const waiting = call(2);
    await untilWaiting(server, 1);
    waiting.destroy();
    await untilWaiting(server, 0);
    expect(engine.cancelled()).toBe(0);
    running.destroy();
    await until(() => engine.cancelled() === 1);
    // Both places are free again.
    const last = send(server, generate(3, '3'));
    await until(() => engine.running.length === 2);
    engine.running[1]!.end();
    expect((await last).status).toBe(200);
    expect(engine.running.map(({ prompt }) => prompt)).toEqual(['1', '3']);
  });

  test('notifications/cancelled cancels a call of a session and ends its stream', async () => {
    const engine = manualEngine();
    const server = await start({ services: engine.services });
    const { headers } = await openSession(server);
    const params = { name: 'generate_with_trace', arguments: { prompt: 'a' } };
    const call = send(server, { headers, body: { jsonrpc: '2.0', id: 'g', method: 'tools/call', params } });
    await until(() => engine.running.length === 1);
    const body = { jsonrpc: '2.0', method: 'notifications/cancelled', params: { requestId: 'g' } };
    expect((await send(server, { headers, body })).status).toBe(202);
    await until(() => engine.cancelled() === 1);
    expect(messagesOf(await call)).toEqual([]);
  });
});

describe('under attack and load', () => {
  test('2,000 calls at once are all answered right', async () => {
    const server = await start();
    const times: number[] = [];
    const answers = await Promise.all(
      Array.from({ length: 2000 }, async (_, i) => {
        const begin = performance.now();
        const { status, text } = await send(server, colorCall(i, i + 1));
        times.push(performance.now() - begin);
        return status === 200 ? JSON.parse(text) : { status };
      }),
    );
    answers.forEach(({ id, result }, i) => {
      expect(id).toBe(i);
      expect(result.structuredContent.index).toBe(i + 1);
    });
    expect(new Set(answers.map(({ result }) => result.structuredContent.hex)).size).toBeGreaterThan(1990);
    times.sort((a, b) => a - b);
    process.stderr.write(`2,000 at once: p50 ${times[1000]!.toFixed(0)} ms, p99 ${times[1980]!.toFixed(0)} ms\n`);
  });

  test('who sends a request byte by byte is cut off, and holds nobody up meanwhile', async () => {
    const server = await start();
    const slow = await Promise.all(Array.from({ length: 100 }, () => openSocket(server.port)));
    for (const { socket } of slow) socket.write('POST /mcp HTTP/1.1\r\nhost: localhost\r\n');
    const drip = setInterval(() => {
      for (const { socket } of slow) socket.write('x-slow: 1\r\n');
    }, 1000);
    await expectAlive(server);
    const begin = performance.now();
    await Promise.all(slow.map(({ ended }) => ended));
    clearInterval(drip);
    expect(performance.now() - begin).toBeLessThan(20_000);
    expect(slow[0]!.received()).toMatch(/^HTTP\/1\.1 408 /);
    await expectAlive(server);
  });

  test('clients that vanish in the middle leave nothing behind', async () => {
    const server = await start();
    for (let i = 0; i < 200; i++) {
      const { socket } = await openSocket(server.port);
      socket.write(
        'POST /mcp HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\naccept: */*\r\ncontent-length: 1000\r\n\r\n{"json',
      );
      if (i % 2 === 0) socket.resetAndDestroy();
      else socket.end();
    }
    const metrics = async () => (await send(server, { method: 'GET', path: '/metrics' })).text;
    await expect.poll(metrics, { interval: 10 }).toContain('bitnet_requests_running 0\n');
    await expectAlive(server);
  });
});

describe('the program', () => {
  test.each([
    ['another bind without token', ['--host', '0.0.0.0'], 'no token is set'],
    ['a token that cannot stand in a header', ['--token', 'a b'], 'letters, digits'],
    ['a port that is no port', ['--port', '70000'], '65535'],
  ])('ends with 2: %s', async (_, flags, message) => {
    await expect(startProcess(flags, { BITNET_TOKEN: '' })).rejects.toThrow(
      new RegExp(`ended with 2: .*${message}`, 's'),
    );
  });

  test('a port that is taken is named', async () => {
    const server = await start();
    await expect(startProcess(['--port', String(server.port)])).rejects.toThrow(
      /ended with 2: .*something else listens/s,
    );
  });

  test('takes its token from the environment, where ps does not show it', async () => {
    const server = await startProcess(['--host', '0.0.0.0'], { BITNET_TOKEN: 'from-the-environment' });
    servers.push(server);
    const local = { url: `http://127.0.0.1:${server.port}` };
    expect((await send(local, colorCall(1))).status).toBe(401);
    const call = colorCall(1);
    const headers = { ...call.headers, authorization: 'Bearer from-the-environment' };
    expect((await send(local, { ...call, headers })).status).toBe(200);
    // Paths of this machine are nobody's business over a network.
    const analyze = statelessCall(1, 'analyze_layer', { model: '/etc' });
    const { text } = await send(local, {
      ...analyze,
      headers: { ...analyze.headers, ...{ authorization: headers.authorization } },
    });
    expect(JSON.parse(text).result.content[0].text).toContain('outside the folders that may be read');
  });

  test('has the metrics that docs/serving.md names, and no others', async () => {
    const server = await startProcess();
    servers.push(server);
    const { text } = await send(server, { method: 'GET', path: '/metrics' });
    const guide = await readFile(`${ROOT}docs/serving.md`, 'utf8');
    const table = /^## Metrics\n(.*?)^## /ms.exec(guide)![1]!;
    const told = [...table.matchAll(/`((?:bitnet|process)_\w+)`/g)].map(([, name]) => name!);
    expect(told.sort()).toEqual([...text.matchAll(/^# TYPE (\w+)/gm)].map(([, name]) => name!).sort());
  });

  test('SIGTERM lets a running generation finish, takes no new calls, and ends with 0', async () => {
    // An engine that writes when it is told to.
    await using engine = await openMockServer();
    let finishWriting = () => {};
    engine.answer = async (response) => {
      const told = new Promise<void>((resolve) => {
        finishWriting = resolve;
      });
      response.writeHead(200, { 'content-type': 'text/event-stream' });
      response.write(`data: ${JSON.stringify(piece(' was'))}\n\n`);
      await told;
      response.end(`data: ${JSON.stringify(finish('stop'))}\n\n${DONE}`);
    };
    const server = await startProcess([], { BITNET_BACKEND: 'openai', BITNET_OPENAI_BASE_URL: engine.url });
    servers.push(server);
    const call = send(server, statelessCall(1, 'generate_with_trace', { prompt: 'The king', model: 'm' }));
    await until(() => engine.asked.length === 1);
    server.child.kill('SIGTERM');
    const isRefused = () =>
      send(server, colorCall(1)).then(
        () => false,
        () => true,
      );
    await expect.poll(isRefused).toBe(true);
    expect(server.child.exitCode).toBeNull();
    finishWriting();
    const { result } = JSON.parse((await call).text);
    expect(result.structuredContent).toMatchObject({ completion: ' was', finish_reason: 'stop' });
    await until(() => server.child.exitCode !== null);
    expect(server.child.exitCode).toBe(0);
  });

  test('a handle goes on at another server', async () => {
    const [one, two] = await Promise.all([startProcess(), startProcess()]);
    servers.push(one, two);
    const call = async (server: RunningServer, args: Record<string, unknown>) =>
      JSON.parse((await send(server, statelessCall(1, 'generate_with_trace', args))).text).result.structuredContent;
    const begun = await call(one, { prompt: 'Once upon a time', max_tokens: 5 });
    const rest = await call(two, { continuation: begun.continuation, max_tokens: 5 });
    const whole = await call(one, { prompt: 'Once upon a time', max_tokens: 10 });
    expect(rest.output).toBe(whole.output);
  });
});
