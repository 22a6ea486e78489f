// Layout PTQ1_0 of PrismML (type 143): 128 trits in 28 bytes, base-3 digits as in `base3.ts`, the scale last.
//
//     bytes    0 .. 15     digit n of byte m is element 16n + m              n = 0..4
//             16 .. 23     digit n of byte 16 + m is element 80 + 8n + m     n = 0..4
//             24, 25       digit n of byte 24 + m is element 120 + 2n + m    n = 0..3; digit 4 is 0
//             26, 27       scale, f16
//
//     elements 0, 16, 32, 48, 64 = codes 0 1 1 1 1  ->  v = 40  ->  byte 0 = 0x2b
//     elements 120, 122, 124, 126 = codes 1 0 1 0   ->  v = 90  ->  byte 24 = 0x5f
//
// It is not TQ1_0 cut in half: that one goes in steps of 32 and 16. Source: PrismML's fork of llama.cpp.

import { type Base3Digits, base3Byte, base3Digits } from './base3.ts';
import type { BlockLayout } from './block-layout.ts';

const BLOCK_BYTES = 28;
const QUADS = 32;

/** Four bytes whose digits lie `step` elements apart: four times (or five) four neighbours. */
function unpackFour(
  { four, fifth }: Base3Digits,
  bytes: Uint8Array,
  at: number,
  quads: Uint8Array,
  to: number,
  step: number,
): void {
  const a = bytes[at]!;
  const b = bytes[at + 1]!;
  const c = bytes[at + 2]!;
  const d = bytes[at + 3]!;
  const codes = four[a]! | (four[b]! << 2) | (four[c]! << 4) | (four[d]! << 6);
  quads[to] = codes;
  quads[to + step] = codes >> 8;
  quads[to + 2 * step] = codes >> 16;
  quads[to + 3 * step] = codes >> 24;
  quads[to + 4 * step] = fifth[a]! | (fifth[b]! << 2) | (fifth[c]! << 4) | (fifth[d]! << 6);
}

const codeAt = (quads: Uint8Array, from: number, element: number): number =>
  (quads[from + (element >> 2)]! >> (2 * (element & 3))) & 3;

function packByte(quads: Uint8Array, from: number, element: number, step: number, count: number): number {
  let v = 0;
  for (let n = 0; n < 5; n++) v = 3 * v + (n < count ? codeAt(quads, from, element + n * step) : 0);
  return base3Byte(v);
}

export const PTQ1_0: BlockLayout = {
  name: 'PTQ1_0',
  group: 128,
  blockBytes: BLOCK_BYTES,
  scaleAt: 26,
  digitBytes: 26,
  codes: 0b111,
  unpack(bytes, from, blocks, quads, to) {
    const digits = base3Digits();
    const { four } = digits;
    for (let block = 0, at = from, out = to; block < blocks; block++, at += BLOCK_BYTES, out += QUADS) {
      for (let m = 0; m < 16; m += 4) unpackFour(digits, bytes, at + m, quads, out + m / 4, 4);
      for (let m = 0; m < 8; m += 4) unpackFour(digits, bytes, at + 16 + m, quads, out + 20 + m / 4, 2);
      // Two bytes: elements 120, 121 are digit 0 of both, 122, 123 digit 1, and so on.
      const pairs = four[bytes[at + 24]!]! | (four[bytes[at + 25]!]! << 2);
      quads[out + 30] = (pairs & 15) | (((pairs >> 8) & 15) << 4);
      quads[out + 31] = ((pairs >> 16) & 15) | (((pairs >> 24) & 15) << 4);
    }
  },
  pack(quads, from, blocks, bytes, to) {
    for (let block = 0, at = from, out = to; block < blocks; block++, at += QUADS, out += BLOCK_BYTES) {
      for (let m = 0; m < 16; m++) bytes[out + m] = packByte(quads, at, m, 16, 5);
      for (let m = 0; m < 8; m++) bytes[out + 16 + m] = packByte(quads, at, 80 + m, 8, 5);
      for (let m = 0; m < 2; m++) bytes[out + 24 + m] = packByte(quads, at, 120 + m, 2, 4);
    }
  },
};
