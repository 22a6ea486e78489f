// Request bodies: limited in size, in what all of them together hold, and in depth, before anything is parsed.

import type { IncomingMessage } from 'node:http';
import { INVALID_REQUEST, PARSE_ERROR, Refusal } from './answers.ts';

/** The SDK's own limit. The largest real bodies are continuation handles, at most 1 MiB. */
const MAX_BODY_BYTES = 4 << 20;
/** Bodies that are being received, all connections together. */
const MAX_PENDING_BYTES = 64 << 20;
/** Arguments of our tools nest 3 deep, JSON Schemas some 10. */
const MAX_DEPTH = 64;

const CLOSE = { connection: 'close' };

export class BodyReader {
  #pending = 0;

  /** The parsed body. Throws Refusal; a client that goes away in the middle, too. */
  async read(req: IncomingMessage): Promise<unknown> {
    const declared = Number(req.headers['content-length'] ?? 0);
    if (declared > MAX_BODY_BYTES) throw tooLarge();
    const chunks: Buffer[] = [];
    let size = 0;
    try {
      for await (const chunk of req as AsyncIterable<Buffer>) {
        size += chunk.length;
        this.#pending += chunk.length;
        if (size > MAX_BODY_BYTES) throw tooLarge();
        if (this.#pending > MAX_PENDING_BYTES) {
          throw new Refusal(503, 'too many large requests at once', { headers: { 'retry-after': '1', ...CLOSE } });
        }
        chunks.push(chunk);
      }
    } catch (error) {
      if (error instanceof Refusal) throw error;
      throw new Refusal(400, 'the request body ended early', { code: PARSE_ERROR, headers: CLOSE });
    } finally {
      this.#pending -= size;
    }
    return parse(chunks.length === 1 ? chunks[0]! : Buffer.concat(chunks, size));
  }
}

function tooLarge(): Refusal {
  // The connection is closed: the rest of the body is not worth receiving.
  return new Refusal(413, `the request body is above ${MAX_BODY_BYTES} bytes`, { headers: CLOSE });
}

function parse(bytes: Buffer): unknown {
  if (isDeeperThan(bytes, MAX_DEPTH)) {
    throw new Refusal(400, `the JSON nests deeper than ${MAX_DEPTH}`, { code: INVALID_REQUEST });
  }
  try {
    return JSON.parse(bytes.toString('utf8')) as unknown;
  } catch {
    throw new Refusal(400, 'Parse error: the request body is not JSON', { code: PARSE_ERROR });
  }
}

/** Counts brackets outside of strings; a parser that recurses would have spent its stack by then. */
function isDeeperThan(json: Buffer, limit: number): boolean {
  let depth = 0;
  let inString = false;
  for (let i = 0; i < json.length; i++) {
    const byte = json[i];
    if (inString) {
      if (byte === 0x5c) i += 1;
      else if (byte === 0x22) inString = false;
    } else if (byte === 0x22) inString = true;
    else if (byte === 0x7b || byte === 0x5b) {
      depth += 1;
      if (depth > limit) return true;
    } else if (byte === 0x7d || byte === 0x5d) depth -= 1;
  }
  return false;
}
