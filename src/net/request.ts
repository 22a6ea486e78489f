// Requests to other machines: the Hub, and servers that speak OpenAI's API. Node's own fetch ends a request whose answer
// begins after five minutes, and knows no proxy; this one, of the same makers, has neither limit.

import type { Dispatcher } from 'undici';
import { type Environment, type ProxyServer, proxyFor } from './proxy.ts';

/** How long a connection may take to come about. */
const CONNECT_MS = 30_000;

export type RequestOptions = {
  readonly method?: 'GET' | 'POST';
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: string;
  readonly signal?: AbortSignal;
  /** Where the proxy's variables are read. */
  readonly env: Environment;
};

/** What callers use of an answer. */
export type Answer = {
  readonly status: number;
  readonly headers: Iterable<[string, string]> & { get(name: string): string | null };
  readonly body: (AsyncIterable<Uint8Array> & { cancel(): Promise<void> }) | null;
};

/**
 * Sends a request. Redirects are not followed, and nothing limits its time but `signal`. Throws ArgumentError for a proxy
 * that cannot be used, what `signal` was aborted with, and otherwise TypeErrors, which `failureOf` puts into words; so
 * does reading the body.
 */
export async function request(url: URL, options: RequestOptions): Promise<Answer> {
  const { env, method = 'GET', headers = {}, body, signal } = options;
  const proxy = proxyFor(url, env);
  // Late, because most commands ask nobody; the default export, because a bundle's chunk of CommonJS has no other.
  const { default: undici } = await import('undici');
  const answer = await undici.fetch(url, {
    method,
    headers: { ...headers },
    redirect: 'manual',
    dispatcher: await dispatcherFor(proxy),
    ...(body === undefined ? {} : { body }),
    ...(signal === undefined ? {} : { signal }),
  });
  return answer as Answer;
}

/** One for each proxy: it keeps connections open. */
const dispatchers = new Map<string, Dispatcher>();

async function dispatcherFor(proxy: ProxyServer | undefined): Promise<Dispatcher> {
  const key = proxy === undefined ? '' : `${proxy.url.href} ${proxy.authorization ?? ''}`;
  let dispatcher = dispatchers.get(key);
  if (dispatcher !== undefined) return dispatcher;
  const { default: undici } = await import('undici');
  const limits = { headersTimeout: 0, bodyTimeout: 0 };
  const connect = { timeout: CONNECT_MS };
  if (proxy === undefined) dispatcher = new undici.Agent({ ...limits, connect });
  else {
    dispatcher = new undici.ProxyAgent({
      ...limits,
      uri: proxy.url.href,
      // What is not encrypted is asked for by its whole address, as curl does; many proxies refuse to tunnel to port 80.
      proxyTunnel: false,
      proxyTls: connect,
      requestTls: connect,
      ...(proxy.authorization === undefined ? {} : { token: proxy.authorization }),
    });
  }
  dispatchers.set(key, dispatcher);
  return dispatcher;
}

/** A connection over which nothing came for a while; what a caller's timer aborts a request with. */
export class SilenceError extends Error {
  constructor(ms: number) {
    super(`no data for ${ms / 1000} seconds`);
    this.name = 'SilenceError';
  }
}

export type Failure = {
  /** In a few words, with the system's code where there is one. */
  readonly reason: string;
  /** What helps; undefined where there is nothing in particular. */
  readonly fix?: string;
  /** Whether the same request can go better in a moment. */
  readonly passing: boolean;
};

/**
 * What went wrong with a request or its body, or undefined where `error` is something else. Names the proxy that was
 * asked, and never what stands in a header.
 */
export function failureOf(error: unknown, url: URL, env: Environment): Failure | undefined {
  if (error instanceof SilenceError) return { reason: error.message, passing: true };
  const cause = deepest(error);
  const { code: given, message = '' } = (cause ?? {}) as { code?: unknown; message?: string };
  const code = typeof given === 'string' ? given : undefined;
  // fetch gives its own TypeErrors a cause; those of a mistake in a program have none.
  const isOfFetch =
    error instanceof TypeError && (error.cause !== undefined || /^(fetch failed|terminated)$/.test(error.message));
  if (!isOfFetch && code?.startsWith('UND_ERR_') !== true) return undefined;
  const proxy = proxyFor(url, env);
  const through = proxy === undefined ? '' : ` through the proxy ${proxy.url.host} of ${proxy.variable}`;
  if (isCertificate(code)) {
    return {
      reason: `the certificate of ${url.host} is not trusted${through}: ${code}`,
      fix: 'where a company or proxy signs its own, set NODE_EXTRA_CA_CERTS to the file with its certificate',
      passing: false,
    };
  }
  const refused = /Proxy response \((\d+)\)/.exec(message)?.[1] ?? /\((407)\)/.exec(message)?.[1];
  if (refused !== undefined && proxy !== undefined) {
    return {
      reason: `the proxy ${proxy.url.host} of ${proxy.variable} refused (HTTP ${refused})`,
      fix:
        refused === '407'
          ? `write user and password into ${proxy.variable}: http://USER:PASSWORD@HOST:PORT`
          : `check ${proxy.variable}, or except ${url.hostname} with NO_PROXY`,
      passing: false,
    };
  }
  // The system's codes are known by name; those of the library say less than its words.
  const words = message === '' ? 'no reason was given' : message;
  const reason = `${code === undefined || code.startsWith('UND_ERR') ? words : code}${through}`;
  // Of fetch itself, which refuses these before it connects.
  if (message === 'bad port') {
    return { reason: `port ${url.port} is one that fetch refuses`, fix: 'check the address', passing: false };
  }
  if (proxy !== undefined) return { reason, fix: `check ${proxy.variable} and NO_PROXY`, passing: true };
  if (code !== undefined && UNREACHABLE.has(code)) {
    const fix = 'check the network and the address; where the way out is a proxy, set HTTPS_PROXY to it';
    return { reason, fix, passing: true };
  }
  return { reason, passing: true };
}

const UNREACHABLE: ReadonlySet<string> = new Set([
  'ENOTFOUND',
  'EAI_AGAIN',
  'ENETUNREACH',
  'EHOSTUNREACH',
  'ETIMEDOUT',
  'UND_ERR_CONNECT_TIMEOUT',
]);

function isCertificate(code: string | undefined): boolean {
  return code !== undefined && /CERT|SELF_SIGNED|UNABLE_TO_(GET_ISSUER|VERIFY)|ALTNAME/.test(code);
}

/** fetch wraps the system's error, sometimes twice; several addresses that fail come as one error of all. */
function deepest(error: unknown): unknown {
  let at = error;
  for (let depth = 0; depth < 8; depth++) {
    const { cause, errors, code } = (at ?? {}) as { cause?: unknown; errors?: unknown[]; code?: string };
    const next = cause ?? (code === undefined ? errors?.[0] : undefined);
    if (next === undefined || next === null) break;
    at = next;
  }
  return at;
}
