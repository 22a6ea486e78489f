// Memory for tensors that are read only to be turned into something else: kept for the next one, so that a model costs a
// few of them and not one a tensor, each with page faults of its own.

import type { Allocate } from '../tensor/allocate.ts';

export class Scratch {
  readonly #idle: Uint8Array<ArrayBuffer>[] = [];

  /** `work` may take memory once, with anything in it, and must not keep it. */
  async lend<T>(work: (take: Allocate) => Promise<T>): Promise<T> {
    let taken: Uint8Array<ArrayBuffer> | undefined;
    try {
      return await work(async (bytes) => {
        const idle = this.#idle.pop();
        taken = idle !== undefined && idle.byteLength >= bytes ? idle : new Uint8Array(bytes);
        return taken.subarray(0, bytes);
      });
    } finally {
      if (taken !== undefined) this.#idle.push(taken);
    }
  }
}
