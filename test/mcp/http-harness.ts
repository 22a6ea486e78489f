// Servers to send requests to: our HTTP stack in this process, and the built program as people start it.

import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { type IncomingHttpHeaders, request as nodeRequest } from 'node:http';
import { connect, type Socket } from 'node:net';
import { createInterface } from 'node:readline';
import { Logger } from '../../src/logger.ts';
import { remoteErrorText } from '../../src/mcp/error-text.ts';
import { HttpServer, type HttpServerOptions } from '../../src/mcp/http/http-server.ts';
import { InstantCalls } from '../../src/mcp/http/instant-calls.ts';
import { Metrics } from '../../src/mcp/http/metrics.ts';
import type { SessionOwner } from '../../src/mcp/http/sessions.ts';
import { createMcpServer } from '../../src/mcp/server.ts';
import type { ToolEnvironment } from '../../src/mcp/tool-registration.ts';
import { QueuedServices } from '../../src/tools/queued-services.ts';
import type { Services } from '../../src/tools/services.ts';
import { ROOT } from './server-process.ts';

export type RunningServer = { readonly url: string; readonly port: number; close(): Promise<void> };

export type TestServer = RunningServer & {
  /** How many server objects of the SDK were made. */
  readonly created: () => number;
};

const NO_SERVICES: Services = { generate: () => Promise.reject(new Error('not called')) };

export type TestServerOptions = Partial<Omit<HttpServerOptions, 'openai'>> & {
  /** Serves OpenAI's API as well. */
  readonly openai?: boolean;
  readonly services?: Services;
  readonly slots?: number;
  readonly maxWaiting?: number;
  /** Whether calls that need no server object go without one, as they do in `serve --http`. */
  readonly instantly?: boolean;
};

/** Our stack in this process, with all of our tools; `services` stands for the engine. */
export async function startServer({ openai = false, ...options }: TestServerOptions = {}): Promise<TestServer> {
  const metrics = new Metrics();
  const logger = new Logger();
  const queued = new QueuedServices(options.services ?? NO_SERVICES, {
    slots: options.slots ?? 8,
    maxWaiting: options.maxWaiting ?? 64,
    onResult: ({ usage }) => metrics.tokens(usage),
  });
  const errorText = remoteErrorText();
  const environmentOf = ({ client, seat = client }: SessionOwner): ToolEnvironment => ({
    services: queued.forClient(seat),
    logger,
    errorText,
    onCall: (call) => metrics.call(call),
  });
  let created = 0;
  const server = new HttpServer({
    host: '127.0.0.1',
    port: 0,
    tokens: [],
    allowedHosts: [],
    allowedOrigins: [],
    requestsPerSecond: 100_000,
    maxSessions: 100,
    maxSessionsPerClient: 50,
    sessionIdleMs: 60_000,
    behindProxy: false,
    drainMs: 2000,
    createServer: ({ only, ...owner }) => {
      created += 1;
      return createMcpServer(environmentOf(owner), only);
    },
    ...(options.instantly !== false && { instant: new InstantCalls(environmentOf) }),
    ...(openai && { openai: { environmentOf } }),
    metrics,
    gauges: () => ({ bitnet_generations_waiting: { help: 'Waiting.', value: queued.queues.engine.waiting } }),
    onError: (error) => process.stderr.write(`${error instanceof Error ? error.stack : String(error)}\n`),
    ...options,
  });
  const { url, port } = await server.listen();
  return { url, port, close: () => server.close(), created: () => created };
}

/** The built program. */
export async function startProcess(
  flags: readonly string[] = [],
  env: Record<string, string> = {},
): Promise<RunningServer & { readonly child: ChildProcess }> {
  const child = spawn(
    process.execPath,
    [`${ROOT}dist/cli/main.js`, 'serve', '--http', '--port', '0', '--json', ...flags],
    {
      env: { ...process.env, BITNET_LOG: 'warn', ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
    },
  );
  const stderr: string[] = [];
  child.stderr.setEncoding('utf8').on('data', (text: string) => stderr.push(text));
  let text = '';
  const ready = new Promise<{ url: string; port: number }>((resolve, reject) => {
    createInterface({ input: child.stdout }).on('line', (line) => {
      text += line;
      if (line === '}') resolve(JSON.parse(text));
    });
    child.once('exit', (code) => reject(new Error(`the server ended with ${code}: ${stderr.join('')}`)));
  });
  const { url, port } = await ready;
  return {
    url: url.replace(/\/mcp$/, ''),
    port,
    child,
    close: async () => {
      if (child.exitCode !== null || child.signalCode !== null) return;
      child.kill('SIGTERM');
      await once(child, 'exit');
    },
  };
}

export type Answer = { readonly status: number; readonly headers: IncomingHttpHeaders; readonly text: string };

export type Sent = {
  readonly method?: string;
  readonly path?: string;
  readonly headers?: Record<string, string | undefined>;
  readonly body?: unknown;
};

export const MCP_HEADERS = { accept: 'application/json, text/event-stream', 'content-type': 'application/json' };

/** One request; a body that is no string goes as JSON. Node's own client, since fetch refuses to forge Host. */
export function send({ url }: { url: string }, sent: Sent): Promise<Answer> {
  const { method = 'POST', path = '/mcp', headers, body } = sent;
  const text = body === undefined ? '' : typeof body === 'string' ? body : JSON.stringify(body);
  const merged = {
    ...(method === 'POST' ? { ...MCP_HEADERS, 'content-length': Buffer.byteLength(text) } : {}),
    ...headers,
  };
  const present = Object.fromEntries(Object.entries(merged).filter(([, value]) => value !== undefined));
  return new Promise((resolve, reject) => {
    const outgoing = nodeRequest(`${url}${path}`, { method, headers: present as Record<string, string> }, (answer) => {
      let received = '';
      answer.setEncoding('utf8').on('data', (chunk: string) => {
        received += chunk;
      });
      answer.on('end', () => resolve({ status: answer.statusCode!, headers: answer.headers, text: received }));
      answer.on('error', reject);
    });
    outgoing.on('error', reject);
    outgoing.end(text);
  });
}

const ENVELOPE = {
  'io.modelcontextprotocol/protocolVersion': '2026-07-28',
  'io.modelcontextprotocol/clientInfo': { name: 'test', version: '0' },
  'io.modelcontextprotocol/clientCapabilities': {},
};

/** A stateless call of a tool, as 2026-07-28 wants it. */
export function statelessCall(id: number, name: string, args: Record<string, unknown>, meta = {}): Sent {
  return {
    headers: { 'mcp-protocol-version': '2026-07-28', 'mcp-method': 'tools/call', 'mcp-name': name },
    body: {
      jsonrpc: '2.0',
      id,
      method: 'tools/call',
      params: { name, arguments: args, _meta: { ...ENVELOPE, ...meta } },
    },
  };
}

export const INITIALIZE = {
  jsonrpc: '2.0',
  id: 0,
  method: 'initialize',
  params: { protocolVersion: '2025-11-25', capabilities: {}, clientInfo: { name: 'test', version: '0' } },
};

/** Opens a session of the 2025 protocol; the headers that its requests carry. */
export async function openSession(server: { url: string }, headers: Record<string, string> = {}) {
  const answer = await send(server, { headers, body: INITIALIZE });
  const id = answer.headers['mcp-session-id'];
  return { answer, headers: { ...headers, 'mcp-session-id': String(id), 'mcp-protocol-version': '2025-11-25' } };
}

/** The messages of an answer, which is an event stream or one JSON document. */
export function messagesOf({ headers, text }: Answer): Record<string, unknown>[] {
  if (headers['content-type'] === 'application/json') return [JSON.parse(text)];
  return text
    .split('\n')
    .filter((line) => line.startsWith('data: {'))
    .map((line) => JSON.parse(line.slice('data: '.length)));
}

/** A connection that says what it is told to, no more. */
export async function openSocket(
  port: number,
): Promise<{ socket: Socket; received: () => string; ended: Promise<void> }> {
  const socket = connect(port, '127.0.0.1');
  let received = '';
  socket.setEncoding('utf8').on('data', (text: string) => {
    received += text;
  });
  socket.on('error', () => {});
  const ended = new Promise<void>((resolve) => socket.once('close', () => resolve()));
  await once(socket, 'connect');
  return { socket, received: () => received, ended };
}
