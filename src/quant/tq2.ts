// Layout TQ2_0 of ggml: 256 trits in 66 bytes, four to a byte; codes are trit + 1.
//
//     byte 32h + m (h = 0, 1; m = 0..31), trits of the block:
//     bit   7   6   5   4   3   2   1   0
//         +-------+-------+-------+-------+     code 00 = -1   01 = 0   10 = +1
//         |128h+96|128h+64|128h+32| 128h  |     code 11 is refused
//         |  + m  |  + m  |  + m  |  + m  |
//         +-------+-------+-------+-------+
//     bytes 64, 65: scale, f16
//     trits (0, 32, 64, 96) = (-1, +1, 0, -1)  ->  00 01 10 00  =  0x18
//
// Source: ggml-quants.c of llama.cpp and quants.py of gguf-py.

import { type PackedPlace, PackedSizeError, TernaryCodeError } from './errors.ts';
import { f32ToF16 } from './f16.ts';
import { blockScales, type TernaryBlocks } from './ternary-blocks.ts';

export const TQ2_BLOCK = 256;
export const TQ2_BYTES = 66;

/** Trits and block scales of `bytes`, which hold `count` elements. */
export function unpackTq2(bytes: Uint8Array, count: number, at?: PackedPlace): TernaryBlocks {
  const blocks = count / TQ2_BLOCK;
  if (!Number.isInteger(blocks) || bytes.byteLength !== blocks * TQ2_BYTES) {
    throw new PackedSizeError({
      ...(at === undefined ? {} : { at }),
      layout: 'TQ2_0',
      shape: [count],
      expectedBytes: Math.ceil(blocks) * TQ2_BYTES,
      actualBytes: bytes.byteLength,
    });
  }
  const trits = new Int8Array(count);
  for (let block = 0; block < blocks; block++) {
    for (let m = 0; m < 64; m++) {
      const from = block * TQ2_BYTES + m;
      const byte = bytes[from]!;
      let to = block * TQ2_BLOCK + (m >> 5) * 128 + (m & 31);
      if ((byte & (byte >> 1) & 0x55) !== 0) {
        for (let rest = byte; (rest & 3) !== 3; rest >>= 2) to += 32;
        throw new TernaryCodeError({
          ...(at === undefined ? {} : { at }),
          layout: 'TQ2_0',
          byteIndex: from,
          byte,
          column: to,
        });
      }
      trits[to] = (byte & 3) - 1;
      trits[to + 32] = ((byte >> 2) & 3) - 1;
      trits[to + 64] = ((byte >> 4) & 3) - 1;
      trits[to + 96] = (byte >> 6) - 1;
    }
  }
  return { trits, scales: blockScales(bytes, TQ2_BYTES, 64) };
}

/** Packs trits (a multiple of 256) under one scale, rounded to f16; a block of zeros gets the scale 0, as in ggml. */
export function packTq2(trits: Int8Array, scale: number): Uint8Array<ArrayBuffer> {
  const blocks = trits.length / TQ2_BLOCK;
  if (!Number.isInteger(blocks)) {
    const expectedBytes = Math.ceil(blocks) * TQ2_BLOCK;
    throw new PackedSizeError({
      layout: 'TQ2_0 trits',
      shape: [trits.length],
      expectedBytes,
      actualBytes: trits.length,
    });
  }
  const d = f32ToF16(Float32Array.of(scale));
  const bytes = new Uint8Array(blocks * TQ2_BYTES);
  for (let block = 0; block < blocks; block++) {
    let any = 0;
    for (let m = 0; m < 64; m++) {
      const from = block * TQ2_BLOCK + (m >> 5) * 128 + (m & 31);
      const a = trits[from]!;
      const b = trits[from + 32]!;
      const c = trits[from + 64]!;
      const e = trits[from + 96]!;
      any |= a | b | c | e;
      bytes[block * TQ2_BYTES + m] = (a + 1) | ((b + 1) << 2) | ((c + 1) << 4) | ((e + 1) << 6);
    }
    if (any !== 0) bytes.set(d, block * TQ2_BYTES + 64);
  }
  return bytes;
}
