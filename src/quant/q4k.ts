// Layout Q4_K of ggml: 256 values in 144 bytes; w = (d * sc) * nibble - (dmin * m), with a six-bit sc and m for every 32.
//
//     bytes 0, 1 d   2, 3 dmin (f16)   4..15 scales   16..143 nibbles
//     byte 16 + 32 p + l (p = 0..3, l = 0..31):  low nibble = element 64 p + l, high nibble = element 64 p + 32 + l
//     for the 32 elements j = 0..7, with s the 12 bytes of scales:
//       j < 4    sc = s[j] & 63                                  m = s[j + 4] & 63
//       j >= 4   sc = (s[j + 4] & 15) | ((s[j - 4] >> 6) << 4)   m = (s[j + 4] >> 4) | ((s[j] >> 6) << 4)
//
// Source: ggml-quants.c of llama.cpp.

import { type PackedPlace, PackedSizeError } from './errors.ts';
import { blockScales } from './ternary-blocks.ts';

export const Q4K_BLOCK = 256;
export const Q4K_BYTES = 144;

/** Fills and returns `values`, `count` of them. */
export function decodeQ4k(
  bytes: Uint8Array,
  count: number,
  at?: PackedPlace,
  values: Float32Array = new Float32Array(count),
): Float32Array {
  const blocks = Math.ceil(count / Q4K_BLOCK);
  if (count % Q4K_BLOCK !== 0 || bytes.byteLength !== blocks * Q4K_BYTES) {
    throw new PackedSizeError({
      ...(at === undefined ? {} : { at }),
      layout: 'Q4_K',
      shape: [count],
      expectedBytes: blocks * Q4K_BYTES,
      actualBytes: bytes.byteLength,
    });
  }
  const ds = blockScales(bytes, Q4K_BYTES, 0);
  const dmins = blockScales(bytes, Q4K_BYTES, 2);
  for (let block = 0; block < blocks; block++) {
    const s = block * Q4K_BYTES + 4;
    for (let j = 0; j < 8; j++) {
      const isLow = j < 4;
      const sc = isLow ? bytes[s + j]! & 63 : (bytes[s + j + 4]! & 15) | ((bytes[s + j - 4]! >> 6) << 4);
      const m = isLow ? bytes[s + j + 4]! & 63 : (bytes[s + j + 4]! >> 4) | ((bytes[s + j]! >> 6) << 4);
      const scale = Math.fround(ds[block]! * sc);
      const min = Math.fround(dmins[block]! * m);
      const from = s + 12 + 32 * (j >> 1);
      const out = block * Q4K_BLOCK + 32 * j;
      const shift = 4 * (j & 1);
      for (let l = 0; l < 32; l++) values[out + l] = Math.fround(scale * ((bytes[from + l]! >> shift) & 15)) - min;
    }
  }
  return values;
}
