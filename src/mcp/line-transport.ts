// Messages as lines on two streams. Unlike the SDK's own transport it goes on after what is no message, and says so to
// who sent it: a client that waits for the answer of a broken line would wait for its time-out.

import type { Readable, Writable } from 'node:stream';
import { type JSONRPCMessage, parseJSONRPCMessage, type Transport } from '@modelcontextprotocol/server';
import { JsonScan, parseMessage } from './incoming.ts';

const PARSE_ERROR = -32_700;
const INVALID_REQUEST = -32_600;

/** Bytes of a line. The largest real ones are continuation handles and batches of texts, a megabyte. */
export const MAX_LINE = 10 << 20;
const NEWLINE = 0x0a;
/** Bytes of the end of a line that is too long: where its id stands in what the SDKs write. */
const TAIL = 256;

const ID = String.raw`"id"\s*:\s*(\d{1,15}|"[^"\\]{1,100}")`;
const VERSION = String.raw`"jsonrpc"\s*:\s*"2\.0"`;
const ID_FIRST = new RegExp(String.raw`^\s*\{\s*(?:${VERSION}\s*,\s*)?${ID}\s*,`);
const ID_LAST = new RegExp(String.raw`,\s*(?:${VERSION}\s*,\s*${ID}|${ID}\s*,\s*${VERSION})\s*\}\s*$`);

export class LineTransport implements Transport {
  readonly #input: Readable;
  readonly #output: Writable;
  readonly #maxLine: number;
  #chunks: Buffer[] = [];
  #length = 0;
  #scan = new JsonScan();
  #problem: string | undefined;
  /** Of the line that is being skipped. */
  #skipped: { readonly head: Buffer; tail: Buffer } | undefined;
  #closed = false;
  onclose?: () => void;
  onerror?: (error: Error) => void;
  onmessage?: (message: JSONRPCMessage) => void;

  constructor(input: Readable, output: Writable, maxLine = MAX_LINE) {
    this.#input = input;
    this.#output = output;
    this.#maxLine = maxLine;
  }

  async start(): Promise<void> {
    this.#input.on('data', this.#take);
    this.#input.on('error', this.#report);
    this.#input.on('end', this.#end);
    this.#input.on('close', this.#end);
    this.#output.on('error', this.#end);
    if (this.#input.readableEnded || this.#input.destroyed) setImmediate(this.#end);
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.#input.off('data', this.#take);
    this.#input.off('end', this.#end);
    this.#input.off('close', this.#end);
    if (this.#input.listenerCount('data') === 0) this.#input.pause();
    this.#forget();
    this.onclose?.();
  }

  async send(message: JSONRPCMessage): Promise<void> {
    await this.#write(message);
  }

  #write(message: object): Promise<void> {
    if (this.#closed) return Promise.reject(new Error('the connection is closed'));
    return new Promise((resolve, reject) => {
      this.#output.write(`${JSON.stringify(message)}\n`, (error) => (error ? reject(error) : resolve()));
    });
  }

  readonly #end = () => void this.close();
  readonly #report = (error: Error) => this.onerror?.(error);

  readonly #take = (chunk: Buffer): void => {
    let start = 0;
    while (start < chunk.length && !this.#closed) {
      const newline = chunk.indexOf(NEWLINE, start);
      const end = newline < 0 ? chunk.length : newline;
      if (end > start) this.#append(chunk.subarray(start, end));
      if (newline < 0) break;
      this.#finish();
      start = newline + 1;
    }
  };

  #append(part: Buffer): void {
    if (this.#skipped !== undefined) {
      this.#skipped.tail = Buffer.concat([this.#skipped.tail, part]).subarray(-TAIL);
      return;
    }
    this.#length += part.length;
    this.#chunks.push(part);
    this.#problem ??= this.#scan.take(part);
    if (this.#length <= this.#maxLine && this.#problem === undefined) return;
    this.#problem ??= `the message has more than ${this.#maxLine} bytes`;
    const line = Buffer.concat(this.#chunks);
    this.#skipped = { head: Buffer.from(line.subarray(0, TAIL)), tail: Buffer.from(line.subarray(-TAIL)) };
    this.#chunks = [];
  }

  #finish(): void {
    const skipped = this.#skipped;
    const problem = this.#problem;
    const line = Buffer.concat(this.#chunks).toString('utf8').trim();
    this.#forget();
    if (skipped !== undefined) this.#refuse(INVALID_REQUEST, `Invalid Request: ${problem}`, idOf(skipped));
    else if (line !== '') this.#receive(line);
  }

  #forget(): void {
    this.#chunks = [];
    this.#length = 0;
    this.#scan = new JsonScan();
    this.#problem = undefined;
    this.#skipped = undefined;
  }

  #receive(line: string): void {
    let value: unknown;
    try {
      value = parseMessage(line);
    } catch {
      this.#refuse(PARSE_ERROR, 'Parse error: the line is not JSON; a message is one line', null);
      return;
    }
    let message: JSONRPCMessage;
    try {
      message = parseJSONRPCMessage(value);
    } catch {
      const what = Array.isArray(value)
        ? 'send one message a line, not a list of them'
        : 'it is not a JSON-RPC 2.0 message';
      this.#refuse(INVALID_REQUEST, `Invalid Request: ${what}`, givenId(value));
      return;
    }
    this.onmessage?.(message);
  }

  #refuse(code: number, message: string, id: string | number | null): void {
    this.onerror?.(new Error(message));
    this.#write({ jsonrpc: '2.0', id, error: { code, message } }).catch(this.#report);
  }
}

/** The id of a value that is no message, where it has one; an answer's id is not ours to use. */
function givenId(value: unknown): string | number | null {
  const { id, method } = (typeof value === 'object' && value !== null ? value : {}) as Record<string, unknown>;
  return method !== undefined && (typeof id === 'string' || Number.isSafeInteger(id)) ? (id as string | number) : null;
}

/** The id of a message of which only both ends are known, where the SDKs write it: first or last of its fields. */
function idOf({ head, tail }: { readonly head: Buffer; readonly tail: Buffer }): string | number | null {
  const found = ID_FIRST.exec(head.toString('latin1')) ?? ID_LAST.exec(tail.toString('latin1'));
  const text = found?.[1] ?? found?.[2];
  return text === undefined ? null : (JSON.parse(text) as string | number);
}
