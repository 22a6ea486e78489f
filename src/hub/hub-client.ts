// HTTP towards the Hub: redirects followed by hand (the hash of a large file stands in the headers of the first answer,
// and the token must not travel to another host), retries, and an end to connections that fall silent.

import { CancelledError } from '../errors.ts';
import { JsonError, parseJson } from '../formats/strict-json.ts';
import type { Environment } from '../net/proxy.ts';
import { type Answer, failureOf, request, SilenceError } from '../net/request.ts';
import { HubConnectionError, HubContentError, HubResponseError } from './hub-errors.ts';
import { hubEndpoint, hubToken, silenceMs, type Token } from './hub-settings.ts';

const MAX_REDIRECTS = 5;
const TRIES = 4;
/** The list of files of the largest repositories is a few MB. */
const MAX_JSON_BYTES = 64 * 2 ** 20;
/** Characters of the Hub's own words in our messages. */
const MAX_WORDS = 300;
const CHECK_ENDPOINT = 'check HF_ENDPOINT and the proxy, if there is one';

export type HubClientOptions = {
  readonly env?: Environment;
  readonly signal?: AbortSignal;
  /** Base of the growing pause between tries. */
  readonly retryDelayMs?: number;
  /** Told in a sentence what a user may want to know while it goes on. */
  readonly onNotice?: (line: string) => void;
};

/** One file as the Hub announces it. */
export type HubAnswer = Disposable & {
  readonly status: number;
  /** Headers of all hops; those of the first one win. */
  readonly headers: ReadonlyMap<string, string>;
  readonly body: AsyncIterable<Uint8Array>;
};

/** A body that ended before all of the file was there; worth another try. */
export class ShortBodyError extends Error {}

export class HubClient {
  readonly endpoint: string;
  readonly signal: AbortSignal | undefined;
  readonly #env: Environment;
  readonly #retryDelayMs: number;
  readonly #silenceMs: number;
  readonly #onNotice: (line: string) => void;
  #token: Token | undefined;
  /** Where the token came from that the Hub does not know; it is not sent again. */
  #rejectedToken: string | undefined;

  private constructor(options: HubClientOptions, token: Token | undefined) {
    this.#env = options.env ?? process.env;
    this.endpoint = hubEndpoint(this.#env);
    this.signal = options.signal;
    this.#retryDelayMs = options.retryDelayMs ?? 1000;
    this.#silenceMs = silenceMs(this.#env);
    this.#onNotice = options.onNotice ?? (() => {});
    this.#token = token;
  }

  /** Throws ArgumentError for an endpoint or token that cannot be used, before anything is sent. */
  static async open(options: HubClientOptions = {}): Promise<HubClient> {
    const env = options.env ?? process.env;
    hubEndpoint(env);
    return new HubClient(options, await hubToken(env));
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
        const failure =
          error instanceof ShortBodyError
            ? { reason: error.message, passing: true }
            : failureOf(error, new URL(url), this.#env);
        const isServer = error instanceof HubResponseError && (error.status >= 500 || error.status === 429);
        if (failure === undefined && !isServer) throw error;
        if (progress() > before) {
          before = progress();
          tries = 1;
        }
        const last = tries === TRIES || failure?.passing === false;
        if (last && failure === undefined) throw error;
        const reason = failure?.reason ?? `HTTP ${(error as HubResponseError).status}`;
        if (last) {
          throw new HubConnectionError(
            {
              what: `the connection failed${tries === 1 ? '' : ` ${tries} times`}: ${reason}`,
              where: url,
              fix: `${failure?.fix ?? 'check the network (HF_ENDPOINT names a mirror)'}; run again, the download continues where it stopped`,
            },
            { cause: error },
          );
        }
        this.#onNotice(`${reason}; trying again (${tries + 1} of ${TRIES})`);
        await pause(this.#retryDelayMs * 2 ** (tries - 1), this.signal);
      }
    }
  }

  async json(path: string, repo: string): Promise<unknown> {
    const url = `${this.endpoint}${path}`;
    return this.retrying(url, async () => {
      using answer = await this.get(url, repo);
      const parts: Uint8Array[] = [];
      let size = 0;
      for await (const part of answer.body) {
        size += part.byteLength;
        if (size > MAX_JSON_BYTES) {
          const what = `the answer exceeds ${MAX_JSON_BYTES} bytes`;
          throw new HubContentError({ what, where: url, fix: CHECK_ENDPOINT });
        }
        parts.push(part);
      }
      try {
        return parseJson(Buffer.concat(parts), { where: url, fix: CHECK_ENDPOINT });
      } catch (cause) {
        if (!(cause instanceof JsonError)) throw cause;
        throw new HubContentError({ ...cause.text, what: `the Hub's answer: ${cause.text.what}` }, { cause });
      }
    });
  }

  /** A GET with status 200 or 206; others throw `HubResponseError`, 416 is returned. The answer must be disposed. */
  async get(url: string, repo: string, range?: number): Promise<HubAnswer> {
    const headers = new Map<string, string>();
    let current = new URL(url);
    for (let hop = 0; ; hop++) {
      const silence = new SilenceTimer(this.#silenceMs, this.signal);
      let response: Answer;
      const token = current.origin === new URL(this.endpoint).origin ? this.#token : undefined;
      try {
        response = await request(current, {
          headers: headersFor(token, range),
          signal: silence.signal,
          env: this.#env,
        });
      } catch (error) {
        silence.stop();
        throw error;
      }
      for (const [name, value] of response.headers) if (!headers.has(name)) headers.set(name, value);
      const { status, body } = response;
      const location = response.headers.get('location');
      if (status === 200 || status === 206 || status === 416) {
        return {
          status,
          headers,
          body: silence.watch(body),
          [Symbol.dispose]: () => {
            silence.stop();
            // Fails where the body is being read or has ended: then nothing is left to end.
            void body?.cancel().catch(() => {});
          },
        };
      }
      silence.stop();
      await body?.cancel();
      if (status >= 300 && status < 400 && location !== null) {
        if (hop === MAX_REDIRECTS) throw badRedirect(`more than ${MAX_REDIRECTS} redirects`, url);
        current = redirected(location, current, url);
        // The last hop's own length and range count, not those of a redirect.
        for (const name of ['content-length', 'content-range', 'location']) headers.delete(name);
        continue;
      }
      const words = wordsOf(response, token);
      if (status === 401 && token !== undefined && /invalid|expired|revoked/i.test(words)) {
        // As good as none: a public model needs no token.
        this.#rejectedToken = token.source;
        this.#token = undefined;
        this.#onNotice(
          `the Hub rejected the token of ${token.source} (${words}): going on without it; renew or unset it`,
        );
        return this.get(url, repo, range);
      }
      throw new HubResponseError({ status, url, repo, words, rejectedToken: this.#rejectedToken });
    }
  }
}

function headersFor(token: Token | undefined, range: number | undefined): Record<string, string> {
  return {
    // Compressed transfer would make lengths and ranges those of the compressed bytes.
    'accept-encoding': 'identity',
    'user-agent': 'bitnet-gf3-mcp',
    ...(range !== undefined && range > 0 ? { range: `bytes=${range}-` } : {}),
    ...(token === undefined ? {} : { authorization: `Bearer ${token.value}` }),
  };
}

function badRedirect(what: string, where: string): HubContentError {
  return new HubContentError({ what, where, fix: CHECK_ENDPOINT });
}

function redirected(location: string, from: URL, url: string): URL {
  if (!URL.canParse(location, from.href)) throw badRedirect('a redirect to what is no address', url);
  const to = new URL(location, from);
  if (to.protocol !== 'https:' && to.protocol !== 'http:') throw badRedirect(`a redirect to ${to.protocol}`, url);
  if (to.username !== '' || to.password !== '') throw badRedirect('a redirect with a user or password in it', url);
  return to;
}

/** What the Hub says in a header, in one short line that never holds the token. */
function wordsOf({ headers }: Answer, token: Token | undefined): string {
  const said = headers.get('x-error-message') ?? '';
  const safe = token === undefined ? said : said.replaceAll(token.value, '***');
  return safe
    .slice(0, MAX_WORDS)
    .replace(/[\s\p{Cc}]+/gu, ' ')
    .trim();
}

/** Aborts a request that delivers nothing for a while, or whose caller gave up. */
class SilenceTimer {
  readonly #controller = new AbortController();
  readonly #ms: number;
  readonly #outer: AbortSignal | undefined;
  readonly #abort = (): void => this.#controller.abort(new CancelledError());
  #timer: NodeJS.Timeout | undefined;

  constructor(ms: number, outer: AbortSignal | undefined) {
    this.#ms = ms;
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
    const silent = () => this.#controller.abort(new SilenceError(this.#ms));
    this.#timer = setTimeout(silent, this.#ms);
  }
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
