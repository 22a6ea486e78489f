// Recurrent states of all sequences: one GPU buffer cut into slots, a slot per sequence that has run. Every step overwrites
// them, so a sequence has them only at its length; whoever wants to come back copies the slot in time.

import { KvCacheFullError } from '../gpu/kv-blocks.ts';
import type { RecurrentSpec } from '../program.ts';
import type { Gpu, GpuBuffer } from './gpu.ts';

/** Floats that a state's place is rounded up to: 16 bytes. */
const ALIGN = 4;

/** Slots grow by doubling, but by no more than this or one: a large model's states take 150 MB a sequence. */
const GROWTH_BYTES = 256 << 20;

export class StatePool {
  /** Floats of a slot; 0 where the program has no states. */
  readonly stride: number;
  /** Of each state in its slot. */
  readonly offsets: readonly number[];
  readonly #gpu: Gpu;
  #buffer: (GpuBuffer & { readonly memory: ArrayBuffer }) | undefined;
  #slots = 0;
  #free: number[] = [];

  constructor(gpu: Gpu, recurrent: readonly RecurrentSpec[]) {
    this.#gpu = gpu;
    const offsets: number[] = [];
    let at = 0;
    for (const { width } of recurrent) {
      offsets.push(at);
      at += Math.ceil(width / ALIGN) * ALIGN;
    }
    this.offsets = offsets;
    this.stride = recurrent.length === 0 ? 0 : Math.max(ALIGN, at);
  }

  /** Of a slot. */
  get bytes(): number {
    return 4 * this.stride;
  }

  /** Absent where the program has no states, or no sequence has run. */
  get id(): number | undefined {
    return this.#buffer?.id;
  }

  get buffer(): GpuBuffer {
    if (this.#buffer === undefined) throw new RangeError('no slot was taken yet');
    return this.#buffer;
  }

  /** A slot of zeros. */
  take(): number {
    if (this.#free.length === 0) this.#grow(this.#slots + 1);
    const slot = this.#free.pop()!;
    this.#floats().fill(0, slot * this.stride, (slot + 1) * this.stride);
    return slot;
  }

  /** A slot with another's contents. */
  copyOf(from: number): number {
    const slot = this.take();
    this.#floats().copyWithin(slot * this.stride, from * this.stride, (from + 1) * this.stride);
    return slot;
  }

  give(slot: number): void {
    this.#free.push(slot);
  }

  dispose(): void {
    if (this.#buffer !== undefined) this.#gpu.release(this.#buffer);
    this.#buffer = undefined;
  }

  #floats(): Float32Array {
    return new Float32Array(this.#buffer!.memory);
  }

  #grow(wanted: number): void {
    // 32-bit indices in the kernels, and what one Metal buffer may hold.
    const bytes = this.stride * 4;
    const most = Math.min(Math.floor((2 ** 32 - 1) / this.stride), Math.floor(this.#gpu.maxBufferLength / bytes));
    if (wanted > most) {
      throw new KvCacheFullError({
        what: `recurrent states of at most ${most} sequences fit, ${bytes} bytes each`,
        fix: 'run fewer sequences at once',
      });
    }
    const more = Math.min(this.#slots, Math.floor(GROWTH_BYTES / bytes));
    const slots = Math.min(most, Math.max(wanted, this.#slots + more));
    const buffer = this.#gpu.allocate(slots * bytes, 'recurrent states');
    if (this.#buffer !== undefined) {
      new Float32Array(buffer.memory).set(new Float32Array(this.#buffer.memory, 0, this.#slots * this.stride));
      this.#gpu.release(this.#buffer);
    }
    for (let slot = slots - 1; slot >= this.#slots; slot -= 1) this.#free.push(slot);
    this.#slots = slots;
    this.#buffer = buffer;
  }
}
