// What was sent on the streams of all sessions, so that a client whose connection broke can go on where it stood
// (Last-Event-ID of the 2025 protocol). One bound for all sessions: the oldest events go first, whoever they belong to.

import type { EventStore, JSONRPCMessage } from '@modelcontextprotocol/server';

const MAX_EVENTS = 20_000;
const MAX_CHARACTERS = 32 << 20;

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

  /** A session's part of the log; it sees no other's events. `clear` when the session ends. */
  store(): EventStore & { clear(): void } {
    const owner = new Set<number>();
    // Ids go out as text; one that is not ours is unknown, like one that was dropped.
    const find = (eventId: string): Event | undefined => {
      const event = this.#events.get(Number(eventId));
      return event?.owner === owner ? event : undefined;
    };
    return {
      storeEvent: async (streamId, message) => {
        const id = this.#nextId++;
        const { length } = JSON.stringify(message);
        this.#events.set(id, { owner, streamId, message, length });
        this.#characters += length;
        owner.add(id);
        while (this.#events.size > this.#maxEvents || this.#characters > this.#maxCharacters) {
          this.#drop(this.#events.keys().next().value!);
        }
        return String(id);
      },
      getStreamIdForEventId: async (eventId) => find(eventId)?.streamId,
      replayEventsAfter: async (lastEventId, { send }) => {
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
