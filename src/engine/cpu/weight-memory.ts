// Memory for weights on huge pages: streams from 4 KiB pages are a quarter slower. Weights that have been read can be
// moved there (`settle`), at the price of a copy; memory that is asked for before it is touched is there from the start,
// and its page faults are five hundred times fewer.

import { type Allocate, plainMemory } from '../../tensor/allocate.ts';
import { loadNative } from './native.ts';

const HUGE_PAGE = 2 << 20;

/** Most matrices are smaller than a huge page or begin and end within one: they share pieces of this size. */
const SHARED_BYTES = 64 << 20;

/** A cache line. */
const ALIGNED = 64;

/** Plain memory where there are no huge pages, or no native code to ask for them. */
export async function hugePageMemory(): Promise<Allocate> {
  const native = await loadNative();
  if ('reason' in native || process.platform !== 'linux') return plainMemory;
  return sharedMemory((bytes) => {
    // What lies before the first huge page and behind the weights is never touched, so it costs nothing.
    const memory = new Uint8Array(bytes + HUGE_PAGE);
    const first = native.addon.expectHugePages(memory);
    return memory.subarray(first, first + bytes);
  });
}

/** Parts of large pieces of memory. */
export function sharedMemory(newPiece: (bytes: number) => Uint8Array<ArrayBuffer>): Allocate {
  let shared = new Uint8Array(0);
  let used = 0;
  return async (bytes) => {
    if (bytes > SHARED_BYTES / 2) return newPiece(bytes);
    if (used + bytes > shared.byteLength) {
      shared = newPiece(SHARED_BYTES);
      used = 0;
    }
    const part = shared.subarray(used, used + bytes);
    used += Math.ceil(bytes / ALIGNED) * ALIGNED;
    return part;
  };
}
