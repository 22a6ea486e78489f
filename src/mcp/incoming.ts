// Messages as they come in, on every wire: limited before they are parsed, and taken as they are meant where clients write
// what means the same in another way.

import { lostNumber } from '../tools/lost-number.ts';

/** Arguments of our tools nest 3 deep, JSON Schemas some 10. */
export const MAX_DEPTH = 64;
/** Values of a message. No tool takes more than 20,000; to parse these takes some 10 ms. */
export const MAX_VALUES = 50_000;

type Fields = Record<string, unknown>;

/** Counts brackets and commas outside of strings, chunk by chunk as they arrive. */
export class JsonScan {
  #depth = 0;
  #values = 0;
  #inString = false;
  #escaped = false;

  /** What is wrong with the text so far, if something is. */
  take(bytes: Uint8Array): string | undefined {
    for (let i = 0; i < bytes.length; i++) {
      const byte = bytes[i];
      if (this.#inString) {
        if (this.#escaped) this.#escaped = false;
        else if (byte === 0x5c) this.#escaped = true;
        else if (byte === 0x22) this.#inString = false;
      } else if (byte === 0x22) this.#inString = true;
      else if (byte === 0x2c) this.#values += 1;
      else if (byte === 0x7b || byte === 0x5b) {
        this.#values += 1;
        this.#depth += 1;
        if (this.#depth > MAX_DEPTH) return `the JSON nests deeper than ${MAX_DEPTH}`;
      } else if (byte === 0x7d || byte === 0x5d) this.#depth -= 1;
    }
    return this.#values > MAX_VALUES ? `the JSON has more than ${MAX_VALUES} values` : undefined;
  }
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
