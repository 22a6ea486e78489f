// Layout Q6_K of ggml: 256 values in 210 bytes; w = d * sc * (q - 32) with six-bit q, an int8 sc for every 16 elements.
//
//     bytes 0..127 ql   128..191 qh   192..207 sc   208, 209 d (f16)
//     For half h (128 elements; 64 bytes of ql, 32 of qh, 8 of sc) and l = 0..31:
//       element l        low nibble of ql[l]        qh[l] bits 1..0     sc[l/16]
//       element l + 32   low nibble of ql[l + 32]   qh[l] bits 3..2     sc[l/16 + 2]
//       element l + 64   high nibble of ql[l]       qh[l] bits 5..4     sc[l/16 + 4]
//       element l + 96   high nibble of ql[l + 32]  qh[l] bits 7..6     sc[l/16 + 6]
//
// Source: ggml-quants.c of llama.cpp.

import { type PackedPlace, PackedSizeError } from './errors.ts';
import { blockScales } from './ternary-blocks.ts';

export const Q6K_BLOCK = 256;
export const Q6K_BYTES = 210;

/** Fills and returns `values`, `count` of them. */
export function decodeQ6k(
  bytes: Uint8Array,
  count: number,
  at?: PackedPlace,
  values: Float32Array = new Float32Array(count),
): Float32Array {
  const blocks = Math.ceil(count / Q6K_BLOCK);
  if (count % Q6K_BLOCK !== 0 || bytes.byteLength !== blocks * Q6K_BYTES) {
    throw new PackedSizeError({
      ...(at === undefined ? {} : { at }),
      layout: 'Q6_K',
      shape: [count],
      expectedBytes: blocks * Q6K_BYTES,
      actualBytes: bytes.byteLength,
    });
  }
  const scales = blockScales(bytes, Q6K_BYTES, 208);
  const signed = new Int8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let block = 0; block < blocks; block++) {
    const d = scales[block]!;
    for (let half = 0; half < 2; half++) {
      for (let sixteen = 0; sixteen < 2; sixteen++) {
        const ql = block * Q6K_BYTES + 64 * half + 16 * sixteen;
        const qh = block * Q6K_BYTES + 128 + 32 * half + 16 * sixteen;
        const sc = block * Q6K_BYTES + 192 + 8 * half + sixteen;
        const out = block * Q6K_BLOCK + 128 * half + 16 * sixteen;
        const scale0 = Math.fround(d * signed[sc]!);
        const scale1 = Math.fround(d * signed[sc + 2]!);
        const scale2 = Math.fround(d * signed[sc + 4]!);
        const scale3 = Math.fround(d * signed[sc + 6]!);
        for (let l = 0; l < 16; l++) {
          const first = bytes[ql + l]!;
          const second = bytes[ql + l + 32]!;
          const high = bytes[qh + l]!;
          values[out + l] = scale0 * (((first & 15) | ((high & 3) << 4)) - 32);
          values[out + l + 32] = scale1 * (((second & 15) | ((high & 12) << 2)) - 32);
          values[out + l + 64] = scale2 * (((first >> 4) | (high & 48)) - 32);
          values[out + l + 96] = scale3 * (((second >> 4) | ((high & 192) >> 2)) - 32);
        }
      }
    }
  }
  return values;
}
