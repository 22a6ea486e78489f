// Answers that are not the protocol's own: refusals, small documents, and web responses on Node's objects.

import { once } from 'node:events';
import type { IncomingHttpHeaders, IncomingMessage, ServerResponse } from 'node:http';

/** JSON-RPC's code for errors of a server's own making. */
const SERVER_ERROR = -32_000;
export const PARSE_ERROR = -32_700;
export const INVALID_REQUEST = -32_600;
export const SESSION_NOT_FOUND = -32_001;

export type Headers = Readonly<Record<string, string>>;

/** A reason to turn a request away. The message is for whoever reads the client's log: what is wrong, what to do. */
export class Refusal extends Error {
  readonly status: number;
  readonly code: number;
  readonly headers: Headers;

  constructor(status: number, message: string, options: { code?: number; headers?: Headers } = {}) {
    super(message);
    this.status = status;
    this.code = options.code ?? SERVER_ERROR;
    this.headers = options.headers ?? {};
  }
}

export function sendRefusal(res: ServerResponse, { status, code, message, headers }: Refusal): void {
  if (res.headersSent) {
    res.destroy();
    return;
  }
  sendJson(res, status, { jsonrpc: '2.0', error: { code, message }, id: null }, headers);
}

export function sendJson(res: ServerResponse, status: number, document: unknown, headers: Headers = {}): void {
  sendText(res, status, JSON.stringify(document), { 'content-type': 'application/json', ...headers });
}

export function sendText(res: ServerResponse, status: number, text: string, headers: Headers): void {
  res.writeHead(status, { ...headers, 'content-length': Buffer.byteLength(text) });
  res.end(text);
}

/**
 * The request without its body, which is read and parsed apart, in the shape that the SDK reads: method, address,
 * headers, signal. Node's own Request, made for every call, costs more than all that our tools do.
 */
export function toWebRequest(req: IncomingMessage, res: ServerResponse): Request {
  return new HeadOfRequest(req, res) as unknown as Request;
}

/** Fires when the client goes away before it has its answer. */
export function goneSignal(res: ServerResponse): AbortSignal {
  const gone = new AbortController();
  if (res.destroyed) gone.abort();
  else res.once('close', () => res.writableFinished || gone.abort());
  return gone.signal;
}

class HeadOfRequest {
  readonly method: string;
  readonly url: string;
  readonly headers: HeadersOfRequest;
  readonly body = null;
  readonly #res: ServerResponse;
  #gone: AbortSignal | undefined;

  constructor(req: IncomingMessage, res: ServerResponse) {
    this.method = req.method ?? 'GET';
    this.url = `http://${req.headers.host}${req.url}`;
    this.headers = new HeadersOfRequest(req.headers);
    this.#res = res;
  }

  /** Fires when the client goes away before it has its answer. */
  get signal(): AbortSignal {
    this.#gone ??= goneSignal(this.#res);
    return this.#gone;
  }

  clone(): HeadOfRequest {
    return this;
  }
}

class HeadersOfRequest {
  readonly #headers: IncomingHttpHeaders;

  constructor(headers: IncomingHttpHeaders) {
    this.#headers = headers;
  }

  get(name: string): string | null {
    const value = this.#headers[name.toLowerCase()];
    return value === undefined ? null : String(value);
  }

  has(name: string): boolean {
    return this.#headers[name.toLowerCase()] !== undefined;
  }

  *entries(): Generator<[string, string]> {
    for (const [name, value] of Object.entries(this.#headers)) yield [name, String(value)];
  }

  [Symbol.iterator](): Generator<[string, string]> {
    return this.entries();
  }

  forEach(each: (value: string, name: string) => void): void {
    for (const [name, value] of this.entries()) each(value, name);
  }
}

/** Writes a web response; a stream as it comes, no faster than the client reads, until either side ends. */
export async function sendWebResponse(res: ServerResponse, response: Response): Promise<void> {
  const headers: Record<string, string | number> = Object.fromEntries(response.headers);
  // What Node says about the connection is right even when the server is closing.
  delete headers.connection;
  if (response.body === null) {
    res.writeHead(response.status, headers).end();
    return;
  }
  if (headers['content-type'] !== 'text/event-stream') {
    const text = await response.text();
    res.writeHead(response.status, { ...headers, 'content-length': Buffer.byteLength(text) }).end(text);
    return;
  }
  const reader = response.body.getReader();
  const gone = () => void reader.cancel().catch(() => {});
  res.once('close', gone);
  res.writeHead(response.status, headers);
  res.flushHeaders();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done || res.destroyed) break;
      if (!res.write(value)) await Promise.race([once(res, 'drain'), once(res, 'close')]);
    }
  } catch {
    // The stream broke in the middle of an answer: the client must not take it for a whole one.
    res.destroy();
    return;
  } finally {
    res.off('close', gone);
  }
  res.end();
}
