// What the block layouts of ggml that hold trits have in common: an f16 scale in every block.

import { f16ToF32 } from './f16.ts';

export type TernaryBlocks = {
  readonly trits: Int8Array<ArrayBuffer>;
  /** One for each block, multiplied. */
  readonly scales: Float32Array<ArrayBuffer>;
};

/** The f16 at byte `at` of every block of `blockBytes`. */
export function blockScales(bytes: Uint8Array, blockBytes: number, at: number): Float32Array<ArrayBuffer> {
  const halves = new Uint8Array((bytes.byteLength / blockBytes) * 2);
  for (let from = at, to = 0; to < halves.length; from += blockBytes, to += 2) {
    halves[to] = bytes[from]!;
    halves[to + 1] = bytes[from + 1]!;
  }
  return f16ToF32(halves);
}
