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

export function decodeQ6k(bytes: Uint8Array, count: number, at?: PackedPlace): Float32Array<ArrayBuffer> {
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
  const values = new Float32Array(count);
  for (let block = 0; block < blocks; block++) {
    const d = scales[block]!;
    for (let half = 0; half < 2; half++) {
      const ql = block * Q6K_BYTES + 64 * half;
      const qh = block * Q6K_BYTES + 128 + 32 * half;
      const sc = block * Q6K_BYTES + 192 + 8 * half;
      const out = block * Q6K_BLOCK + 128 * half;
      for (let l = 0; l < 32; l++) {
        const high = bytes[qh + l]!;
        for (let part = 0; part < 4; part++) {
          const low = bytes[ql + l + 32 * (part & 1)]!;
          const nibble = part < 2 ? low & 15 : low >> 4;
          const q = (nibble | (((high >> (2 * part)) & 3) << 4)) - 32;
          const scale = Math.fround(d * signed[sc + (l >> 4) + 2 * part]!);
          values[out + l + 32 * part] = scale * q;
        }
      }
    }
  }
  return values;
}
