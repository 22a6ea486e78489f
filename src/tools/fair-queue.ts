// A semaphore whose queue is fair: whoever waits is served in turns by client, so that one client with a hundred
// requests does not keep another with one waiting behind all of them. Nor does it keep others out when the queue is full:
// the last of whom most wait gives way.

import { BitnetError, CancelledError } from '../errors.ts';

export type FairQueueOptions = {
  /** Pieces of work that run at once. */
  readonly slots: number;
  /** Of these, how many one client may have; all by default. With fewer, a slot is left for who comes next. */
  readonly slotsPerClient?: number;
  /** Further pieces that run when those are taken, each the only one of its client; none by default. */
  readonly guestSlots?: number;
  /** Pieces of work that may wait; of more, one is refused at once. */
  readonly maxWaiting: number;
};

export type EnterOptions = {
  /** Leaves the queue when it fires. */
  readonly signal?: AbortSignal | undefined;
  /** Called with how many are before this one, at first and whenever that changes; not when it may run at once. */
  readonly onPosition?: ((position: number) => void) | undefined;
};

/** The queue is full. */
export class BusyError extends BitnetError {
  readonly code = 'BUSY';
  readonly fault = 'job';
}

type Waiter = {
  readonly go: () => void;
  readonly refuse: (error: BitnetError) => void;
  readonly onPosition: EnterOptions['onPosition'];
  position: number;
};

export class FairQueue {
  readonly #options: FairQueueOptions;
  /** Clients that wait, the next one first; each with its waiters in order of arrival. */
  readonly #clients = new Map<string, Waiter[]>();
  /** Clients with work that runs, and how much. */
  readonly #runningOf = new Map<string, number>();
  #running = 0;
  #waiting = 0;

  constructor(options: FairQueueOptions) {
    this.#options = options;
  }

  get running(): number {
    return this.#running;
  }

  get waiting(): number {
    return this.#waiting;
  }

  /**
   * Resolves when the caller may work, with what it must call once when done. Throws BusyError when the queue is full,
   * or becomes so later by calls of clients of whom fewer wait; and CancelledError when the signal fires first.
   */
  async enter(client: string, { signal, onPosition }: EnterOptions = {}): Promise<() => void> {
    if (signal?.aborted) throw new CancelledError('cancelled before it ran');
    if (this.#mayRun(client)) return this.#begin(client);
    if (this.#waiting >= this.#options.maxWaiting) {
      const busy = new BusyError({
        what: `the server is busy: ${this.#running} such calls run and ${this.#waiting} wait`,
        fix: 'try again in half a minute',
      });
      if (!this.#makeRoom(client, busy)) throw busy;
    }
    return await new Promise((resolve, reject) => {
      const refuse = (error: BitnetError) => {
        signal?.removeEventListener('abort', leave);
        this.#remove(client, waiter);
        reject(error);
      };
      const leave = () => refuse(new CancelledError('cancelled while it waited for its turn'));
      const waiter: Waiter = {
        go: () => {
          signal?.removeEventListener('abort', leave);
          resolve(this.#begin(client));
        },
        refuse,
        onPosition,
        position: -1,
      };
      signal?.addEventListener('abort', leave, { once: true });
      const mine = this.#clients.get(client);
      if (mine === undefined) this.#clients.set(client, [waiter]);
      else mine.push(waiter);
      this.#waiting += 1;
      this.#tellPositions();
    });
  }

  #mayRun(client: string): boolean {
    const { slots, slotsPerClient = slots, guestSlots = 0 } = this.#options;
    const own = this.#runningOf.get(client) ?? 0;
    if (own === 0) return this.#running < slots + guestSlots;
    return own < slotsPerClient && this.#running < slots;
  }

  /** Takes a slot; returns what gives it back. */
  #begin(client: string): () => void {
    this.#running += 1;
    this.#runningOf.set(client, (this.#runningOf.get(client) ?? 0) + 1);
    let left = false;
    return () => {
      if (left) return;
      left = true;
      this.#running -= 1;
      const others = this.#runningOf.get(client)! - 1;
      if (others > 0) this.#runningOf.set(client, others);
      else this.#runningOf.delete(client);
      // In the same breath: nobody who comes now can take the slot before those who wait.
      // More than one may: a client's last place is free for it and for others.
      for (let next = this.#next(); next !== undefined; next = this.#next()) next.go();
    };
  }

  #next(): Waiter | undefined {
    for (const [client, waiters] of this.#clients) {
      if (!this.#mayRun(client)) continue;
      const waiter = waiters.shift()!;
      // To the end of the round.
      this.#clients.delete(client);
      if (waiters.length > 0) this.#clients.set(client, waiters);
      this.#waiting -= 1;
      this.#tellPositions();
      return waiter;
    }
    return undefined;
  }

  /** Refuses the last of the client of whom most wait, unless no more of it wait than of this client would. */
  #makeRoom(client: string, busy: BusyError): boolean {
    let most: readonly Waiter[] = [];
    for (const waiters of this.#clients.values()) if (waiters.length > most.length) most = waiters;
    const own = this.#clients.get(client)?.length ?? 0;
    if (most.length <= own + 1) return false;
    most.at(-1)!.refuse(busy);
    return true;
  }

  #remove(client: string, waiter: Waiter): void {
    const waiters = this.#clients.get(client);
    const at = waiters?.indexOf(waiter) ?? -1;
    if (waiters === undefined || at < 0) return;
    waiters.splice(at, 1);
    if (waiters.length === 0) this.#clients.delete(client);
    this.#waiting -= 1;
    this.#tellPositions();
  }

  /** Round by round: the first of every client, then the second of every client. */
  #tellPositions(): void {
    const queues = [...this.#clients.values()];
    let position = 0;
    for (let round = 0; position < this.#waiting; round++) {
      for (const waiters of queues) {
        const waiter = waiters[round];
        if (waiter === undefined) continue;
        if (waiter.position !== position) {
          waiter.position = position;
          waiter.onPosition?.(position);
        }
        position += 1;
      }
    }
  }
}
