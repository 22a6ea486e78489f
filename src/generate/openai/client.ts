// HTTP towards an OpenAI-compatible server (exo, mlx_lm.server, llama-server, vLLM, ...): requests, their errors, and the
// objects of an answer as they stream in.

import { ArgumentError } from '../../errors.ts';
import { parseJson } from '../../formats/strict-json.ts';
import type { Environment } from '../../net/proxy.ts';
import { type Answer, failureOf, type RequestOptions, request, SilenceError } from '../../net/request.ts';
import { notTheApi, parse, readAnswers } from './answer-body.ts';
import { OpenAiConnectionError, OpenAiResponseError, OpenAiStreamError } from './errors.ts';
import { StreamLimitError } from './event-stream.ts';
import { asObject, errorWords, oneLine, wordsOf } from './words.ts';

/** Where llama-server and mlx_lm.server listen unless told otherwise. */
export const DEFAULT_BASE_URL = 'http://127.0.0.1:8080/v1';

/** An error's body or a list of models. */
const MAX_BODY = 1 << 20;
const MAX_NAMES = 8;
/** The longest delay of a timer. */
const MAX_IDLE_SECONDS = 2_000_000;

export type OpenAiEndpoint = {
  /** Without a slash at the end. */
  readonly baseUrl: string;
  readonly apiKey?: string;
  /** Whether BITNET_OPENAI_BASE_URL names it. */
  readonly isSet: boolean;
  /** How long nothing may come before we give up; undefined for no limit. */
  readonly idleMs?: number;
  /** Where the proxy's variables are read. */
  readonly env: Environment;
};

/** Base URL, key and limit from the environment. Throws ArgumentError for what is no URL, key or time. */
export function openAiEndpoint(env: Environment): OpenAiEndpoint {
  const named = env.BITNET_OPENAI_BASE_URL?.trim() ?? '';
  const key = env.BITNET_OPENAI_API_KEY?.trim() ?? '';
  // `URL.parse` came with Node 22.
  const url = URL.canParse(named || DEFAULT_BASE_URL) ? new URL(named || DEFAULT_BASE_URL) : undefined;
  if (url === undefined || !/^https?:$/.test(url.protocol) || url.username !== '' || url.password !== '') {
    throw new ArgumentError({
      what: 'BITNET_OPENAI_BASE_URL is not an http or https URL without user and password',
      fix: `write it as ${DEFAULT_BASE_URL}; a key goes into BITNET_OPENAI_API_KEY`,
    });
  }
  if (/[^\x21-\x7e]/.test(key)) {
    throw new ArgumentError({
      what: 'BITNET_OPENAI_API_KEY holds characters that no key has',
      fix: 'copy the key again, without spaces and line breaks inside',
    });
  }
  return {
    baseUrl: `${url.origin}${url.pathname}`.replace(/\/+$/, ''),
    ...(key === '' ? {} : { apiKey: key }),
    isSet: named !== '',
    ...idleLimit(env.BITNET_OPENAI_IDLE_SECONDS),
    env,
  };
}

function idleLimit(text = ''): { readonly idleMs?: number } {
  if (text.trim() === '') return {};
  const seconds = Number(text);
  if (seconds > 0 && seconds <= MAX_IDLE_SECONDS) return { idleMs: 1000 * seconds };
  throw new ArgumentError({
    what: `BITNET_OPENAI_IDLE_SECONDS is ${JSON.stringify(text.slice(0, 40))}`,
    fix: `write a number of seconds above 0, at most ${MAX_IDLE_SECONDS}, or unset it to wait without limit`,
  });
}

export class OpenAiClient {
  readonly endpoint: OpenAiEndpoint;

  constructor(endpoint: OpenAiEndpoint) {
    this.endpoint = endpoint;
  }

  /** Names of the models that the server lists. */
  async models(signal: AbortSignal): Promise<string[]> {
    const url = `${this.endpoint.baseUrl}/models`;
    const answer = await this.#ask('/models', { signal });
    const body = await readBody(answer.body, MAX_BODY).catch((error: unknown) => {
      throw this.#failure(error, url);
    });
    const list = asObject(parse(body, url));
    const words = Array.isArray(list?.data) ? undefined : errorWords(list);
    if (words !== undefined) throw new OpenAiResponseError({ status: 0, url, message: words });
    if (!Array.isArray(list?.data)) throw notTheApi('the list of models', url);
    return list.data.map((entry: unknown) => asObject(entry)?.id).filter((id) => typeof id === 'string');
  }

  /**
   * Posts `body` and gives the JSON objects of the answer as they arrive; see `readAnswers`. Throws before the first one
   * if the request is refused, and from within the loop if the stream breaks.
   */
  async post(path: string, body: object, signal: AbortSignal): Promise<AsyncGenerator<unknown>> {
    const answer = await this.#ask(path, {
      method: 'POST',
      body: JSON.stringify(body),
      headers: { 'content-type': 'application/json', accept: 'text/event-stream, application/json' },
      signal,
    });
    return this.#objects(answer, `${this.endpoint.baseUrl}${path}`);
  }

  async *#objects({ headers, body }: Answer, url: string): AsyncGenerator<unknown> {
    const type = headers.get('content-type')?.split(';')[0]?.trim().toLowerCase() ?? '';
    try {
      yield* readAnswers(body ?? none(), { type, url, shown: (words) => this.#withoutKey(words) });
    } catch (error) {
      throw this.#failure(error, url);
    }
  }

  /** An answer with status 200; its body is to be read to its end or cancelled. */
  async #ask(path: string, init: Omit<RequestOptions, 'env'> & { readonly signal: AbortSignal }): Promise<Answer> {
    const { baseUrl, apiKey, env, idleMs } = this.endpoint;
    const url = `${baseUrl}${path}`;
    const idle = new IdleTimer(idleMs, init.signal);
    let answer: Answer;
    try {
      // Redirects are not followed: the prompt and the key are for this server.
      answer = await request(new URL(url), {
        ...init,
        env,
        signal: idle.signal,
        headers: { ...init.headers, ...(apiKey === undefined ? {} : { authorization: `Bearer ${apiKey}` }) },
      });
    } catch (error) {
      idle.stop();
      throw this.#failure(error, url);
    }
    const body = answer.body === null ? null : idle.watch(answer.body);
    const { status, headers } = answer;
    if (status >= 200 && status < 300) return { status, headers, body };
    throw await this.#refusal({ status, headers, body }, url, init.signal);
  }

  /** The error of an answer that is none, with the server's words and, where the model is unknown, the known ones. */
  async #refusal({ status, body }: Answer, url: string, signal: AbortSignal): Promise<OpenAiResponseError> {
    const message = this.#withoutKey(wordsOfBody(await readBody(body, MAX_BODY).catch(() => '')));
    const answer = { status, url, message };
    if (status !== 404 || url.endsWith('/models')) return new OpenAiResponseError(answer);
    const names = await this.models(signal).catch(() => []);
    const known =
      names.length === 0 ? '' : `; it has the ${names.length === 1 ? 'model' : 'models'} ${shortList(names)}`;
    return new OpenAiResponseError({
      ...answer,
      fix: `check --model and BITNET_OPENAI_BASE_URL (in most cases it ends in /v1)${known}${
        url.endsWith('/completions') && !url.endsWith('/chat/completions')
          ? '; a server that only chats needs --chat (or messages)'
          : ''
      }`,
    });
  }

  /** Servers repeat what they were sent. */
  #withoutKey(words: string): string {
    const { apiKey } = this.endpoint;
    return apiKey === undefined ? words : words.replaceAll(apiKey, '***');
  }

  /** In words; aborts and errors of ours pass as they are. */
  #failure(error: unknown, url: string): unknown {
    if (error instanceof StreamLimitError) {
      const fix = 'ask for fewer tokens, or look at what the server sends';
      return new OpenAiStreamError({ what: error.message, where: url, fix }, { cause: error });
    }
    const failure = failureOf(error, new URL(url), this.endpoint.env);
    if (failure === undefined) return error;
    const { reason } = failure;
    const nobody = reason === 'ECONNREFUSED';
    const start = 'start the server, or set BITNET_OPENAI_BASE_URL to where it is';
    const limit = 'BITNET_OPENAI_IDLE_SECONDS says how long silence is borne';
    return new OpenAiConnectionError(
      {
        what: nobody ? 'nobody listens there (ECONNREFUSED)' : `the connection failed: ${reason}`,
        where: url,
        fix: nobody
          ? start
          : error instanceof SilenceError
            ? limit
            : (failure.fix ?? 'check BITNET_OPENAI_BASE_URL and the server, then ask again'),
      },
      { cause: error },
    );
  }
}

/** Aborts a request over which nothing comes for a while, if there is a limit, and when the caller gives up. */
class IdleTimer {
  readonly #controller = new AbortController();
  readonly #ms: number | undefined;
  readonly #outer: AbortSignal;
  readonly #abort = (): void => this.#controller.abort(this.#outer.reason);
  #timer: NodeJS.Timeout | undefined;

  constructor(ms: number | undefined, outer: AbortSignal) {
    this.#ms = ms;
    this.#outer = outer;
    outer.addEventListener('abort', this.#abort, { once: true });
    if (outer.aborted) this.#abort();
    this.#arm();
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  watch(body: NonNullable<Answer['body']>): NonNullable<Answer['body']> {
    const arm = () => this.#arm();
    const stop = () => this.stop();
    async function* parts(): AsyncGenerator<Uint8Array> {
      try {
        for await (const part of body) {
          arm();
          yield part;
        }
      } finally {
        stop();
      }
    }
    return Object.assign(parts(), {
      cancel: async () => {
        stop();
        await body.cancel();
      },
    });
  }

  stop(): void {
    clearTimeout(this.#timer);
    this.#outer.removeEventListener('abort', this.#abort);
  }

  #arm(): void {
    if (this.#ms === undefined) return;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#controller.abort(new SilenceError(this.#ms!)), this.#ms);
  }
}

/** As many names as fit into a message. */
export function shortList(names: readonly string[]): string {
  const shown = names.slice(0, MAX_NAMES).map((name) => oneLine(name, 80));
  return `${shown.join(', ')}${names.length > MAX_NAMES ? `, ... (${names.length} in all)` : ''}`;
}

async function* none(): AsyncGenerator<Uint8Array> {}

async function readBody(body: AsyncIterable<Uint8Array> | null, limit: number): Promise<string> {
  const parts: Uint8Array[] = [];
  let size = 0;
  for await (const part of body ?? none()) {
    size += part.byteLength;
    if (size > limit) throw new StreamLimitError(`the answer exceeds ${limit} bytes`);
    parts.push(part);
  }
  return Buffer.concat(parts).toString('utf8');
}

/** What a server says in an error's body. */
function wordsOfBody(body: string): string {
  // A page of HTML says nothing to anybody.
  if (/^\s*</.test(body)) return '';
  try {
    const json = parseJson(body, { where: '' });
    return errorWords(json) ?? wordsOf(json);
  } catch {
    return wordsOf(body);
  }
}
