// Recurrent states of sequences on the device: a piece of memory for each sequence that has run. Every step overwrites them, so a
// sequence has them only at its length; whoever wants to come back copies them in time. Where a sequence begins, kernels take
// zeros and do not look: a slot that comes back is not cleared.

import { KvCacheFullError } from '../gpu/kv-blocks.ts';
import type { Gpu } from './gpu.ts';

/** A sequence's states. */
export type StateSlot = {
  readonly address: number;
  /** Which of the two copies of its convolutions' states counts: a step reads one and writes the other. */
  copy: number;
};

export class StateSlots {
  /** Of a slot; 0 where the program has no states. */
  readonly bytes: number;
  readonly #gpu: Gpu;
  readonly #all: number[] = [];
  #free: number[] = [];

  constructor(gpu: Gpu, bytes: number) {
    this.#gpu = gpu;
    this.bytes = bytes;
  }

  take(): StateSlot {
    const known = this.#free.pop();
    if (known !== undefined) return { address: known, copy: 0 };
    const address = this.#gpu.allocate(this.bytes);
    if (address === undefined) {
      throw new KvCacheFullError({
        what: `the device has no memory for recurrent states of more than ${this.#all.length} sequences, ${this.bytes} bytes each`,
        fix: 'run fewer sequences at once',
      });
    }
    this.#all.push(address);
    return { address, copy: 0 };
  }

  copyOf({ address: from, copy }: StateSlot): StateSlot {
    const { address: to } = this.take();
    try {
      this.#gpu.copyPieces([{ to, from }], this.bytes);
    } catch (error) {
      this.give({ address: to, copy });
      throw error;
    }
    return { address: to, copy };
  }

  give({ address }: StateSlot): void {
    this.#free.push(address);
  }

  dispose(): void {
    for (const address of this.#all) this.#gpu.release(address);
    this.#all.length = 0;
    this.#free = [];
  }
}
