// The KV cache of all sequences in blocks of 64 positions, wherever a device keeps them: a block is named by its address.
// More blocks are more memory beside the old; nothing moves when the cache grows.

import { BitnetError } from '../../errors.ts';

/** Positions of a block: attention's blocks are the cache's. */
export const BLOCK_POSITIONS = 64;

const FIRST_BLOCKS = 4;
/** New blocks at a time, as a share of those there are. */
const GROWTH = 0.5;

/** No more positions fit in the cache. */
export class KvCacheFullError extends BitnetError {
  readonly code = 'KV_CACHE_FULL';
  readonly fault = 'job';
}

export type BlockMemory = {
  /** Address of new memory; undefined where there is none. */
  allocate(bytes: number): number | undefined;
  release(address: number): void;
};

export class KvBlocks {
  readonly blockBytes: number;
  readonly #memory: BlockMemory;
  readonly #slabs: number[] = [];
  #all = 0;
  #free: number[] = [];

  constructor(memory: BlockMemory, blockBytes: number) {
    this.#memory = memory;
    this.blockBytes = blockBytes;
  }

  /** Extends `blocks` (addresses) to hold `positions`: all of it or, with `KvCacheFullError`, nothing. */
  reserve(blocks: number[], positions: number): void {
    const added = Math.ceil(positions / BLOCK_POSITIONS) - blocks.length;
    if (added <= 0) return;
    if (added > this.#free.length) this.#grow(added - this.#free.length);
    for (let i = 0; i < added; i += 1) blocks.push(this.#free.pop()!);
  }

  /** Gives back the blocks that `positions` do not need. */
  trim(blocks: number[], positions: number): void {
    const needed = Math.ceil(positions / BLOCK_POSITIONS);
    while (blocks.length > needed) this.#free.push(blocks.pop()!);
  }

  dispose(): void {
    for (const slab of this.#slabs) this.#memory.release(slab);
    this.#slabs.length = 0;
    this.#free = [];
    this.#all = 0;
  }

  #grow(wanted: number): void {
    // What is convenient, then what is needed.
    for (const blocks of [Math.max(FIRST_BLOCKS, wanted, Math.ceil(this.#all * GROWTH)), wanted]) {
      const slab = this.#memory.allocate(blocks * this.blockBytes);
      if (slab === undefined) continue;
      this.#slabs.push(slab);
      for (let i = blocks - 1; i >= 0; i -= 1) this.#free.push(slab + i * this.blockBytes);
      this.#all += blocks;
      return;
    }
    throw new KvCacheFullError({
      what: `the KV cache has ${this.#all * BLOCK_POSITIONS} positions, and the device has no memory for more`,
      fix: 'shorten the prompts or run fewer sequences at once',
    });
  }
}
