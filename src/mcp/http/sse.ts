// The HTTP+SSE transport of 2024: one long GET carries what the server says, POSTs to the address it names carry what the
// client says. Written here because the SDK's package for it is deprecated and brings a web framework's parts along.

import { randomUUID } from 'node:crypto';
import type { IncomingMessage, ServerResponse } from 'node:http';
import {
  isJsonContentType,
  type JSONRPCMessage,
  type McpServer,
  parseJSONRPCMessage,
  type Transport,
} from '@modelcontextprotocol/server';
import { INVALID_REQUEST, Refusal, sendText } from './answers.ts';
import type { BodyReader } from './body.ts';
import type { Rounds } from './connections.ts';
import type { SessionOwner, SessionTable } from './sessions.ts';
import type { ServerFactory } from './streamable.ts';

const KEEP_ALIVE_MS = 15_000;
/** What a client that does not read may leave in our memory before it is cut off. */
const MAX_UNREAD_BYTES = 16 << 20;

export type SseOptions = {
  readonly createServer: ServerFactory;
  readonly sessions: SessionTable<unknown>;
  readonly bodies: BodyReader;
  /** Turns of what the SDK is asked. */
  readonly rounds: Rounds;
  /** Path that clients post to. */
  readonly messagesPath: string;
};

export class SseEndpoint {
  readonly #options: SseOptions;

  constructor(options: SseOptions) {
    this.#options = options;
  }

  /** Opens a session; resolves when it ends. Throws Refusal. */
  async open(req: IncomingMessage, res: ServerResponse, owner: SessionOwner): Promise<void> {
    if (req.method !== 'GET') {
      throw new Refusal(405, 'Method not allowed: open the stream with GET', { headers: { allow: 'GET' } });
    }
    const { messagesPath } = this.#options;
    const transport = new SseTransport(res, messagesPath);
    const ended = new Promise<void>((resolve) => res.once('close', resolve));
    const server = await this.#connect(transport, owner);
    await ended;
    this.#options.sessions.delete(transport.sessionId);
    await server.close();
  }

  async #connect(transport: SseTransport, owner: SessionOwner): Promise<McpServer> {
    const { sessions, createServer } = this.#options;
    using _place = sessions.reserve(owner);
    const server = await createServer(owner);
    sessions.add(transport.sessionId, { ...owner, transport, close: () => server.close() });
    // Its stream is open: it is never idle.
    sessions.get(transport.sessionId, owner).open += 1;
    try {
      await server.connect(transport);
    } catch (error) {
      // Nobody else would: a session with an open stream is never swept.
      sessions.delete(transport.sessionId);
      throw error;
    }
    return server;
  }

  /** A client's message. Throws Refusal. */
  async post(req: IncomingMessage, res: ServerResponse, owner: SessionOwner, sessionId: string | null): Promise<void> {
    if (req.method !== 'POST') throw new Refusal(405, 'Method not allowed: use POST', { headers: { allow: 'POST' } });
    if (!isJsonContentType(req.headers['content-type'])) {
      throw new Refusal(415, 'Unsupported Media Type: send application/json');
    }
    if (sessionId === null || sessionId === '') throw new Refusal(400, 'Bad Request: no sessionId in the address');
    const { transport } = this.#options.sessions.get(sessionId, owner);
    if (!(transport instanceof SseTransport)) throw new Refusal(400, 'this session is one of Streamable HTTP');
    const body = await this.#options.bodies.read(req);
    let message: JSONRPCMessage;
    try {
      message = parseJSONRPCMessage(body);
    } catch {
      throw new Refusal(400, 'the body is not a JSON-RPC message', { code: INVALID_REQUEST });
    }
    await this.#options.rounds.enter();
    sendText(res, 202, 'Accepted', { 'content-type': 'text/plain' });
    transport.onmessage?.(message);
  }
}

class SseTransport implements Transport {
  readonly sessionId = randomUUID();
  readonly #res: ServerResponse;
  readonly #messagesPath: string;
  #keepAlive: NodeJS.Timeout | undefined;
  #closed = false;
  onclose?: () => void;
  onerror?: (error: Error) => void;
  onmessage?: (message: JSONRPCMessage) => void;

  constructor(res: ServerResponse, messagesPath: string) {
    this.#res = res;
    this.#messagesPath = messagesPath;
  }

  async start(): Promise<void> {
    this.#res.writeHead(200, {
      'content-type': 'text/event-stream',
      'cache-control': 'no-cache, no-transform',
      'x-accel-buffering': 'no',
    });
    this.#res.write(`event: endpoint\ndata: ${this.#messagesPath}?sessionId=${this.sessionId}\n\n`);
    this.#keepAlive = setInterval(() => this.#res.write(': keepalive\n\n'), KEEP_ALIVE_MS);
    this.#res.once('close', () => void this.close());
  }

  async send(message: JSONRPCMessage): Promise<void> {
    if (this.#closed) throw new Error('the stream is closed');
    this.#res.write(`event: message\ndata: ${JSON.stringify(message)}\n\n`);
    if (this.#res.writableLength > MAX_UNREAD_BYTES) this.#res.destroy();
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    clearInterval(this.#keepAlive);
    this.#res.end();
    this.onclose?.();
  }
}
