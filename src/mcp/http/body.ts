// Request bodies: limited in size, in what all of them together hold, and in depth, before anything is parsed.

import type { IncomingMessage } from 'node:http';
import { StringDecoder } from 'node:string_decoder';
import { JsonScan, parseMessage } from '../incoming.ts';
import { INVALID_REQUEST, PARSE_ERROR, Refusal } from './answers.ts';
import { Rounds } from './connections.ts';

/** The SDK's own limit. The largest real bodies are continuation handles, at most 1 MiB. */
const MAX_BODY_BYTES = 4 << 20;
/** Bodies that are being received, all connections together. */
const MAX_PENDING_BYTES = 64 << 20;

const CLOSE = { connection: 'close' };

/** To parse more takes milliseconds. */
const LARGE_BYTES = 64 << 10;

export class BodyReader {
  readonly #rounds: Rounds;
  #pending = 0;

  constructor(rounds = new Rounds()) {
    this.#rounds = rounds;
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
    // Decoded as it arrives: whole, every copy of some megabytes would hold up the others for milliseconds.
    const decoder = new StringDecoder('utf8');
    let text = '';
    let size = 0;
    const scan = new JsonScan();
    try {
      for await (const chunk of req as AsyncIterable<Buffer>) {
        size += chunk.length;
        this.#pending += chunk.length;
        if (size > MAX_BODY_BYTES) throw tooLarge();
        if (this.#pending > MAX_PENDING_BYTES) {
          throw new Refusal(503, 'too many large requests at once', { headers: { 'retry-after': '1', ...CLOSE } });
        }
        // As it arrives: at the end it would take a moment in which nobody else is served.
        const problem = scan.take(chunk);
        if (problem !== undefined) throw new Refusal(400, problem, { code: INVALID_REQUEST, headers: CLOSE });
        text += decoder.write(chunk);
      }
      // While it waits, it counts.
      if (size > LARGE_BYTES) await this.#rounds.enter();
    } catch (error) {
      if (error instanceof Refusal) throw error;
      throw new Refusal(400, 'the request body ended early', { code: PARSE_ERROR, headers: CLOSE });
    } finally {
      this.#pending -= size;
    }
    return parse(text + decoder.end());
  }
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
