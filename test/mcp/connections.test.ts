// Clients that ask without waiting for answers, and clients that do not read them.

import { once } from 'node:events';
import { createServer, type Server } from 'node:http';
import { type AddressInfo, connect, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, describe, expect, test } from 'vitest';
import { CancelledError } from '../../src/errors.ts';
import { Rounds, UnreadLimit } from '../../src/mcp/http/connections.ts';
import type { Services } from '../../src/tools/services.ts';
import {
  MCP_HEADERS,
  openSession,
  openSocket,
  type RunningServer,
  type Sent,
  send,
  startServer,
  statelessCall,
} from './http-harness.ts';

const closers: (() => Promise<unknown> | unknown)[] = [];
afterEach(async () => {
  await Promise.all(closers.splice(0).map((close) => close()));
});

async function until(condition: () => Promise<boolean> | boolean): Promise<void> {
  while (!(await condition())) await sleep(10);
}

/** A request as it goes over the wire. */
function wire({ headers, body }: Sent): string {
  const text = JSON.stringify(body);
  const lines = Object.entries({ host: 'localhost', ...MCP_HEADERS, ...headers, 'content-length': text.length });
  return `POST /mcp HTTP/1.1\r\n${lines.map(([name, value]) => `${name}: ${value}\r\n`).join('')}\r\n${text}`;
}

const get = (path: string) => `GET ${path} HTTP/1.1\r\nhost: localhost\r\n\r\n`;
const generate = (id: number) => wire(statelessCall(id, 'generate_with_trace', { prompt: `${id}` }));

/** An engine whose generations go on until they are cancelled. */
async function startWithEngine(): Promise<RunningServer & { readonly begun: string[] }> {
  const begun: string[] = [];
  const services: Services = {
    generate: ({ prompt }, hooks) => {
      begun.push(String(prompt));
      return new Promise((_, reject) => {
        hooks?.signal?.addEventListener('abort', () => reject(new CancelledError('cancelled')), { once: true });
      });
    },
  };
  const server = await startServer({ services, drainMs: 0 });
  closers.push(() => server.close());
  return { ...server, begun };
}

const metrics = async (server: RunningServer) => (await send(server, { method: 'GET', path: '/metrics' })).text;

describe('requests that are sent without waiting for answers', () => {
  test('are answered in their order', async () => {
    const server = await startServer();
    closers.push(() => server.close());
    const { socket, received } = await openSocket(server.port);
    const ids = Array.from({ length: 200 }, (_, i) => i + 1);
    socket.write(ids.map((id) => wire(statelessCall(id, 'color_at', { index: id }))).join('') + get('/healthz'));
    await until(() => received().includes('{"status":"ok"}'));
    expect([...received().matchAll(/"jsonrpc":"2.0","id":(\d+)/g)].map(([, id]) => Number(id))).toEqual(ids);
    socket.destroy();
  });

  test('leave nothing behind when their client goes away', async () => {
    const server = await startWithEngine();
    const { socket } = await openSocket(server.port);
    socket.write(generate(1) + generate(2) + get('/sse') + generate(3));
    await until(() => server.begun.length > 0);
    // Whoever asks later on another connection is answered after all of the above was read.
    expect(await metrics(server)).toContain('bitnet_requests_running 1\n');
    socket.destroy();
    await until(async () => (await metrics(server)).includes('bitnet_requests_running 0\n'));
    expect(await metrics(server)).toContain('bitnet_sessions 0\n');
    expect(server.begun).toEqual(['1']);
  });

  test('end their connection when too many wait', async () => {
    const server = await startWithEngine();
    const { socket, ended } = await openSocket(server.port);
    socket.write(generate(1) + get('/healthz').repeat(8193));
    await ended;
    expect((await send(server, { method: 'GET', path: '/healthz' })).status).toBe(200);
    const again = await openSocket(server.port);
    again.socket.write(generate(2) + get('/healthz').repeat(8192));
    await until(() => server.begun.length === 2);
    expect((await metrics(server)).includes('bitnet_requests_running 1\n')).toBe(true);
    again.socket.destroy();
  });
});

describe('answers that are not read', () => {
  /** More than systems keep for a connection on their own. */
  const LARGE = 64 << 20;

  /** A server of large answers under these limits, and a connection that asked for one. */
  async function ask(limit: UnreadLimit) {
    const server: Server = createServer((_req, res) => res.end(Buffer.alloc(LARGE)));
    const sockets: Socket[] = [];
    server.on('connection', (socket) => {
      sockets.push(socket);
      limit.add(socket);
    });
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    closers.push(() => {
      server.closeAllConnections();
      server.close();
    });
    const client = connect((server.address() as AddressInfo).port, '127.0.0.1').pause();
    client.on('error', () => {});
    closers.push(() => client.destroy());
    client.write(get('/'));
    await until(() => (sockets[0]?.writableLength ?? 0) > 0);
    return { client, served: sockets[0]! };
  }

  test('end their connection after a time without progress', async () => {
    const limit = new UnreadLimit({ maxBytes: 2 * LARGE, stallMs: 50 });
    const { served } = await ask(limit);
    limit.check();
    await once(served, 'close');
  });

  test('end the connection that has them longest when all together are too much', async () => {
    const limit = new UnreadLimit({ maxBytes: LARGE + LARGE / 2 });
    const first = await ask(limit);
    limit.check();
    const second = await ask(limit);
    limit.check();
    expect([first.served.destroyed, second.served.destroyed]).toEqual([true, false]);
    await once(first.served, 'close');
    limit.check();
    expect(second.served.destroyed).toBe(false);
  });

  test('do no harm once they are read', async () => {
    const limit = new UnreadLimit({ maxBytes: 2 * LARGE, stallMs: 3_600_000 });
    const { client, served } = await ask(limit);
    limit.check();
    expect(served.timeout).toBe(3_600_000);
    client.resume();
    await until(() => served.writableLength === 0);
    limit.check();
    expect(served.timeout).not.toBe(3_600_000);
    expect(served.destroyed).toBe(false);
  });
});

test('work of some milliseconds begins once in each round of the event loop, in order', async () => {
  const rounds = new Rounds();
  let round = 0;
  let done = false;
  const counting = (async () => {
    for (; !done; round += 1) await new Promise((resolve) => setImmediate(resolve));
  })();
  const begun: [number, number][] = [];
  await Promise.all(Array.from({ length: 5 }, (_, i) => rounds.enter().then(() => begun.push([i, round]))));
  done = true;
  await counting;
  expect(begun.map(([i]) => i)).toEqual([0, 1, 2, 3, 4]);
  expect(new Set(begun.map(([, at]) => at)).size).toBeGreaterThanOrEqual(4);
  // Later, the first begins at once again.
  await new Promise((resolve) => setImmediate(resolve));
  await rounds.enter();
});

describe('who takes turns on a loopback address', () => {
  /** Calls that run, by prompt; each until it is let go. */
  function running() {
    const letGo = new Map<string, () => void>();
    const services: Services = {
      generate: ({ prompt = '' }) =>
        new Promise((_, reject) => letGo.set(prompt, () => reject(new CancelledError('let go')))),
    };
    return { letGo, services };
  }
  const call = (prompt: string) => statelessCall(1, 'generate_with_trace', { prompt });
  const settled = async (letGo: Map<string, () => void>, count: number) => {
    while (letGo.size < count) await sleep(5);
    await sleep(50);
    return [...letGo.keys()];
  };

  test('without tokens, each connection: the second of one waits for its first, the first of another does not', async () => {
    const { letGo, services } = running();
    const server = await startServer({ services, slots: 2 });
    // Each request of `send` has a connection of its own; two share one in a session.
    const { headers } = await openSession(server);
    const inSession = (prompt: string) => ({
      headers,
      body: {
        jsonrpc: '2.0',
        id: prompt,
        method: 'tools/call',
        params: { name: 'generate_with_trace', arguments: { prompt } },
      },
    });
    const answers = [inSession('a1'), inSession('a2')].map((sent) => send(server, sent));
    expect(await settled(letGo, 1)).toEqual(['a1']);
    answers.push(send(server, call('b1')));
    expect(await settled(letGo, 2)).toEqual(['a1', 'b1']);
    for (const go of letGo.values()) go();
    expect(await settled(letGo, 3)).toEqual(['a1', 'b1', 'a2']);
    letGo.get('a2')!();
    await Promise.all(answers);
    await server.close();
  });

  test('with tokens, each of them, however many connections it has', async () => {
    const { letGo, services } = running();
    const server = await startServer({ services, slots: 2, tokens: ['many', 'one'] });
    const by = (token: string, prompt: string) => {
      const { headers, body } = call(prompt);
      return send(server, { headers: { ...headers, authorization: `Bearer ${token}` }, body });
    };
    const answers = [by('many', 'm1')];
    await settled(letGo, 1);
    answers.push(by('many', 'm2'));
    await sleep(50);
    answers.push(by('one', 'o1'));
    expect(await settled(letGo, 2)).toEqual(['m1', 'o1']);
    for (const go of letGo.values()) go();
    await settled(letGo, 3);
    letGo.get('m2')!();
    await Promise.all(answers);
    await server.close();
  });
});
