// Request bodies: limited in size, in what all of them together hold, and in depth, before anything is parsed.

import type { IncomingMessage } from 'node:http';
import { textIn } from '../../tools/cut-text.ts';
import { IncomingText, mostBytes, parseMessage } from '../incoming.ts';
import { INVALID_REQUEST, PARSE_ERROR, Refusal } from './answers.ts';
import { Rounds } from './connections.ts';

/** The SDK's own limit. */
const MAX_BODY_BYTES = 4 << 20;
/**
 * Of a body, what is kept. The largest real ones are continuation handles, at most 1 MiB, and no call takes more
 * characters: longer texts are skipped, and the call is told so. Each megabyte that is made a text, parsed and sent on
 * costs milliseconds in one go, during which nobody is served.
 */
const MAX_KEPT_BYTES = 3 << 19;
/** What is held of bodies that are being received, all connections together. */
const MAX_PENDING_BYTES = 32 << 20;

const CLOSE = { connection: 'close' };

/** To parse more takes milliseconds. */
const LARGE_BYTES = 64 << 10;

export class BodyReader {
  readonly #rounds: Rounds;
  #pending = 0;
  #scratch: Buffer | undefined;

  constructor(rounds = new Rounds()) {
    this.#rounds = rounds;
  }

  /** Bytes that are held of bodies that are being received. */
  get pending(): number {
    return this.#pending;
  }

  /** The parsed body. Throws Refusal; a client that goes away in the middle, too. */
  async read(req: IncomingMessage): Promise<unknown> {
    const encoding = req.headers['content-encoding']?.trim().toLowerCase() ?? '';
    if (encoding !== '' && encoding !== 'identity') {
      throw new Refusal(
        415,
        `Unsupported Media Type: send the body as it is, not in Content-Encoding ${cut(encoding)}`,
        {
          headers: { 'accept-encoding': 'identity', ...CLOSE },
        },
      );
    }
    const declared = Number(req.headers['content-length'] ?? 0);
    if (declared > MAX_BODY_BYTES) throw tooLarge();
    const text = new IncomingText(MAX_KEPT_BYTES);
    let size = 0;
    let held = 0;
    try {
      for await (const chunk of req as AsyncIterable<Buffer>) {
        size += chunk.length;
        if (size > MAX_BODY_BYTES) throw tooLarge();
        // As it arrives: at the end it would take a moment in which nobody else is served.
        const problem = text.take(chunk);
        this.#pending += text.length - held;
        held = text.length;
        if (problem !== undefined) throw new Refusal(400, problem, { code: INVALID_REQUEST, headers: CLOSE });
        // Whoever sends little is not to wait for those who send much.
        if (this.#pending > MAX_PENDING_BYTES && size > LARGE_BYTES) {
          throw new Refusal(503, 'too many large requests at once', { headers: { 'retry-after': '1', ...CLOSE } });
        }
      }
      // While it waits, it counts.
      if (held > LARGE_BYTES) await this.#rounds.enter();
    } catch (error) {
      if (error instanceof Refusal) throw error;
      throw new Refusal(400, 'the request body ended early', { code: PARSE_ERROR, headers: CLOSE });
    } finally {
      this.#pending -= held;
    }
    const message = parse(text.text(() => this.#room()));
    if (text.cuts > 0 && !hasAll(message, text.cuts)) {
      throw new Refusal(413, `the request has a text that goes beyond ${MAX_KEPT_BYTES} bytes`);
    }
    return message;
  }

  /** Kept, since the system takes milliseconds to find memory for a megabyte. */
  #room(): Buffer {
    this.#scratch ??= Buffer.allocUnsafeSlow(mostBytes(MAX_KEPT_BYTES));
    return this.#scratch;
  }
}

/** Whether the texts that were cut are all among a tool's arguments, which callTool looks at. */
function hasAll(message: unknown, cuts: number): boolean {
  const { method, params } = (message ?? {}) as { method?: unknown; params?: { arguments?: unknown } | null };
  const args = params?.arguments;
  return method === 'tools/call' && typeof args === 'object' && textIn(args).cut.length === cuts;
}

function cut(text: string): string {
  return JSON.stringify(text.length > 40 ? `${text.slice(0, 40)}...` : text);
}

function tooLarge(): Refusal {
  // The connection is closed: the rest of the body is not worth receiving.
  return new Refusal(413, `the request body is above ${MAX_BODY_BYTES} bytes`, { headers: CLOSE });
}

function parse(text: string): unknown {
  try {
    return parseMessage(text);
  } catch {
    throw new Refusal(400, 'Parse error: the request body is not JSON', { code: PARSE_ERROR });
  }
}
