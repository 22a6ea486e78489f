// The objects in an answer's body. What it is, its first characters tell: many servers name another content type, or
// none. A body of `data:` lines is a stream of events; one that begins with a bracket is JSON, one object or one a line.

import { JsonError, parseJson } from '../../formats/strict-json.ts';
import { isJson } from '../json-in.ts';
import { OpenAiResponseError, OpenAiStreamError } from './errors.ts';
import { readEvents, readLines, StreamLimitError } from './event-stream.ts';
import { errorWords, oneLine, wordsOf } from './words.ts';

/** One event: a token with 20 alternatives has about 3 KB, a whole answer of a server that does not stream some 100 KB. */
export const MAX_EVENT = 4 << 20;
/** A whole stream: 100,000 tokens with their log-probabilities have about 50 MB. */
const MAX_STREAM = 256 << 20;
/** Characters that are enough to tell what a body is, and white space before them that is borne. */
const ENOUGH = 64;
const MAX_SPACE = 1 << 16;

/** The fields of server-sent events, and a comment; `error` is not in the standard. */
const STREAM = /^(data|event|id|retry|error)?:/;

/** What `readAnswers` gives last when the server has said that its answer is complete. */
export const END_OF_ANSWER = Symbol('end of answer');

export type AnswerOrigin = {
  /** The content type without its parameters; perhaps empty, perhaps wrong. */
  readonly type: string;
  /** For messages. */
  readonly url: string;
  /** What of a server's words may be shown. */
  readonly shown?: (words: string) => string;
};

type Origin = Required<Omit<AnswerOrigin, 'type'>>;

/**
 * The JSON objects of an answer as they arrive: the chunks of a stream, or the one object of a server that does not
 * stream, then END_OF_ANSWER; a stream that just ends lacks it. Throws OpenAiResponseError for what the server says of an
 * error, OpenAiStreamError for what is no answer.
 */
export async function* readAnswers(
  body: AsyncIterable<Uint8Array>,
  { type, url, shown = (words) => words }: AnswerOrigin,
): AsyncGenerator<unknown> {
  const from = { url, shown };
  const { start, all } = await peek(body);
  if (STREAM.test(start) || (type === 'text/event-stream' && !/^[[{<]/.test(start))) {
    yield* fromEvents(all, from);
    return;
  }
  if (/^[[{]/.test(start)) {
    yield* fromJson(all, from);
    return;
  }
  if (start === '' && type !== 'text/html') return;
  const page = start.startsWith('<') ? 'a web page' : JSON.stringify(oneLine(start, ENOUGH));
  throw notTheApi(
    ['', 'text/plain', 'text/event-stream'].includes(type)
      ? page
      : `the content type ${JSON.stringify(type.slice(0, 80))}`,
    url,
  );
}

/** The first characters behind white space, and all of the body. */
async function peek(body: AsyncIterable<Uint8Array>): Promise<{ start: string; all: AsyncIterable<Uint8Array> }> {
  const parts = body[Symbol.asyncIterator]();
  const read: Uint8Array[] = [];
  // Passes over a byte order mark.
  const decoder = new TextDecoder();
  let start = '';
  let length = 0;
  // A stream's first event may be all there is for minutes.
  while (start.length < ENOUGH && length < MAX_SPACE && !/^[[{<]/.test(start) && !STREAM.test(start)) {
    const next = await parts.next();
    if (next.done === true) {
      start = (start + decoder.decode()).trimStart();
      break;
    }
    read.push(next.value);
    length += next.value.byteLength;
    start = (start + decoder.decode(next.value, { stream: true })).trimStart();
  }
  async function* all(): AsyncGenerator<Uint8Array> {
    try {
      yield* read;
      for (let next = await parts.next(); next.done !== true; next = await parts.next()) yield next.value;
    } finally {
      await parts.return?.();
    }
  }
  return { start: start.slice(0, ENOUGH), all: all() };
}

async function* fromEvents(body: AsyncIterable<Uint8Array>, from: Origin): AsyncGenerator<unknown> {
  const limits = { eventLength: MAX_EVENT, totalBytes: MAX_STREAM };
  for await (const { type, data } of readEvents(body, limits)) {
    const text = data.trim();
    if (text === '') continue;
    if (/^\[done\]$/i.test(text)) {
      yield END_OF_ANSWER;
      return;
    }
    if (type === 'error') throw brokenOff(isAnswer(text) ? wordsOf(parse(text, from.url)) : wordsOf(text), from);
    yield withoutError(parse(text, from.url), from);
  }
}

/** One object a line, or one over many lines, which the first line tells. */
async function* fromJson(body: AsyncIterable<Uint8Array>, from: Origin): AsyncGenerator<unknown> {
  const whole: string[] = [];
  let length = 0;
  let count = 0;
  for await (const line of readLines(body, { eventLength: MAX_EVENT, totalBytes: MAX_STREAM })) {
    const text = line.trim();
    if (text === '') continue;
    if (whole.length > 0 || (count === 0 && !isAnswer(text))) {
      length += text.length + 1;
      if (length > MAX_EVENT) throw new StreamLimitError(`an object exceeds ${MAX_EVENT} characters`);
      whole.push(text);
      continue;
    }
    if (/^\[done\]$/i.test(text)) {
      yield END_OF_ANSWER;
      return;
    }
    count += 1;
    yield withoutError(parse(text, from.url), from);
  }
  if (whole.length > 0) yield withoutError(parse(whole.join('\n'), from.url), from);
  // Of a stream of objects nobody has said that it is whole.
  if (count <= 1) yield END_OF_ANSWER;
}

/** As `parse` reads. */
const isAnswer = (text: string) => isJson(text, (json) => parseJson(json, { where: '' }));

/** Throws OpenAiStreamError for what is not JSON, or nests too deep. */
export function parse(text: string, url: string): unknown {
  try {
    return parseJson(text, { where: url });
  } catch (error) {
    if (!(error instanceof JsonError)) throw error;
    const deep = error.text.what.includes('nested');
    throw notTheApi(deep ? error.text.what : `${JSON.stringify(oneLine(text, 60))}, which is not JSON`, url);
  }
}

/** The object itself, unless it tells of an error. */
function withoutError(object: unknown, from: Origin): unknown {
  const words = errorWords(object);
  if (words !== undefined) throw brokenOff(words, from);
  if (typeof object === 'string' && object.trim() !== '') throw brokenOff(wordsOf(object), from);
  if (typeof object !== 'object' || object === null || Array.isArray(object)) {
    throw notTheApi(`${oneLine(JSON.stringify(object) ?? '', 60)}, which is no object`, from.url);
  }
  return object;
}

function brokenOff(words: string, { url, shown }: Origin): OpenAiResponseError {
  return new OpenAiResponseError({ status: 0, url, message: shown(words) });
}

export function notTheApi(what: string, url: string): OpenAiStreamError {
  return new OpenAiStreamError({
    what: `the server does not answer as OpenAI's API does: it sent ${what}`,
    where: url,
    fix: 'check BITNET_OPENAI_BASE_URL (in most cases it ends in /v1)',
  });
}
