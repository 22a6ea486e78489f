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
  /** Pieces of so many bytes from place to place; done when it returns. */
  copyPieces(pieces: readonly { readonly to: number; readonly from: number }[], bytes: number): void;
};

/** Which blocks are free and which a sequence has; the memory behind them is the subclass's. */
export abstract class BlockList {
  /** Positions of a block. */
  readonly #positions: number;
  protected readonly free: number[] = [];

  constructor(positions: number) {
    this.#positions = positions;
  }

  /** Extends `blocks` to hold `positions`: all of it or, with `KvCacheFullError`, nothing. */
  reserve(blocks: number[], positions: number): void {
    const added = Math.ceil(positions / this.#positions) - blocks.length;
    if (added <= 0) return;
    if (added > this.free.length) this.grow(added - this.free.length);
    for (let i = 0; i < added; i += 1) blocks.push(this.free.pop()!);
  }

  /** Takes back the blocks that `positions` do not need. */
  trim(blocks: number[], positions: number): void {
    const needed = Math.ceil(positions / this.#positions);
    while (blocks.length > needed) this.free.push(blocks.pop()!);
  }

  /** Frees at least so many more, or throws. */
  protected abstract grow(missing: number): void;
}

export class KvBlocks extends BlockList {
  readonly blockBytes: number;
  readonly #memory: BlockMemory;
  readonly #slabs: number[] = [];
  #all = 0;

  constructor(memory: BlockMemory, blockBytes: number) {
    super(BLOCK_POSITIONS);
    this.#memory = memory;
    this.blockBytes = blockBytes;
  }

  copy(from: readonly number[], to: readonly number[]): void {
    if (to.length > 0) {
      const pieces = to.map((block, i) => ({ to: block, from: from[i]! }));
      this.#memory.copyPieces(pieces, this.blockBytes);
    }
  }

  dispose(): void {
    for (const slab of this.#slabs) this.#memory.release(slab);
    this.#slabs.length = 0;
    this.free.length = 0;
    this.#all = 0;
  }

  protected override grow(wanted: number): void {
    // What is convenient, then what is needed.
    for (const blocks of [Math.max(FIRST_BLOCKS, wanted, Math.ceil(this.#all * GROWTH)), wanted]) {
      const slab = this.#memory.allocate(blocks * this.blockBytes);
      if (slab === undefined) continue;
      this.#slabs.push(slab);
      for (let i = blocks - 1; i >= 0; i -= 1) this.free.push(slab + i * this.blockBytes);
      this.#all += blocks;
      return;
    }
    throw new KvCacheFullError({
      what: `the KV cache has ${this.#all * BLOCK_POSITIONS} positions, and the device has no memory for more`,
      fix: 'shorten the prompts or run fewer sequences at once',
    });
  }
}
