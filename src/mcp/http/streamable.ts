// Streamable HTTP at one path, for both protocol eras. A 2026-07-28 request stands alone: it gets a server object of its
// own and leaves nothing behind. A 2025 client opens a session with `initialize`, and its server object lives as long.

import { randomUUID } from 'node:crypto';
import type { IncomingMessage, ServerResponse } from 'node:http';
import {
  createMcpHandler,
  isInitializeRequest,
  isJsonContentType,
  isLegacyRequest,
  type McpHttpHandler,
  type McpServer,
  PROTOCOL_VERSION_META_KEY,
  type ServerEventBus,
  WebStandardStreamableHTTPServerTransport,
} from '@modelcontextprotocol/server';
import { goneSignal, Refusal, sendText, sendWebResponse, toWebRequest } from './answers.ts';
import type { BodyReader } from './body.ts';
import type { Rounds } from './connections.ts';
import { type EventLog, FROM_THE_BEGINNING, type SessionEvents } from './event-log.ts';
import type { InstantCalls } from './instant-calls.ts';
import type { SessionOwner, SessionTable } from './sessions.ts';

/** What a request is served for. */
export type ServingContext = SessionOwner & {
  /** The method and name of a stateless request, which needs no more of the server than they call. */
  readonly only?: { readonly method: string; readonly name: string | undefined };
};

export type ServerFactory = (context: ServingContext) => McpServer | Promise<McpServer>;

export type StreamableOptions = {
  readonly createServer: ServerFactory;
  readonly sessions: SessionTable<unknown>;
  readonly events: EventLog;
  readonly bodies: BodyReader;
  /** Turns of what the SDK is asked: it takes milliseconds for a request. */
  readonly rounds: Rounds;
  /** Answers what needs no server object; without it, every call gets one. */
  readonly instant?: InstantCalls | undefined;
  /** What `subscriptions/listen` hears; nothing by default, since none of our lists changes. */
  readonly bus?: ServerEventBus | undefined;
  readonly onError: (error: Error) => void;
};

const BOTH_TYPES = 'application/json, text/event-stream';

type SessionParts = { readonly server: McpServer; readonly events: SessionEvents };

export class StreamableEndpoint {
  readonly #options: StreamableOptions;
  readonly #modern: McpHttpHandler;
  #closed = false;
  readonly #sessionParts = new WeakMap<WebStandardStreamableHTTPServerTransport, SessionParts>();
  /** Whose request it is, for the factory. */
  readonly #owners = new WeakMap<Request, SessionOwner>();

  constructor(options: StreamableOptions) {
    this.#options = options;
    this.#modern = createMcpHandler(
      ({ requestInfo }) => {
        const owner = this.#owners.get(requestInfo!)!;
        const method = requestInfo!.headers.get('mcp-method');
        const name = requestInfo!.headers.get('mcp-name') ?? undefined;
        return options.createServer({ ...owner, ...(method !== null && { only: { method, name } }) });
      },
      { legacy: 'reject', onerror: options.onError, ...(options.bus && { bus: options.bus }) },
    );
  }

  /** Throws Refusal. */
  async handle(req: IncomingMessage, res: ServerResponse, owner: SessionOwner): Promise<void> {
    switch (req.method) {
      case 'POST':
        return this.#post(req, res, owner);
      case 'GET':
      case 'DELETE':
        return this.#inSession(req, res, owner, undefined);
      default:
        throw new Refusal(405, 'Method not allowed', { headers: { allow: 'GET, POST, DELETE' } });
    }
  }

  async close(): Promise<void> {
    this.#closed = true;
    await this.#modern.close();
  }

  async #post(req: IncomingMessage, res: ServerResponse, owner: SessionOwner): Promise<void> {
    if (!isJsonContentType(req.headers['content-type'])) {
      throw new Refusal(415, 'Unsupported Media Type: send application/json');
    }
    if (!acceptsBoth(req.headers.accept ?? '')) {
      throw new Refusal(406, `Not Acceptable: send "Accept: ${BOTH_TYPES}"`);
    }
    const { bodies, instant } = this.#options;
    const body = await bodies.read(req);
    if (instant !== undefined) {
      const text =
        (await instant.stateless(req.headers, body, owner, () => goneSignal(res))) ??
        (await this.#instantInSession(req, body, owner, instant));
      if (text !== undefined) return sendText(res, 200, text, { 'content-type': 'application/json' });
    }
    await this.#options.rounds.enter();
    if (this.#closed) throw new Refusal(503, 'the server is ending', { headers: { 'retry-after': '5' } });
    // The SDK asks for both by name.
    req.headers.accept = BOTH_TYPES;
    const request = toWebRequest(req, res);
    if (claimsModernEra(body) || !(await isLegacyRequest(request, body))) {
      this.#owners.set(request, owner);
      const response = await this.#modern.fetch(request, { parsedBody: body });
      if (response.ok) instant?.accept(body);
      return sendWebResponse(res, response);
    }
    if (request.headers.has('mcp-session-id')) return this.#inSession(req, res, owner, { request, body });
    if (!isInitializeRequest(body)) throw noSession();
    return sendWebResponse(res, await this.#open(request, body, owner));
  }

  /** Throws Refusal as `#inSession` does. */
  async #instantInSession(
    { headers }: IncomingMessage,
    body: unknown,
    owner: SessionOwner,
    instant: InstantCalls,
  ): Promise<string | undefined> {
    const id = headers['mcp-session-id'];
    if (typeof id !== 'string' || !instant.isForSession(headers, body)) return undefined;
    const { transport } = this.#options.sessions.get(id, owner);
    if (!(transport instanceof WebStandardStreamableHTTPServerTransport)) return undefined;
    const { server } = this.#sessionParts.get(transport)!.server;
    if (headers['mcp-protocol-version'] !== server.getNegotiatedProtocolVersion()) return undefined;
    return instant.inSession(body, owner, server.getClientVersion()?.name ?? '');
  }

  async #inSession(
    req: IncomingMessage,
    res: ServerResponse,
    owner: SessionOwner,
    posted: { request: Request; body: unknown } | undefined,
  ): Promise<void> {
    const id = req.headers['mcp-session-id'];
    if (typeof id !== 'string' || id === '') throw noSession();
    const session = this.#options.sessions.get(id, owner);
    const { transport } = session;
    if (!(transport instanceof WebStandardStreamableHTTPServerTransport)) {
      throw new Refusal(400, 'this session is one of the old SSE transport; post to its endpoint');
    }
    const { events } = this.#sessionParts.get(transport)!;
    const listens = req.method === 'GET';
    // What was said before the client listened is not lost: it is sent as to one whose stream broke.
    const waiting = listens && req.headers['last-event-id'] === undefined && events.hasUnheard;
    if (waiting) req.headers['last-event-id'] = FROM_THE_BEGINNING;
    // A second GET is refused, and the first goes on listening.
    let listeningAfter = events.isListening;
    session.open += 1;
    try {
      if (listens && !waiting) events.isListening = true;
      const response = await transport.handleRequest(
        posted?.request ?? toWebRequest(req, res),
        posted && { parsedBody: posted.body },
      );
      if (listens && response.ok) {
        events.isListening = true;
        listeningAfter = false;
      }
      for (const cancelled of cancelledIds(posted?.body)) transport.closeSSEStream(cancelled);
      await sendWebResponse(res, response);
    } finally {
      if (listens) events.isListening = listeningAfter;
      session.open -= 1;
      session.lastUsed = performance.now();
    }
  }

  async #open(request: Request, body: unknown, owner: SessionOwner): Promise<Response> {
    const { sessions, events, createServer, onError } = this.#options;
    using _place = sessions.reserve(owner);
    const server = await createServer(owner);
    const eventStore = events.store();
    const transport = new WebStandardStreamableHTTPServerTransport({
      sessionIdGenerator: randomUUID,
      eventStore,
      onsessioninitialized: (id) => sessions.add(id, { ...owner, transport, close: () => server.close() }),
    });
    this.#sessionParts.set(transport, { server, events: eventStore });
    transport.onerror = onError;
    transport.onclose = () => {
      eventStore.clear();
      if (transport.sessionId !== undefined) sessions.delete(transport.sessionId);
    };
    await server.connect(transport);
    const response = await transport.handleRequest(request, { parsedBody: body });
    if (transport.sessionId === undefined) await server.close();
    return response;
  }
}

/** What isLegacyRequest would find first, for the requests that are most. */
function claimsModernEra(body: unknown): boolean {
  const meta = (body as { params?: { _meta?: Record<string, unknown> } } | null)?.params?._meta;
  return typeof meta?.[PROTOCOL_VERSION_META_KEY] === 'string';
}

function noSession(): Refusal {
  return new Refusal(400, 'Bad Request: no Mcp-Session-Id; send initialize first');
}

function acceptsBoth(accept: string): boolean {
  return accept.includes('*/*') || (accept.includes('application/json') && accept.includes('text/event-stream'));
}

/** A cancelled request gets no answer, so that its stream would stay open for ever. */
function cancelledIds(body: unknown): (string | number)[] {
  return (Array.isArray(body) ? body : [body]).flatMap((message) => {
    if (message?.method !== 'notifications/cancelled') return [];
    const id: unknown = message.params?.requestId;
    return typeof id === 'string' || typeof id === 'number' ? [id] : [];
  });
}
