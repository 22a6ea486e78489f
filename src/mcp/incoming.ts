// Messages as they come in, on every wire: limited before they are parsed, and taken as they are meant where clients write
// what means the same in another way.

import { isAscii } from 'node:buffer';
import { cutText } from '../tools/cut-text.ts';
import { lostNumber } from '../tools/lost-number.ts';

/** Arguments of our tools nest 3 deep, JSON Schemas some 10. */
export const MAX_DEPTH = 64;
/** Values of a message. No tool takes more than 20,000; to parse these takes some 10 ms. */
export const MAX_VALUES = 50_000;

type Fields = Record<string, unknown>;

const QUOTE = 0x22;
const BACKSLASH = 0x5c;

/** A string of a text that is being scanned. */
export type ScannedString = {
  /** Called where its bytes begin, at `at` of the chunk. */
  readonly begin: (at: number) => void;
  /** After more of them, up to `at` of the chunk. */
  readonly goOn: (at: number) => void;
  /** Where they end: at the quote. */
  readonly end: (at: number) => void;
};

/** Counts brackets and commas outside of strings, chunk by chunk as they arrive. */
export class JsonScan {
  readonly #strings: ScannedString | undefined;
  #depth = 0;
  #values = 0;
  #inString = false;
  /** Whether the byte before the next one is a backslash that escapes it. */
  #escaped = false;

  constructor(strings?: ScannedString) {
    this.#strings = strings;
  }

  /** What is wrong with the text so far, if something is. */
  take(bytes: Buffer): string | undefined {
    const strings = this.#strings;
    for (let i = 0; i < bytes.length; i++) {
      if (this.#inString) {
        i = this.#endOfString(bytes, i);
        if (i === bytes.length) strings?.goOn(i);
        else strings?.end(i);
        continue;
      }
      const byte = bytes[i];
      if (byte === QUOTE) {
        this.#inString = true;
        strings?.begin(i + 1);
      } else if (byte === 0x2c) this.#values += 1;
      else if (byte === 0x7b || byte === 0x5b) {
        this.#values += 1;
        this.#depth += 1;
        if (this.#depth > MAX_DEPTH) return `the JSON nests deeper than ${MAX_DEPTH}`;
      } else if (byte === 0x7d || byte === 0x5d) this.#depth -= 1;
    }
    return this.#values > MAX_VALUES ? `the JSON has more than ${MAX_VALUES} values` : undefined;
  }

  /** Where the quote lies that ends the string in which `from` lies; `bytes.length` if in none of these. */
  #endOfString(bytes: Buffer, from: number): number {
    for (let start = from; ; ) {
      const quote = bytes.indexOf(QUOTE, start);
      const end = quote < 0 ? bytes.length : quote;
      let run = end;
      while (run > start && bytes[run - 1] === BACKSLASH) run -= 1;
      // A run that goes back to the start of the chunk may have its first one escaped.
      const carried = run === start && this.#escaped ? 1 : 0;
      this.#escaped = (end - run + carried) % 2 === 1;
      if (quote < 0) return end;
      if (!this.#escaped) {
        this.#inString = false;
        return end;
      }
      this.#escaped = false;
      start = end + 1;
    }
  }
}

/** Strings of more bytes than this give way when there is more text than is kept. */
const SHORT = 1024;
/** Of what is no such string, so much more. */
const SLACK = 64 << 10;

/** A body may come byte by byte, and each piece takes a hundred more: so many small ones are joined. */
const MANY_PIECES = 64;
const SMALL_PIECE = 8192;

/** The bytes of a JSON text as they arrive, scanned; without strings that go beyond `maxBytes` of them. */
export class IncomingText {
  readonly #maxBytes: number;
  readonly #scan: JsonScan;
  #pieces: Buffer[] = [];
  #length = 0;
  /** The last so many of them are small. */
  #small = 0;
  /** Of the chunk that is being taken: from where on it is still to be kept. */
  #from = 0;
  #chunk: Buffer = Buffer.alloc(0);
  /** Where the string that is being read begins, among all that is kept. */
  #stringAt = 0;
  /** Bytes of it so far, where it is not kept. */
  #skipped: number | undefined;
  #cuts = 0;

  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
    this.#scan = new JsonScan({
      begin: (at) => {
        this.#stringAt = this.#length + at - this.#from;
      },
      goOn: this.#goOn,
      end: (at) => {
        this.#goOn(at);
        if (this.#skipped === undefined) return;
        this.#keep(Buffer.from(cutText(this.#skipped)));
        this.#skipped = undefined;
        this.#cuts += 1;
      },
    });
  }

  /** Bytes that are held. */
  get length(): number {
    return this.#length;
  }

  /** Strings that were cut; in the place of each stands `cutText`. */
  get cuts(): number {
    return this.#cuts;
  }

  /** What is wrong with the text so far, if something is. */
  take(chunk: Buffer): string | undefined {
    this.#chunk = chunk;
    this.#from = 0;
    const problem = this.#scan.take(chunk);
    if (this.#skipped === undefined) this.#keep(chunk.subarray(this.#from));
    if (problem !== undefined || this.#length <= this.#maxBytes + SLACK) return problem;
    return `the JSON has more than ${this.#maxBytes} bytes beside long texts`;
  }

  /** All that is kept. `scratch`, for texts in several pieces, holds `maxBytes` and what may be more; what was in it is lost. */
  text(scratch: () => Buffer): string {
    const [first] = this.#pieces;
    if (first === undefined) return '';
    if (this.#pieces.length === 1) return textOf(first);
    const whole = scratch();
    let at = 0;
    for (const piece of this.#pieces) at += piece.copy(whole, at);
    return textOf(whole.subarray(0, at));
  }

  readonly #goOn = (at: number): void => {
    if (this.#skipped !== undefined) {
      this.#skipped += at - this.#from;
      this.#from = at;
      return;
    }
    const length = this.#length + at - this.#from;
    if (length <= this.#maxBytes || length - this.#stringAt <= SHORT) return;
    this.#skipped = length - this.#stringAt;
    // A part of the chunk from before the string is kept, and what was kept of the string is not.
    const before = this.#stringAt - this.#length;
    if (before >= 0) this.#keep(this.#chunk.subarray(this.#from, this.#from + before));
    else this.#shorten(this.#stringAt);
    this.#from = at;
  };

  #keep(piece: Buffer): void {
    if (piece.length === 0) return;
    this.#pieces.push(piece);
    this.#length += piece.length;
    this.#small = piece.length < SMALL_PIECE ? this.#small + 1 : 0;
    if (this.#small < MANY_PIECES) return;
    const joined = Buffer.concat(this.#pieces.splice(-MANY_PIECES));
    this.#pieces.push(joined);
    this.#small = joined.length < SMALL_PIECE ? 1 : 0;
  }

  #shorten(length: number): void {
    this.#small = 0;
    while (this.#length > length) {
      const last = this.#pieces.pop()!;
      this.#length -= last.length;
      if (this.#length < length) this.#keep(last.subarray(0, length - this.#length));
    }
  }
}

/** Bytes that an `IncomingText` of `maxBytes` may hold at its end. */
export function mostBytes(maxBytes: number): number {
  return maxBytes + SLACK;
}

/** ASCII needs no decoding: for a megabyte that saves a copy. */
function textOf(bytes: Buffer): string {
  return bytes.toString(isAscii(bytes) ? 'latin1' : 'utf8');
}

/** Throws SyntaxError for what is no JSON. */
export function parseMessage(text: string): unknown {
  const message: unknown = JSON.parse(text);
  if (isObject(message)) {
    takeParams(message);
    keepNumbers(message, text);
  }
  return message;
}

/** Null for what is left out; arguments that are null, an empty list, or an object as text. */
function takeParams(message: Fields): void {
  if (message.params === null) delete message.params;
  const { method, params } = message;
  if (!isObject(params)) return;
  if (params._meta === null) delete params._meta;
  if (method !== 'tools/call' && method !== 'prompts/get') return;
  const { arguments: args } = params;
  if (args === null || (Array.isArray(args) && args.length === 0)) delete params.arguments;
  if (typeof args !== 'string' || !/^\s*\{/.test(args) || args.length > MAX_ARGUMENTS_TEXT) return;
  try {
    params.arguments = JSON.parse(args);
  } catch {
    // Refused as it is.
  }
}

const MAX_ARGUMENTS_TEXT = 1 << 18;

/** Longer texts with a number that JavaScript cannot hold are looked at no further. */
const MAX_KEPT_TEXT = 1 << 18;
const SUSPECT = /\d{16}|\d[eE]\+?\d{3}/;
const STRING_OR_NUMBER = /"[^"\\]*(?:\\.[^"\\]*)*"|-?\d[\d.eE+-]*/g;

/** Puts the text of such numbers in their place among a tool's arguments: see tools/lost-number.ts. */
function keepNumbers({ method, params }: Fields, text: string): void {
  if (method !== 'tools/call' || !isObject(params) || !isObject(params.arguments)) return;
  if (text.length > MAX_KEPT_TEXT || !SUSPECT.test(text)) return;
  const kept = text.replace(STRING_OR_NUMBER, (token) => {
    const lost = token.startsWith('"') ? undefined : lostNumber(token);
    return lost === undefined ? token : JSON.stringify(lost);
  });
  const again = JSON.parse(kept) as { readonly params: { readonly arguments?: unknown } };
  if (isObject(again.params.arguments)) params.arguments = again.params.arguments;
}

function isObject(value: unknown): value is Fields {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
