// The KV cache of all sequences: one GPU buffer cut into blocks of 32 positions (vLLM's paged attention,
// arXiv:2309.06180, at Apple's scale). Sequences of any lengths share a step and a dispatch, and growing copies nothing
// but, rarely, the whole pool.

import { BlockList, KvCacheFullError } from '../gpu/kv-blocks.ts';
import type { KvSpec } from '../program.ts';
import type { Gpu, GpuBuffer } from './gpu.ts';

/** KV_BLOCK of attention.metal. */
export const BLOCK_POSITIONS = 32;

const FIRST_BLOCKS = 4;

export class KvPool extends BlockList {
  /** Floats of a head's key or value: D rounded up to whole vectors of 4; the rest stays zero. */
  readonly headStride: number;
  /** Floats of a block: [layer][k, v][kv head][position][headStride]. */
  readonly blockStride: number;
  readonly layerStride: number;
  readonly #gpu: Gpu;
  #buffer: (GpuBuffer & { readonly memory: ArrayBuffer }) | undefined;
  #blocks = 0;

  constructor(gpu: Gpu, kv: KvSpec) {
    super(BLOCK_POSITIONS);
    this.#gpu = gpu;
    this.headStride = Math.ceil(kv.headDim / 4) * 4;
    this.layerStride = 2 * kv.kvHeads * BLOCK_POSITIONS * this.headStride;
    this.blockStride = kv.layers * this.layerStride;
  }

  get buffer(): GpuBuffer {
    if (this.#buffer === undefined) throw new RangeError('no block was taken yet');
    return this.#buffer;
  }

  copy(from: readonly number[], to: readonly number[]): void {
    if (this.#buffer === undefined) return;
    const floats = new Float32Array(this.#buffer.memory);
    to.forEach((block, i) => {
      const at = from[i]! * this.blockStride;
      floats.copyWithin(block * this.blockStride, at, at + this.blockStride);
    });
  }

  dispose(): void {
    if (this.#buffer !== undefined) this.#gpu.release(this.#buffer);
    this.#buffer = undefined;
  }

  protected override grow(missing: number): void {
    const wanted = this.#blocks + missing;
    // 32-bit indices in the kernels, and what one Metal buffer may hold.
    const bytes = this.blockStride * 4;
    const most = Math.min(Math.floor((2 ** 32 - 1) / this.blockStride), Math.floor(this.#gpu.maxBufferLength / bytes));
    if (wanted > most) {
      throw new KvCacheFullError({
        what: `the KV cache holds at most ${most * BLOCK_POSITIONS} positions of all sequences together`,
        fix: 'shorten the prompts or run fewer sequences at once',
      });
    }
    const blocks = Math.min(most, Math.max(FIRST_BLOCKS, wanted, 2 * this.#blocks));
    const buffer = this.#gpu.allocate(blocks * bytes, 'KV cache');
    if (this.#buffer !== undefined) {
      new Float32Array(buffer.memory).set(new Float32Array(this.#buffer.memory, 0, this.#blocks * this.blockStride));
      this.#gpu.release(this.#buffer);
    }
    for (let block = blocks - 1; block >= this.#blocks; block -= 1) this.free.push(block);
    this.#blocks = blocks;
    this.#buffer = buffer;
  }
}
