// HTTP towards the Hub: redirects followed by hand (the hash of a large file stands in the headers of the first answer,
// and the token must not travel to another host), retries, and an end to connections that fall silent.

import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { CancelledError } from '../errors.ts';
import { type Environment, expandHome, hubHome } from './hub-cache.ts';
import { HubConnectionError, HubContentError, HubResponseError } from './hub-errors.ts';

/** Where the Hub is, unless HF_ENDPOINT names a mirror. */
export const DEFAULT_ENDPOINT = 'https://huggingface.co';

const MAX_REDIRECTS = 5;
const TRIES = 4;
/** Without a byte for this long a connection is given up. */
const SILENCE_MS = 30_000;
/** The list of files of the largest repositories is a few MB. */
const MAX_JSON_BYTES = 64 * 2 ** 20;

export type HubClientOptions = {
  readonly env?: Environment;
  readonly signal?: AbortSignal;
  /** Base of the growing pause between tries. */
  readonly retryDelayMs?: number;
};

/** One file as the Hub announces it. */
export type HubAnswer = {
  readonly status: number;
  /** Headers of all hops; those of the first one win. */
  readonly headers: ReadonlyMap<string, string>;
  readonly body: AsyncIterable<Uint8Array>;
};

export class HubClient {
  readonly endpoint: string;
  readonly signal: AbortSignal | undefined;
  readonly #env: Environment;
  readonly #retryDelayMs: number;
  #token: Promise<string | undefined> | undefined;

  constructor(options: HubClientOptions = {}) {
    this.#env = options.env ?? process.env;
    this.endpoint = (this.#env.HF_ENDPOINT || DEFAULT_ENDPOINT).replace(/\/+$/, '');
    this.signal = options.signal;
    this.#retryDelayMs = options.retryDelayMs ?? 1000;
  }

  /**
   * Runs `attempt` again after connection failures and 5xx answers, a few times. Tries are counted anew whenever
   * `progress` has grown, so that a long download survives any number of short interruptions.
   */
  async retrying<T>(url: string, attempt: () => Promise<T>, progress: () => number = () => 0): Promise<T> {
    let before = progress();
    for (let tries = 1; ; tries++) {
      if (this.signal?.aborted) throw new CancelledError();
      try {
        return await attempt();
      } catch (error) {
        if (this.signal?.aborted) throw new CancelledError();
        const isServer = error instanceof HubResponseError && (error.status >= 500 || error.status === 429);
        const isOurs = error instanceof HubResponseError || error instanceof HubContentError;
        if (isOurs && !isServer) throw error;
        if (!isOurs && !isNetworkFailure(error)) throw error;
        if (progress() > before) {
          before = progress();
          tries = 1;
        }
        if (tries === TRIES) {
          if (isOurs) throw error;
          throw new HubConnectionError(
            {
              what: `the connection failed ${TRIES} times: ${reasonOf(error)}`,
              where: url,
              fix: 'check the network (HF_ENDPOINT names a mirror) and run it again: the download continues where it stopped',
            },
            { cause: error },
          );
        }
        await pause(this.#retryDelayMs * 2 ** (tries - 1), this.signal);
      }
    }
  }

  async json(path: string, repo: string): Promise<unknown> {
    const url = `${this.endpoint}${path}`;
    return this.retrying(url, async () => {
      const { body } = await this.get(url, repo);
      const parts: Uint8Array[] = [];
      let size = 0;
      for await (const part of body) {
        size += part.byteLength;
        if (size > MAX_JSON_BYTES) {
          throw new HubContentError({
            what: `the answer exceeds ${MAX_JSON_BYTES} bytes`,
            where: url,
            fix: 'check HF_ENDPOINT',
          });
        }
        parts.push(part);
      }
      try {
        return JSON.parse(Buffer.concat(parts).toString('utf8')) as unknown;
      } catch (cause) {
        throw new HubContentError({ what: 'the answer is not JSON', where: url, fix: 'check HF_ENDPOINT' }, { cause });
      }
    });
  }

  /** A GET with status 200 or 206; others throw `HubResponseError`, 416 is returned. */
  async get(url: string, repo: string, range?: number): Promise<HubAnswer> {
    const headers = new Map<string, string>();
    let current = new URL(url);
    for (let hop = 0; ; hop++) {
      const silence = new SilenceTimer(this.signal);
      let response: Response;
      try {
        response = await fetch(current, {
          headers: await this.#headersFor(current, range),
          redirect: 'manual',
          signal: silence.signal,
        });
      } catch (error) {
        silence.stop();
        throw error;
      }
      for (const [name, value] of response.headers) if (!headers.has(name)) headers.set(name, value);
      const { status } = response;
      const location = response.headers.get('location');
      if (status >= 300 && status < 400 && location !== null) {
        silence.stop();
        await response.body?.cancel();
        if (hop === MAX_REDIRECTS) {
          throw new HubContentError({
            what: `more than ${MAX_REDIRECTS} redirects`,
            where: url,
            fix: 'check HF_ENDPOINT',
          });
        }
        current = new URL(location, current);
        if (current.protocol !== 'https:' && current.protocol !== 'http:') {
          throw new HubContentError({
            what: `a redirect to ${current.protocol}`,
            where: url,
            fix: 'check HF_ENDPOINT',
          });
        }
        // The last hop's own length and range count, not those of a redirect.
        for (const name of ['content-length', 'content-range', 'location']) headers.delete(name);
        continue;
      }
      if (status !== 200 && status !== 206 && status !== 416) {
        silence.stop();
        await response.body?.cancel();
        throw new HubResponseError(status, url, repo);
      }
      return { status, headers, body: silence.watch(response.body) };
    }
  }

  async #headersFor(url: URL, range: number | undefined): Promise<Record<string, string>> {
    // Compressed transfer would make lengths and ranges those of the compressed bytes.
    const headers: Record<string, string> = { 'accept-encoding': 'identity', 'user-agent': 'bitnet-gf3-mcp' };
    if (range !== undefined && range > 0) headers.range = `bytes=${range}-`;
    if (url.origin === new URL(this.endpoint).origin) {
      this.#token ??= readToken(this.#env);
      const token = await this.#token;
      if (token !== undefined) headers.authorization = `Bearer ${token}`;
    }
    return headers;
  }
}

/** HF_TOKEN, its old name, or the file that `hf auth login` writes. */
async function readToken(env: Environment): Promise<string | undefined> {
  const named = env.HF_TOKEN || env.HUGGING_FACE_HUB_TOKEN;
  if (named) return named.trim();
  try {
    const path = env.HF_TOKEN_PATH ? expandHome(env.HF_TOKEN_PATH) : join(hubHome(env), 'token');
    return (await readFile(path, 'utf8')).trim() || undefined;
  } catch {
    return undefined;
  }
}

/** Aborts a request that delivers nothing for a while, or whose caller gave up. */
class SilenceTimer {
  readonly #controller = new AbortController();
  readonly #outer: AbortSignal | undefined;
  readonly #abort = (): void => this.#controller.abort(new CancelledError());
  #timer: NodeJS.Timeout | undefined;

  constructor(outer: AbortSignal | undefined) {
    this.#outer = outer;
    outer?.addEventListener('abort', this.#abort, { once: true });
    if (outer?.aborted) this.#abort();
    this.#arm();
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  async *watch(body: AsyncIterable<Uint8Array> | null): AsyncGenerator<Uint8Array> {
    try {
      for await (const part of body ?? []) {
        this.#arm();
        yield part;
      }
    } finally {
      this.stop();
    }
  }

  stop(): void {
    clearTimeout(this.#timer);
    this.#outer?.removeEventListener('abort', this.#abort);
  }

  #arm(): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#controller.abort(new TypeError('no data for 30 seconds')), SILENCE_MS);
  }
}

/** fetch reports every network failure as a TypeError, some with the system's error as cause. */
function isNetworkFailure(error: unknown): boolean {
  return error instanceof TypeError || (error as NodeJS.ErrnoException | undefined)?.code === 'UND_ERR_SOCKET';
}

function reasonOf(error: unknown): string {
  const cause = (error as { cause?: NodeJS.ErrnoException } | undefined)?.cause;
  return cause?.code ?? cause?.message ?? (error as Error).message;
}

function pause(ms: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    const cancel = (): void => {
      clearTimeout(timer);
      reject(new CancelledError());
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener('abort', cancel);
      resolve();
    }, ms);
    signal?.addEventListener('abort', cancel, { once: true });
  });
}
