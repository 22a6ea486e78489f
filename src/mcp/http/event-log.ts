// What was sent on the streams of all sessions, so that a client whose connection broke can go on where it stood
// (Last-Event-ID of the 2025 protocol). One bound for all sessions: the oldest events go first, whoever they belong to.

import type { EventStore, JSONRPCMessage } from '@modelcontextprotocol/server';

const MAX_EVENTS = 20_000;
const MAX_CHARACTERS = 32 << 20;

/** What the SDK calls the stream of a session's GET. */
const GET_STREAM = '_GET_stream';
/** The Last-Event-ID of a client that has heard nothing yet; real ids begin at 1. */
export const FROM_THE_BEGINNING = '0';

export type SessionEvents = EventStore & {
  /** Whether the session's GET is open. What the server says while it is not waits for the first that comes. */
  isListening: boolean;
  /** Whether something waits; a GET with FROM_THE_BEGINNING gets it. */
  readonly hasUnheard: boolean;
  /** The session has ended. */
  clear(): void;
};

type Event = {
  /** Ids of the session's events. */
  readonly owner: Set<number>;
  readonly streamId: string;
  readonly message: JSONRPCMessage;
  readonly length: number;
};

export class EventLog {
  readonly #maxEvents: number;
  readonly #maxCharacters: number;
  /** In the order of their ids. */
  readonly #events = new Map<number, Event>();
  #nextId = 1;
  #characters = 0;

  constructor(limits: { maxEvents?: number; maxCharacters?: number } = {}) {
    this.#maxEvents = limits.maxEvents ?? MAX_EVENTS;
    this.#maxCharacters = limits.maxCharacters ?? MAX_CHARACTERS;
  }

  get characters(): number {
    return this.#characters;
  }

  /** A session's part of the log; it sees no other's events. */
  store(): SessionEvents {
    const log = this;
    const owner = new Set<number>();
    const unheard = new Set<number>();
    // Ids go out as text; one that is not ours is unknown, like one that was dropped.
    const find = (eventId: string): Event | undefined => {
      const event = this.#events.get(Number(eventId));
      return event?.owner === owner ? event : undefined;
    };
    return {
      isListening: false,
      get hasUnheard() {
        return unheard.size > 0;
      },
      async storeEvent(streamId, message) {
        const id = log.#nextId++;
        const { length } = JSON.stringify(message);
        log.#events.set(id, { owner, streamId, message, length });
        log.#characters += length;
        owner.add(id);
        if (streamId === GET_STREAM && !this.isListening) unheard.add(id);
        while (log.#events.size > log.#maxEvents || log.#characters > log.#maxCharacters) {
          log.#drop(log.#events.keys().next().value!);
        }
        return String(id);
      },
      getStreamIdForEventId: async (eventId) => (eventId === FROM_THE_BEGINNING ? GET_STREAM : find(eventId)?.streamId),
      replayEventsAfter: async (lastEventId, { send }) => {
        if (lastEventId === FROM_THE_BEGINNING) {
          for (const id of unheard) {
            unheard.delete(id);
            const event = this.#events.get(id);
            if (event !== undefined) await send(String(id), event.message);
          }
          return GET_STREAM;
        }
        const event = find(lastEventId);
        if (event === undefined) throw new RangeError('the event is not known any more');
        const after = Number(lastEventId);
        for (const id of [...owner]) {
          const candidate = id > after ? this.#events.get(id) : undefined;
          if (candidate?.streamId === event.streamId) await send(String(id), candidate.message);
        }
        return event.streamId;
      },
      clear: () => {
        for (const id of owner) this.#drop(id);
      },
    };
  }

  #drop(id: number): void {
    const event = this.#events.get(id);
    if (event === undefined) return;
    this.#events.delete(id);
    event.owner.delete(id);
    this.#characters -= event.length;
  }
}
