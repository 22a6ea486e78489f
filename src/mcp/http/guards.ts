// Who may talk to this server: names in Host (against DNS rebinding), pages in Origin, and tokens.

import { createHash, timingSafeEqual } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import { hostname, networkInterfaces } from 'node:os';
import { localhostAllowedHostnames, validateHostHeader, validateOriginHeader } from '@modelcontextprotocol/server';
import { type Headers, Refusal } from './answers.ts';

const LOOPBACK = new Set(['localhost', '127.0.0.1', '::1', '[::1]']);

export function isLoopback(host: string): boolean {
  return LOOPBACK.has(host) || /^127(\.\d{1,3}){3}$/.test(host);
}

/** How an address stands in a URL. */
export function urlHost(host: string): string {
  return host.includes(':') && !host.startsWith('[') ? `[${host}]` : host;
}

/** Names that Host may have: the loopback ones, what is bound, and what was allowed. */
export function allowedHostNames(bound: string, allowed: readonly string[]): string[] {
  const names = [...localhostAllowedHostnames(), ...allowed];
  if (bound !== '0.0.0.0' && bound !== '::') return [...names, urlHost(bound)];
  const addresses = Object.values(networkInterfaces()).flatMap((list) => list ?? []);
  return [...names, hostname().toLowerCase(), ...addresses.map(({ address }) => urlHost(address))];
}

export class NameGuard {
  readonly #hosts: string[];
  readonly #origins: string[];
  /** Headers seen and found right; the check parses a URL, and clients send the same ones again and again. */
  readonly #passed = new Set<string>();

  constructor(hosts: readonly string[], origins: readonly string[]) {
    this.#hosts = hosts.map((name) => name.toLowerCase());
    this.#origins = origins.map((name) => name.toLowerCase());
  }

  /** Throws Refusal. */
  check({ headers, rawHeaders }: IncomingMessage): void {
    const { host, origin } = headers;
    // Node takes the first; a proxy that looked at another one let through what it would not have.
    if (hasTwoHosts(rawHeaders)) throw new Refusal(400, 'Bad Request: more than one Host header');
    const key = `${host}\n${origin ?? ''}`;
    if (this.#passed.has(key)) return;
    const hostCheck = validateHostHeader(host, this.#hosts);
    if (!hostCheck.ok) throw new Refusal(403, `${hostCheck.message}; start the server with --allow-host to accept it`);
    const originCheck = validateOriginHeader(origin, this.#origins);
    if (!originCheck.ok) {
      throw new Refusal(403, `${originCheck.message}; start the server with --allow-origin to accept it`);
    }
    if (this.#passed.size < 1000) this.#passed.add(key);
  }
}

/** `rawHeaders` are names and values in turn. */
function hasTwoHosts(rawHeaders: readonly string[]): boolean {
  let count = 0;
  for (let i = 0; i < rawHeaders.length; i += 2) {
    const name = rawHeaders[i]!;
    if (name.length === 4 && name.toLowerCase() === 'host') count += 1;
  }
  return count > 1;
}

/** For pages of allowed origins. Empty for everybody else: the same-origin policy then does its work. */
export function corsHeaders({ headers }: IncomingMessage): Headers {
  const { origin } = headers;
  if (origin === undefined) return {};
  return {
    'access-control-allow-origin': origin,
    'access-control-expose-headers': 'mcp-session-id, www-authenticate',
    vary: 'origin',
  };
}

export const PREFLIGHT_HEADERS: Headers = {
  'access-control-allow-methods': 'GET, POST, DELETE',
  'access-control-allow-headers':
    'authorization, content-type, last-event-id, mcp-method, mcp-name, mcp-protocol-version, mcp-session-id, ' +
    // What OpenAI's own client sends from a page.
    'openai-organization, openai-project, x-stainless-arch, x-stainless-helper-method, x-stainless-lang, x-stainless-os, ' +
    'x-stainless-package-version, x-stainless-poll-helper, x-stainless-retry-count, x-stainless-runtime, ' +
    'x-stainless-runtime-version, x-stainless-timeout',
  'access-control-max-age': '600',
};

/** Bearer tokens. Only their hashes are kept, and all of them are compared in full whatever the answer is. */
export class TokenGuard {
  readonly #digests: readonly Buffer[];

  constructor(tokens: readonly string[]) {
    this.#digests = tokens.map(digest);
  }

  /** Whether anybody may call. */
  get isOpen(): boolean {
    return this.#digests.length === 0;
  }

  /** The name of who holds the token, the same for each of their requests. Throws Refusal with the challenge of RFC 9728. */
  principal(req: IncomingMessage, resourceMetadata: string): string {
    if (this.isOpen) return 'anyone';
    const header = req.headers.authorization;
    const token = header === undefined ? undefined : /^bearer +([\w\-.~+/]+=*)$/i.exec(header)?.[1];
    const given = digest(token ?? '');
    let holder = -1;
    this.#digests.forEach((known, i) => {
      if (timingSafeEqual(known, given)) holder = i;
    });
    if (token !== undefined && holder >= 0) return `token ${holder}`;
    const problem = header === undefined ? '' : 'error="invalid_token", error_description="unknown token", ';
    throw new Refusal(401, header === undefined ? 'a bearer token is required' : 'the bearer token is not accepted', {
      headers: { 'www-authenticate': `Bearer ${problem}resource_metadata="${resourceMetadata}"` },
    });
  }
}

function digest(token: string): Buffer {
  return createHash('sha256').update(token).digest();
}
