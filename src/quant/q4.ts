// Layout Q4_0 of ggml: 32 values in 18 bytes, an f16 scale d first; w = d * (nibble - 8).
//
//     byte 2 + j (j = 0..15):  low nibble = element j, high nibble = element j + 16
//     elements (0, 16) with nibbles (8, 5)  ->  0x58
//
// Source: ggml-quants.c of llama.cpp.

import { type PackedPlace, PackedSizeError } from './errors.ts';
import { blockScales } from './ternary-blocks.ts';

export const Q4_BLOCK = 32;
export const Q4_BYTES = 18;

/** Fills and returns `values`, `count` of them. */
export function decodeQ4(
  bytes: Uint8Array,
  count: number,
  at?: PackedPlace,
  values: Float32Array = new Float32Array(count),
): Float32Array {
  const blocks = Math.ceil(count / Q4_BLOCK);
  if (count % Q4_BLOCK !== 0 || bytes.byteLength !== blocks * Q4_BYTES) {
    throw new PackedSizeError({
      ...(at === undefined ? {} : { at }),
      layout: 'Q4_0',
      shape: [count],
      expectedBytes: blocks * Q4_BYTES,
      actualBytes: bytes.byteLength,
    });
  }
  const scales = blockScales(bytes, Q4_BYTES, 0);
  for (let block = 0; block < blocks; block++) {
    const scale = scales[block]!;
    for (let j = 0; j < 16; j++) {
      const byte = bytes[block * Q4_BYTES + 2 + j]!;
      values[block * Q4_BLOCK + j] = ((byte & 15) - 8) * scale;
      values[block * Q4_BLOCK + j + 16] = ((byte >> 4) - 8) * scale;
    }
  }
  return values;
}
