// JSON that comes from strangers.
//
// `JsonReader` reads headers piece by piece: it shows equal keys, integers above 2^53 and positions, where JSON.parse
// silently keeps the last, rounds, and says nothing. Nothing is built that the caller did not ask for.
//
// `parseJson` builds the value of a whole small file or answer, as Python's json module reads it: a byte order mark in
// front is passed over (which Python asks for by name), and NaN, Infinity and -Infinity, which it writes, are numbers.
//
// Nesting is bounded in both, so that no caller's walk over the value can run out of stack.

import { BitnetError } from '../errors.ts';
import { isLfsPointer, LFS_POINTER_FIX, LFS_POINTER_WHAT } from './lfs-pointer.ts';

/** Deepest nesting accepted, as in serde_json, which the reference reader uses; a real header needs 3, a chat's tools 20. */
const MAX_DEPTH = 128;

/** A text that should be JSON is not, or nests deeper than anybody writes by hand. */
export class JsonError extends BitnetError {
  readonly code = 'JSON';
  readonly fault = 'job';
}

export type JsonOrigin = {
  /** A file or an address, for messages. */
  readonly where: string;
  /** What to do about a text that is no JSON. */
  readonly fix?: string;
};

/**
 * The value of a JSON text: UTF-8 where it comes as bytes. Objects are plain, the last of two equal keys counts. Throws
 * JsonError, whose message has a bounded length and tells a Git LFS pointer, a web page and UTF-16 by their names.
 */
export function parseJson(source: string | Uint8Array, { where, fix = FETCH_AGAIN }: JsonOrigin): unknown {
  const text = typeof source === 'string' ? withoutMark(source) : decode(source, where, fix);
  const deep = firstTooDeep(text);
  if (deep >= 0) {
    throw new JsonError({ what: `JSON nested deeper than ${MAX_DEPTH}, ${placeOf(text, deep)}`, where, fix });
  }
  try {
    return JSON.parse(text) as unknown;
  } catch {
    // Said again by the reader below: the engine's own message quotes the text and differs from version to version.
  }
  const reader = new JsonReader(text);
  try {
    const value = reader.value();
    reader.end();
    return value;
  } catch (cause) {
    if (!(cause instanceof JsonSyntaxError)) throw cause;
    if (isLfsPointer(text)) throw new JsonError({ what: LFS_POINTER_WHAT, where, fix: LFS_POINTER_FIX }, { cause });
    const place = placeOf(text, cause.index);
    const page = /^\s*<(?:!doctype|html|\?xml)/i.test(text.slice(0, 200));
    const what = text.trim() === '' ? 'the text is empty, not JSON' : `not JSON: ${cause.message}, ${place}`;
    throw new JsonError({ what: page ? 'this is a web page, not JSON' : what, where, fix }, { cause });
  }
}

const FETCH_AGAIN = 'fetch the file again; it may be cut off';

function decode(bytes: Uint8Array, where: string, fix: string): string {
  const [first, second] = bytes;
  if ((first === 0xff && second === 0xfe) || (first === 0xfe && second === 0xff)) {
    throw new JsonError({ what: 'this is UTF-16, JSON is UTF-8', where, fix: 'save the file as UTF-8' });
  }
  try {
    // Passes over a byte order mark.
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch (cause) {
    const packed = first === 0x1f && second === 0x8b;
    const what = packed ? 'this is packed with gzip, not JSON' : 'not JSON: the bytes are not UTF-8';
    throw new JsonError({ what, where, fix: packed ? 'unpack the file' : fix }, { cause });
  }
}

function withoutMark(text: string): string {
  return text.charCodeAt(0) === 0xfeff ? text.slice(1) : text;
}

/** Index of the first bracket that opens a level too many; -1 for none. Brackets inside strings do not count. */
function firstTooDeep(text: string): number {
  let depth = 0;
  for (let at = 0; at < text.length; at++) {
    const unit = text.charCodeAt(at);
    if (unit === 0x22) at = endOfString(text, at);
    else if (unit === 0x7b || unit === 0x5b) {
      if (++depth > MAX_DEPTH) return at;
    } else if (unit === 0x7d || unit === 0x5d) depth--;
  }
  return -1;
}

/** Index of the quote that closes the string begun at `start`, or the end of the text. */
function endOfString(text: string, start: number): number {
  for (let at = start + 1; ; at++) {
    at = text.indexOf('"', at);
    if (at < 0) return text.length;
    let slashes = 0;
    while (text.charCodeAt(at - 1 - slashes) === 0x5c) slashes++;
    if (slashes % 2 === 0) return at;
  }
}

function placeOf(text: string, index: number): string {
  const before = text.slice(0, index);
  const line = before.split('\n').length;
  return `line ${line}, column ${index - before.lastIndexOf('\n')}`;
}

export class JsonSyntaxError extends Error {
  /** Index of the UTF-16 unit in the text. */
  readonly index: number;

  constructor(message: string, index: number) {
    super(message);
    this.name = 'JsonSyntaxError';
    this.index = index;
  }
}

const OWN = { writable: true, enumerable: true, configurable: true };

const WORDS: ReadonlyMap<string, unknown> = new Map<string, unknown>([
  ['true', true],
  ['false', false],
  ['null', null],
]);

export class JsonReader {
  readonly #text: string;
  #at = 0;
  #depth = 0;

  constructor(text: string) {
    this.#text = text;
  }

  /** Index of the next unread character. */
  get index(): number {
    return this.#at;
  }

  fail(message: string, index = this.#at): never {
    throw new JsonSyntaxError(message, index);
  }

  /** Calls `entry` for each key, which must consume the value. Keys come as often as they occur. */
  object(entry: (key: string, keyIndex: number) => void): void {
    this.#enter('{', 'an object');
    if (this.#next() === '}') this.#at++;
    else {
      for (;;) {
        this.#space();
        const keyIndex = this.#at;
        const key = this.string();
        this.#take(':');
        entry(key, keyIndex);
        if (this.#next() !== ',') break;
        this.#at++;
      }
      this.#take('}');
    }
    this.#depth--;
  }

  /** Calls `element` for each element, which must consume it. */
  array(element: () => void): void {
    this.#enter('[', 'an array');
    if (this.#next() === ']') this.#at++;
    else {
      for (;;) {
        element();
        if (this.#next() !== ',') break;
        this.#at++;
      }
      this.#take(']');
    }
    this.#depth--;
  }

  /** A string value, decoded; unpaired surrogates are refused because UTF-8 has none. */
  string(): string {
    this.#space();
    const start = this.#at;
    const value = this.#anyString();
    if (/\p{Surrogate}/u.test(value)) this.fail('half a surrogate pair inside a string', start);
    return value;
  }

  #anyString(): string {
    if (this.#next() !== '"') this.fail(`expected a string, found ${this.#found()}`);
    const start = this.#at + 1;
    let escaped = false;
    for (let at = start; ; at++) {
      const unit = this.#text.charCodeAt(at);
      if (unit === 0x22) {
        this.#at = at + 1;
        if (!escaped) return this.#text.slice(start, at);
        return this.#unescape(start - 1, at + 1);
      }
      if (unit === 0x5c) {
        escaped = true;
        at++;
      } else if (Number.isNaN(unit)) this.fail('a string is not closed', start - 1);
      else if (unit < 0x20) this.fail('a control character inside a string', at);
    }
  }

  #unescape(start: number, end: number): string {
    try {
      return JSON.parse(this.#text.slice(start, end)) as string;
    } catch {
      this.fail('a bad escape inside a string', start);
    }
  }

  /** A non-negative integer up to `max`, written without sign, fraction or exponent. */
  unsigned(max: number, what: string): number {
    this.#space();
    const digits = this.#match(/-?[0-9][0-9.eE+-]*/y);
    if (digits === undefined) this.fail(`expected ${what} as a non-negative integer, found ${this.#found()}`);
    if (!/^(0|[1-9][0-9]*)$/.test(digits)) {
      this.fail(`expected ${what} as a non-negative integer, found ${digits.slice(0, 40)}`, this.#at - digits.length);
    }
    const value = Number(digits);
    if (value > max) this.fail(`${what} ${digits.slice(0, 40)} is above the limit ${max}`, this.#at - digits.length);
    return value;
  }

  /** Consumes `null` when it comes next. */
  null(): boolean {
    this.#space();
    return this.#match(/null/y) !== undefined;
  }

  /** Any value, read and dropped. */
  skip(): void {
    switch (this.#next()) {
      case '{':
        this.object(() => this.skip());
        return;
      case '[':
        this.array(() => this.skip());
        return;
      case '"':
        this.string();
        return;
    }
    if (this.#match(/true|false|null|-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?/y) === undefined) {
      this.fail(`expected a value, found ${this.#found()}`);
    }
  }

  /** Any value, built. Numbers may be NaN, Infinity and -Infinity; of equal keys the last counts. */
  value(): unknown {
    switch (this.#next()) {
      case '{': {
        const object: Record<string, unknown> = {};
        this.object((key) => {
          const value = this.value();
          // An assignment to this key would set the prototype.
          if (key === '__proto__') Object.defineProperty(object, key, { value, ...OWN });
          else object[key] = value;
        });
        return object;
      }
      case '[': {
        const array: unknown[] = [];
        this.array(() => array.push(this.value()));
        return array;
      }
      case '"':
        // Halves of a pair pass, as in JSON.parse: the other half may come with the next event of a stream.
        return this.#anyString();
    }
    const word = this.#match(/true|false|null|-?(?:Infinity|(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)|NaN/y);
    if (word === undefined) this.fail(`expected a value, found ${this.#found()}`);
    return WORDS.has(word) ? WORDS.get(word) : Number(word);
  }

  /** Only white space may follow. */
  end(): void {
    this.#space();
    if (this.#at < this.#text.length) this.fail(`expected the end, found ${this.#found()}`);
  }

  #enter(open: string, what: string): void {
    if (this.#next() !== open) this.fail(`expected ${what}, found ${this.#found()}`);
    if (++this.#depth > MAX_DEPTH) this.fail(`nested deeper than ${MAX_DEPTH}`);
    this.#at++;
  }

  #take(mark: string): void {
    if (this.#next() !== mark) this.fail(`expected "${mark}", found ${this.#found()}`);
    this.#at++;
  }

  #next(): string {
    this.#space();
    return this.#text[this.#at] ?? '';
  }

  #space(): void {
    for (;;) {
      const unit = this.#text.charCodeAt(this.#at);
      if (unit !== 0x20 && unit !== 0x0a && unit !== 0x0d && unit !== 0x09) return;
      this.#at++;
    }
  }

  #match(pattern: RegExp): string | undefined {
    pattern.lastIndex = this.#at;
    const found = pattern.exec(this.#text)?.[0];
    if (found !== undefined) this.#at += found.length;
    return found;
  }

  #found(): string {
    const mark = this.#text[this.#at];
    if (mark === undefined) return 'the end';
    return mark < ' ' ? `the character U+${mark.charCodeAt(0).toString(16).padStart(4, '0')}` : JSON.stringify(mark);
  }
}
