// Layout Q2_0 of ggml: 64 values in 18 bytes, an f16 scale first.
//
//     bytes 0, 1: scale;  byte 2 + k: elements 4k .. 4k + 3, lowest bits first
//     bit   7   6   5   4   3   2   1   0
//         +-------+-------+-------+-------+     w = (code - 1) * scale, so code 11 is 2 * scale:
//         | 4k+3  | 4k+2  | 4k+1  |  4k   |     a value of the format, but no trit
//         +-------+-------+-------+-------+
//     elements (-1, 0, 0, -1)  ->  00 01 01 00  =  0x14
//
// Source: ggml-quants.c of llama.cpp.

import { type PackedPlace, PackedSizeError, TernaryCodeError } from './errors.ts';
import { blockScales, type TernaryBlocks } from './ternary-blocks.ts';

export const Q2_BLOCK = 64;
export const Q2_BYTES = 18;

function checkSize(bytes: Uint8Array, count: number, at: PackedPlace | undefined): void {
  const blocks = Math.ceil(count / Q2_BLOCK);
  if (count % Q2_BLOCK === 0 && bytes.byteLength === blocks * Q2_BYTES) return;
  throw new PackedSizeError({
    ...(at === undefined ? {} : { at }),
    layout: 'Q2_0',
    shape: [count],
    expectedBytes: blocks * Q2_BYTES,
    actualBytes: bytes.byteLength,
  });
}

/** Code of element i. */
function codeAt(bytes: Uint8Array, i: number): number {
  const byte = bytes[Math.floor(i / Q2_BLOCK) * Q2_BYTES + 2 + ((i % Q2_BLOCK) >> 2)]!;
  return (byte >> (2 * (i & 3))) & 3;
}

/** Values of `count` elements as float32. */
export function decodeQ2(bytes: Uint8Array, count: number, at?: PackedPlace): Float32Array<ArrayBuffer> {
  checkSize(bytes, count, at);
  const scales = blockScales(bytes, Q2_BYTES, 0);
  const values = new Float32Array(count);
  for (let i = 0; i < count; i++) values[i] = (codeAt(bytes, i) - 1) * scales[Math.floor(i / Q2_BLOCK)]!;
  return values;
}

/** Trits and block scales; refuses blocks that use the fourth code. */
export function unpackQ2(bytes: Uint8Array, count: number, at?: PackedPlace): TernaryBlocks {
  checkSize(bytes, count, at);
  const trits = new Int8Array(count);
  for (let i = 0; i < count; i++) {
    const code = codeAt(bytes, i);
    if (code === 3) {
      const byteIndex = Math.floor(i / Q2_BLOCK) * Q2_BYTES + 2 + ((i % Q2_BLOCK) >> 2);
      throw new TernaryCodeError({
        ...(at === undefined ? {} : { at }),
        layout: 'Q2_0',
        byteIndex,
        byte: bytes[byteIndex]!,
        column: i,
      });
    }
    trits[i] = code - 1;
  }
  return { trits, scales: blockScales(bytes, Q2_BYTES, 0) };
}
