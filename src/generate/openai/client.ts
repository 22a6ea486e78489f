// HTTP towards an OpenAI-compatible server (exo, mlx_lm.server, llama-server, vLLM, ...): requests, their errors, and the
// objects of an answer as they stream in.

import { ArgumentError } from '../../errors.ts';
import { OpenAiConnectionError, OpenAiResponseError, OpenAiStreamError } from './errors.ts';
import { readEvents, StreamLimitError } from './event-stream.ts';

/** Where llama-server and mlx_lm.server listen unless told otherwise. */
export const DEFAULT_BASE_URL = 'http://127.0.0.1:8080/v1';

/** One event: a token with 20 alternatives has about 3 KB, a whole answer of a server that does not stream some 100 KB. */
const MAX_EVENT = 4 << 20;
/** A whole stream: 100,000 tokens with their log-probabilities have about 50 MB. */
const MAX_STREAM = 256 << 20;
/** An error's body or a list of models. */
const MAX_BODY = 1 << 20;
/** Characters of a server's own words in our messages. */
const MAX_QUOTE = 300;
const MAX_NAMES = 8;

/** What `post` gives last when the server has said that its answer is complete. */
export const END_OF_ANSWER = Symbol('end of answer');

export type OpenAiEndpoint = {
  /** Without a slash at the end. */
  readonly baseUrl: string;
  readonly apiKey?: string;
  /** Whether BITNET_OPENAI_BASE_URL names it. */
  readonly isSet: boolean;
};

/** Base URL and key from BITNET_OPENAI_BASE_URL and BITNET_OPENAI_API_KEY. Throws ArgumentError for what is no URL. */
export function openAiEndpoint(env: Readonly<Record<string, string | undefined>>): OpenAiEndpoint {
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
  };
}

export class OpenAiClient {
  readonly endpoint: OpenAiEndpoint;

  constructor(endpoint: OpenAiEndpoint) {
    this.endpoint = endpoint;
  }

  /** Names of the models that the server lists. */
  async models(signal: AbortSignal): Promise<string[]> {
    const response = await this.#fetch('/models', { signal });
    if (!response.ok) throw await this.#refusal(response, signal);
    const list = parse(await readBody(response.body, MAX_BODY, response.url), response.url) as {
      data?: unknown;
    } | null;
    if (!Array.isArray(list?.data)) throw notTheApi('the list of models', response.url);
    return list.data.map((entry: { id?: unknown } | null) => entry?.id).filter((id) => typeof id === 'string');
  }

  /**
   * Posts `body` and gives the JSON objects of the answer as they arrive: the chunks of a stream, or the one object of a
   * server that does not stream, then END_OF_ANSWER; a stream that just ends lacks it. Throws before the first one if
   * the request is refused, and from within the loop if the stream breaks.
   */
  async post(path: string, body: object, signal: AbortSignal): Promise<AsyncGenerator<unknown>> {
    const response = await this.#fetch(path, {
      method: 'POST',
      body: JSON.stringify(body),
      headers: { 'content-type': 'application/json', accept: 'text/event-stream, application/json' },
      signal,
    });
    if (!response.ok) throw await this.#refusal(response, signal);
    return this.#objects(response, `${this.endpoint.baseUrl}${path}`);
  }

  async *#objects(response: Response, url: string): AsyncGenerator<unknown> {
    const type = response.headers.get('content-type')?.split(';')[0]?.trim().toLowerCase() ?? '';
    if (type === 'application/json') {
      yield withoutError(parse(await readBody(response.body, MAX_EVENT, url), url), url);
      yield END_OF_ANSWER;
      return;
    }
    if (type !== 'text/event-stream') {
      await response.body?.cancel();
      throw notTheApi(`the content type ${JSON.stringify(type.slice(0, 80))}`, url);
    }
    try {
      for await (const { type: kind, data } of readEvents(response.body ?? none(), {
        eventLength: MAX_EVENT,
        totalBytes: MAX_STREAM,
      })) {
        if (data.trim() === '[DONE]') {
          yield END_OF_ANSWER;
          return;
        }
        const object = parse(data, url);
        yield withoutError(kind === 'error' ? { error: object } : object, url);
      }
    } catch (error) {
      throw readingError(error, url);
    }
  }

  async #fetch(path: string, init: RequestInit): Promise<Response> {
    const { baseUrl, apiKey } = this.endpoint;
    const url = `${baseUrl}${path}`;
    try {
      return await fetch(url, {
        ...init,
        // Not followed: the prompt and the key are for this server.
        redirect: 'manual',
        headers: { ...init.headers, ...(apiKey === undefined ? {} : { authorization: `Bearer ${apiKey}` }) },
      });
    } catch (error) {
      throw readingError(error, url);
    }
  }

  /** The error of an answer that is none, with the server's words and, where the model is unknown, the known ones. */
  async #refusal(response: Response, signal: AbortSignal): Promise<OpenAiResponseError> {
    const { status } = response;
    const url = response.url || this.endpoint.baseUrl;
    const body = await readBody(response.body, MAX_BODY, url).catch(() => '');
    const answer = { status, url, message: wordsOf(body) };
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
}

/** As many names as fit into a message. */
export function shortList(names: readonly string[]): string {
  const shown = names.slice(0, MAX_NAMES).map((name) => oneLine(name, 80));
  return `${shown.join(', ')}${names.length > MAX_NAMES ? `, ... (${names.length} in all)` : ''}`;
}

async function* none(): AsyncGenerator<Uint8Array> {}

async function readBody(body: AsyncIterable<Uint8Array> | null, limit: number, url: string): Promise<string> {
  const parts: Uint8Array[] = [];
  let size = 0;
  try {
    for await (const part of body ?? none()) {
      size += part.byteLength;
      if (size > limit) throw new StreamLimitError(`the answer exceeds ${limit} bytes`);
      parts.push(part);
    }
  } catch (error) {
    throw readingError(error, url);
  }
  return Buffer.concat(parts).toString('utf8');
}

function parse(text: string, url: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    throw notTheApi(`${JSON.stringify(oneLine(text, 60))}, which is not JSON`, url);
  }
}

/** The object itself, unless it tells of an error. */
function withoutError(object: unknown, url: string): unknown {
  if (typeof object !== 'object' || object === null || Array.isArray(object)) {
    throw notTheApi(`${oneLine(JSON.stringify(object), 60)}, which is no object`, url);
  }
  const { error } = object as { error?: unknown };
  if (error === undefined || error === null) return object;
  throw new OpenAiResponseError({ status: 0, url, message: wordsOf(JSON.stringify({ error })) });
}

function notTheApi(what: string, url: string): OpenAiStreamError {
  return new OpenAiStreamError({
    what: `the server does not answer as OpenAI's API does: it sent ${what}`,
    where: url,
    fix: 'check BITNET_OPENAI_BASE_URL (in most cases it ends in /v1)',
  });
}

/** fetch and its bodies fail with TypeErrors, some with the system's error as cause; aborts pass as they are. */
function readingError(error: unknown, url: string): unknown {
  if (error instanceof StreamLimitError) {
    const fix = 'ask for fewer tokens, or look at what the server sends';
    return new OpenAiStreamError({ what: error.message, where: url, fix }, { cause: error });
  }
  const cause = (error as { cause?: NodeJS.ErrnoException } | undefined)?.cause;
  if (!(error instanceof TypeError)) return error;
  const reason = cause?.code ?? cause?.message ?? error.message;
  const refused = reason === 'ECONNREFUSED';
  return new OpenAiConnectionError(
    {
      what: refused ? 'nobody listens there (ECONNREFUSED)' : `the connection failed: ${reason}`,
      where: url,
      fix: refused
        ? 'start the server, or set BITNET_OPENAI_BASE_URL to where it is'
        : 'check BITNET_OPENAI_BASE_URL and the server, then ask again',
    },
    { cause: error },
  );
}

/** What a server says in an error's body, in one short line. */
function wordsOf(body: string): string {
  let words: unknown = body;
  try {
    const json = JSON.parse(body) as { error?: unknown; message?: unknown; detail?: unknown } | null;
    const error = json?.error as { message?: unknown } | string | undefined;
    words = (typeof error === 'object' ? error?.message : error) ?? json?.message ?? json?.detail ?? body;
  } catch {
    // A page of HTML says nothing to anybody.
    if (/^\s*</.test(body)) return '';
  }
  return oneLine(typeof words === 'string' ? words : JSON.stringify(words), MAX_QUOTE);
}

function oneLine(text: string, length: number): string {
  // Control characters must not reach a terminal.
  const line = text
    .slice(0, 2 * length)
    .replace(/[\s\p{Cc}]+/gu, ' ')
    .trim();
  return line.length > length ? `${line.slice(0, length - 3)}...` : line;
}
