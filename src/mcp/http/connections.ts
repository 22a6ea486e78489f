// What one connection may have of the server. Node hands over every request of a client that does not wait for answers
// (HTTP pipelining), and keeps every answer of one that does not read them: both would fill the memory.

import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';

/** Requests that wait for an earlier one of their connection, all connections together. */
const MAX_WAITING_REQUESTS = 8192;
/** Answers that are made and not yet read, all connections together. */
const MAX_UNREAD_BYTES = 64 << 20;
/** Whoever reads nothing of what waits for so long is cut off. */
const STALL_MS = 30_000;

type Exchange = { readonly req: IncomingMessage; readonly res: ServerResponse };
type Handler = (req: IncomingMessage, res: ServerResponse) => void;

/**
 * Begins a request when the one before it on its connection is answered. Their answers go out in that order anyway; and
 * Node tells nobody when the client of an answer that has not had its turn goes away.
 */
export class RequestLine {
  readonly #handle: Handler;
  /** The requests that wait at each connection on which one is being answered. */
  readonly #waiting = new Map<Socket, Exchange[]>();
  #count = 0;

  constructor(handle: Handler) {
    this.#handle = handle;
  }

  enter(req: IncomingMessage, res: ServerResponse): void {
    const { socket } = req;
    const line = this.#waiting.get(socket);
    if (line === undefined) {
      this.#waiting.set(socket, []);
      this.#begin({ req, res });
    } else if (this.#count >= MAX_WAITING_REQUESTS) {
      // A refusal would have to wait, too.
      socket.destroy();
    } else {
      this.#count += 1;
      line.push({ req, res });
    }
  }

  #begin({ req, res }: Exchange): void {
    const { socket } = req;
    res.once('close', () => {
      const line = this.#waiting.get(socket)!;
      if (socket.destroyed) {
        this.#count -= line.length;
        line.length = 0;
      }
      const next = line.shift();
      if (next === undefined) {
        this.#waiting.delete(socket);
      } else {
        this.#count -= 1;
        this.#begin(next);
      }
    });
    this.#handle(req, res);
  }
}

/**
 * Lets one piece of work of some milliseconds begin in each round of the event loop, in order of arrival: calls that are
 * answered at once wait for one of them at most, however many connections have some.
 */
export class Rounds {
  readonly #waiting: (() => void)[] = [];
  #isTaken = false;

  /** Resolves when the work may begin. */
  enter(): Promise<void> {
    if (!this.#isTaken) {
      this.#isTaken = true;
      setImmediate(this.#next);
      return Promise.resolve();
    }
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  readonly #next = (): void => {
    const go = this.#waiting.shift();
    if (go === undefined) {
      this.#isTaken = false;
      return;
    }
    setImmediate(this.#next);
    go();
  };
}

/** Cuts off clients that do not read their answers. */
export class UnreadLimit {
  readonly #maxBytes: number;
  readonly #stallMs: number;
  readonly #sockets = new Set<Socket>();
  /** Those with something unread, the one that has it longest first. */
  readonly #slow = new Set<Socket>();

  constructor(limits: { maxBytes?: number; stallMs?: number } = {}) {
    this.#maxBytes = limits.maxBytes ?? MAX_UNREAD_BYTES;
    this.#stallMs = limits.stallMs ?? STALL_MS;
  }

  add(socket: Socket): void {
    this.#sockets.add(socket);
    socket.once('close', () => {
      this.#sockets.delete(socket);
      this.#slow.delete(socket);
    });
  }

  /** To be called every second or so. */
  check(): void {
    let unread = 0;
    for (const socket of this.#sockets) {
      unread += socket.writableLength;
      if (socket.writableLength > 0 === this.#slow.has(socket)) continue;
      if (socket.writableLength > 0) {
        this.#slow.add(socket);
        // It sees a write that goes on, and Node's HTTP server ends a connection whose time is over.
        socket.setTimeout(this.#stallMs);
      } else {
        this.#slow.delete(socket);
        // Unless Node has set the time of an idle connection meanwhile.
        if (socket.timeout === this.#stallMs) socket.setTimeout(0);
      }
    }
    for (const socket of this.#slow) {
      if (unread <= this.#maxBytes) break;
      unread -= socket.writableLength;
      socket.destroy();
    }
  }
}
