// The HTTP face of the server: connections and their limits, who may call, which address is what, and an end that lets
// running calls finish. What is served at the addresses is in the other files of this folder.

import { createServer as createNodeServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo, Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import type { ServerEventBus } from '@modelcontextprotocol/server';
import { Refusal, sendJson, sendRefusal, sendText } from './answers.ts';
import { BodyReader } from './body.ts';
import { RequestLine, Rounds, UnreadLimit } from './connections.ts';
import { EventLog } from './event-log.ts';
import {
  allowedHostNames,
  corsHeaders,
  isLoopback,
  NameGuard,
  PREFLIGHT_HEADERS,
  TokenGuard,
  urlHost,
} from './guards.ts';
import type { InstantCalls } from './instant-calls.ts';
import type { Gauges, Metrics } from './metrics.ts';
import { OPENAI_PREFIX, OpenAiEndpoint, type OpenAiOptions, sendOpenAiRefusal } from './openai-endpoint.ts';
import { RateLimit } from './rate-limit.ts';
import { type SessionOwner, SessionTable } from './sessions.ts';
import { SseEndpoint } from './sse.ts';
import { type ServerFactory, StreamableEndpoint } from './streamable.ts';

export type HttpServerOptions = {
  readonly host: string;
  /** 0: any free one. */
  readonly port: number;
  /** Accepted bearer tokens; none: no token is asked for. */
  readonly tokens: readonly string[];
  /** Names in Host beside the loopback and bound ones. */
  readonly allowedHosts: readonly string[];
  /** Host names of pages in Origin beside the loopback ones. */
  readonly allowedOrigins: readonly string[];
  /** Requests a second of one client on average; twice as many at once. */
  readonly requestsPerSecond: number;
  readonly maxSessions: number;
  readonly maxSessionsPerClient: number;
  readonly sessionIdleMs: number;
  /** A proxy in front tells the client's address (X-Forwarded-For) and scheme (X-Forwarded-Proto). */
  readonly behindProxy: boolean;
  /** How long running calls may take to finish when the server is told to end. */
  readonly drainMs: number;
  readonly createServer: ServerFactory;
  /** The calls that need no server of their own. */
  readonly instant?: InstantCalls;
  /** What subscribers of the 2026 protocol hear. */
  readonly bus?: ServerEventBus;
  /** Serves OpenAI's API as well. */
  readonly openai?: OpenAiOptions;
  readonly metrics: Metrics;
  /** Told beside the counters. */
  readonly gauges?: () => Gauges;
  readonly onError: (error: unknown) => void;
};

const MCP_PATH = '/mcp';
const SSE_PATH = '/sse';
const MESSAGES_PATH = '/messages';
const METADATA_PATH = '/.well-known/oauth-protected-resource';

/** A whole request must arrive within this time, its head within the shorter: slow ones hold connections on purpose. */
const REQUEST_MS = 30_000;
const HEADERS_MS = 10_000;
const MAX_HEADER_BYTES = 16 << 10;
const KEEP_ALIVE_MS = 60_000;
const MAX_CONNECTIONS = 4096;
/** Connections that wait to be accepted: thousands of agents may come at once. */
const BACKLOG = 4096;
/** How soon a connection over its time, or that does not read, is noticed. */
const CHECK_MS = 1000;

type Route = {
  readonly name: string;
  readonly handle: (req: IncomingMessage, res: ServerResponse, owner: SessionOwner) => Promise<void> | void;
};

export class HttpServer {
  readonly #options: HttpServerOptions;
  readonly #names: NameGuard;
  readonly #tokens: TokenGuard;
  readonly #rate: RateLimit;
  readonly #sessions: SessionTable<unknown>;
  readonly #events = new EventLog();
  readonly #streamable: StreamableEndpoint;
  readonly #sse: SseEndpoint;
  readonly #openai: OpenAiEndpoint | undefined;
  readonly #server: Server;
  readonly #unread = new UnreadLimit();
  readonly #numbers = new WeakMap<Socket, number>();
  #nextNumber = 1;
  readonly #checks: NodeJS.Timeout;
  /** POSTs that are being answered. */
  #running = 0;
  #draining = false;

  constructor(options: HttpServerOptions) {
    this.#options = options;
    this.#names = new NameGuard(allowedHostNames(options.host, options.allowedHosts), [
      ...LOOPBACK_ORIGINS,
      ...options.allowedOrigins,
    ]);
    this.#tokens = new TokenGuard(options.tokens);
    this.#rate = new RateLimit(options.requestsPerSecond);
    this.#sessions = new SessionTable({ ...options, idleMs: options.sessionIdleMs });
    const createServer: ServerFactory = async (context) => {
      try {
        return await options.createServer(context);
      } catch (error) {
        // The SDK answers 500 and keeps the reason to itself.
        options.onError(error);
        throw error;
      }
    };
    const rounds = new Rounds();
    const shared = { createServer, sessions: this.#sessions, bodies: new BodyReader(rounds), rounds };
    this.#streamable = new StreamableEndpoint({
      ...shared,
      events: this.#events,
      instant: options.instant,
      bus: options.bus,
      // What clients did wrong, which they are told.
      onError: () => {},
    });
    this.#sse = new SseEndpoint({ ...shared, messagesPath: MESSAGES_PATH });
    this.#openai = options.openai && new OpenAiEndpoint(options.openai, shared.bodies);
    const line = new RequestLine((req, res) => void this.#answer(req, res));
    this.#server = createNodeServer(
      {
        requestTimeout: REQUEST_MS,
        headersTimeout: HEADERS_MS,
        keepAliveTimeout: KEEP_ALIVE_MS,
        connectionsCheckingInterval: CHECK_MS,
        maxHeaderSize: MAX_HEADER_BYTES,
        noDelay: true,
      },
      (req, res) => line.enter(req, res),
    );
    this.#server.maxConnections = MAX_CONNECTIONS;
    this.#server.on('connection', (socket) => this.#unread.add(socket));
    this.#checks = setInterval(() => this.#unread.check(), CHECK_MS);
    this.#checks.unref();
  }

  /** Resolves when connections are accepted, to the server's address. */
  async listen(): Promise<{ url: string; port: number }> {
    const { host, port } = this.#options;
    await new Promise<void>((resolve, reject) => {
      this.#server.once('error', reject);
      this.#server.listen({ port, host, backlog: BACKLOG }, () => resolve());
    });
    const address = this.#server.address() as AddressInfo;
    return { url: `http://${urlHost(host)}:${address.port}`, port: address.port };
  }

  /** Accepts nothing new, lets running calls finish for `drainMs`, then ends what is left. */
  async close(): Promise<void> {
    this.#draining = true;
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    this.#server.closeIdleConnections();
    const deadline = performance.now() + this.#options.drainMs;
    while (this.#running > 0 && performance.now() < deadline) await sleep(20);
    await Promise.allSettled([this.#sessions.closeAll(), this.#streamable.close()]);
    this.#server.closeIdleConnections();
    // What was written last is on its way; a client that does not read is not waited for.
    await Promise.race([closed, sleep(200)]);
    this.#server.closeAllConnections();
    clearInterval(this.#checks);
    await closed;
  }

  async #answer(req: IncomingMessage, res: ServerResponse): Promise<void> {
    const path = pathOf(req);
    const route = this.#routes[path] ?? this.#openAiRoute(path);
    if (req.method === 'POST') this.#running += 1;
    res.once('close', () => {
      if (req.method === 'POST') this.#running -= 1;
      this.#options.metrics.request(route?.name ?? 'other', res.statusCode);
    });
    if (this.#draining) res.shouldKeepAlive = false;
    try {
      // Load balancers ask by address, and the answer tells nothing.
      if (path === '/healthz') return this.#health(res);
      this.#names.check(req);
      for (const [name, value] of Object.entries(corsHeaders(req))) res.setHeader(name, value);
      if (req.method === 'OPTIONS') return sendText(res, 204, '', PREFLIGHT_HEADERS);
      if (path === METADATA_PATH || path === METADATA_PATH + MCP_PATH) return this.#metadata(req, res);
      if (route === undefined) throw new Refusal(404, `there is nothing at this address; MCP is at ${MCP_PATH}`);
      if (this.#draining) throw new Refusal(503, 'the server is ending', { headers: { 'retry-after': '5' } });
      await route.handle(req, res, this.#identify(req));
    } catch (error) {
      const send = this.#openai !== undefined && path.startsWith(OPENAI_PREFIX) ? sendOpenAiRefusal : sendRefusal;
      if (error instanceof Refusal) {
        send(res, error);
        return;
      }
      this.#options.onError(error);
      send(res, new Refusal(500, 'Internal server error', { code: -32_603 }));
    }
  }

  /** Who calls. Throws Refusal: 401, or 429 for who calls, or guesses tokens, too often. */
  #identify(req: IncomingMessage): SessionOwner {
    const address = this.#addressOf(req);
    let principal: string;
    try {
      principal = this.#tokens.principal(req, `${this.#baseUrl(req)}${METADATA_PATH}${MCP_PATH}`);
    } catch (error) {
      this.#limit(`refused at ${address}`);
      throw error;
    }
    const client = `${principal} at ${address}`;
    this.#limit(client);
    // Without tokens, all who call from this machine look alike: there, each connection has its turns.
    const looksAlike = this.#tokens.isOpen && !this.#options.behindProxy && isLoopback(address.replace(/^::ffff:/, ''));
    if (!looksAlike) return { principal, client };
    return { principal, client, seat: `${client} by connection ${this.#numberOf(req.socket)}` };
  }

  #numberOf(socket: Socket): number {
    let number = this.#numbers.get(socket);
    if (number === undefined) {
      number = this.#nextNumber++;
      this.#numbers.set(socket, number);
    }
    return number;
  }

  #limit(client: string): void {
    const wait = this.#rate.take(client);
    if (wait === 0) return;
    throw new Refusal(429, `too many requests: ${this.#options.requestsPerSecond} a second are allowed`, {
      headers: { 'retry-after': String(Math.ceil(wait)) },
    });
  }

  readonly #routes: Readonly<Record<string, Route>> = Object.assign(Object.create(null) as Record<string, Route>, {
    [MCP_PATH]: { name: MCP_PATH, handle: (req, res, owner) => this.#streamable.handle(req, res, owner) },
    [SSE_PATH]: { name: SSE_PATH, handle: (req, res, owner) => this.#sse.open(req, res, owner) },
    [MESSAGES_PATH]: {
      name: MESSAGES_PATH,
      handle: (req, res, owner) => this.#sse.post(req, res, owner, queryOf(req).get('sessionId')),
    },
    '/metrics': { name: '/metrics', handle: (_req, res) => this.#metrics(res) },
    '/healthz': { name: '/healthz', handle: () => {} },
  } satisfies Record<string, Route>);

  #openAiRoute(path: string): Route | undefined {
    const openai = this.#openai;
    if (openai === undefined || !path.startsWith(OPENAI_PREFIX)) return undefined;
    const name = path.slice(OPENAI_PREFIX.length);
    if (name === 'models') return { name: path, handle: (req, res) => openai.models(req, res) };
    if (name === 'chat/completions') {
      return { name: path, handle: (req, res, owner) => openai.complete('chat', req, res, owner) };
    }
    if (name === 'completions') {
      return { name: path, handle: (req, res, owner) => openai.complete('completions', req, res, owner) };
    }
    if (!name.startsWith('models/')) return undefined;
    // What was asked for names no series of the metrics.
    const model = decoded(name.slice('models/'.length));
    return { name: '/v1/models/NAME', handle: (req, res) => openai.model(req, res, model) };
  }

  #health(res: ServerResponse): void {
    if (this.#draining) sendJson(res, 503, { status: 'draining' });
    else sendJson(res, 200, { status: 'ok' });
  }

  #metrics(res: ServerResponse): void {
    const text = this.#options.metrics.text({
      bitnet_sessions: { help: 'Sessions of the 2025 protocols.', value: this.#sessions.size },
      bitnet_requests_running: { help: 'POSTs that are being answered.', value: this.#running },
      bitnet_event_log_characters: { help: 'What is kept for broken streams.', value: this.#events.characters },
      ...this.#options.gauges?.(),
    });
    sendText(res, 200, text, { 'content-type': 'text/plain; version=0.0.4; charset=utf-8' });
  }

  /** RFC 9728. Tokens are given out by whoever runs the server, so there is no authorization server to name. */
  #metadata(req: IncomingMessage, res: ServerResponse): void {
    sendJson(res, 200, {
      resource: `${this.#baseUrl(req)}${MCP_PATH}`,
      resource_name: 'BitNet GF(3)',
      bearer_methods_supported: this.#tokens.isOpen ? [] : ['header'],
    });
  }

  #baseUrl(req: IncomingMessage): string {
    const proto = this.#options.behindProxy ? req.headers['x-forwarded-proto'] : undefined;
    return `${proto === 'https' ? 'https' : 'http'}://${req.headers.host}`;
  }

  #addressOf(req: IncomingMessage): string {
    const forwarded = this.#options.behindProxy ? req.headers['x-forwarded-for'] : undefined;
    // The last entry is the proxy's own; those before it are the client's to invent.
    const last = (Array.isArray(forwarded) ? forwarded.join() : forwarded)?.split(',').at(-1)?.trim();
    return last || req.socket.remoteAddress || 'unknown';
  }
}

const LOOPBACK_ORIGINS = ['localhost', '127.0.0.1', '[::1]'];

function pathOf({ url = '/' }: IncomingMessage): string {
  const query = url.indexOf('?');
  return query < 0 ? url : url.slice(0, query);
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function queryOf({ url = '/' }: IncomingMessage): URLSearchParams {
  const query = url.indexOf('?');
  return new URLSearchParams(query < 0 ? '' : url.slice(query));
}
