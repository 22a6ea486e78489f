// Tensors read a few at a time: while threads of the system read the next ones, this one checks or repacks the last.

import { CancelledError } from '../errors.ts';

/** Two reads keep the system busy while a third result is worked on; each is memory beside the model. */
const WIDTH = 3;

type Waiting = { readonly start: () => void; readonly reject: (error: unknown) => void };

/**
 * Works are begun in the order in which they are given. After a failure none is begun, and all that are left reject
 * when those under way have ended, so that nobody closes a file in the middle of a read. They reject with the error of
 * the earliest work that failed: the one that would have been met one by one.
 */
export class FewAtOnce {
  readonly #signal: AbortSignal | undefined;
  #queue: Waiting[] = [];
  #refused: ((error: unknown) => void)[] = [];
  #running = 0;
  #begun = 0;
  #failure: { readonly order: number; readonly error: unknown } | undefined;

  constructor(signal: AbortSignal | undefined) {
    this.#signal = signal;
  }

  run<T>(work: () => Promise<T>): Promise<T> {
    const done = new Promise<T>((resolve, reject) => {
      this.#queue.push({ start: () => void this.#start(work, resolve, reject), reject });
    });
    // Whoever gave several works awaits them one after the other; the first rejection tells of all.
    done.catch(() => {});
    this.#pump();
    return done;
  }

  #pump(): void {
    while (this.#failure === undefined && this.#running < WIDTH && this.#queue.length > 0) {
      if (!this.#signal?.aborted) this.#queue.shift()!.start();
      else this.#failure = { order: this.#begun, error: new CancelledError('loading was cancelled') };
    }
    if (this.#failure === undefined || this.#running > 0) return;
    for (const reject of this.#refused) reject(this.#failure.error);
    for (const { reject } of this.#queue) reject(this.#failure.error);
    this.#refused = [];
    this.#queue = [];
  }

  async #start<T>(
    work: () => Promise<T>,
    resolve: (value: T) => void,
    reject: (error: unknown) => void,
  ): Promise<void> {
    const order = this.#begun;
    this.#begun += 1;
    this.#running += 1;
    try {
      resolve(await work());
    } catch (error) {
      if (this.#failure === undefined || order < this.#failure.order) this.#failure = { order, error };
      this.#refused.push(reject);
    }
    this.#running -= 1;
    this.#pump();
  }
}
