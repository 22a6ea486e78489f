// Layout Q1_0 (type 41): 128 signs in 18 bytes, scale first, lowest bit first. There is no zero: as codes 0 and 2.
//
//     byte  0     1     2                               3
//         +-----+-----+-------------------------------+---        bits 1 0 0 0 0 0 0 0, scale 0.5:
//         | f16 scale | bit j of byte 2 + k: 8k + j   | ...       00 38 01
//         +-----+-----+-------------------------------+---
//     bit 1 = +scale, code 2; bit 0 = -scale, code 0
//
// Source: ggml-quants.c of llama.cpp.

import type { BlockLayout } from './block-layout.ts';

const BLOCK_BYTES = 18;
const BITS = 16;

let table: Uint16Array | undefined;

/** Two quads for every byte of signs: 0x01 is 0x0002. */
function signQuads(): Uint16Array {
  if (table === undefined) {
    table = new Uint16Array(256);
    for (let byte = 0; byte < 256; byte++) {
      for (let j = 0; j < 8; j++) table[byte]! |= ((byte >> j) & 1) << (2 * j + 1);
    }
  }
  return table;
}

/** `count` bytes of signs as 2 * count quads. */
export function unpackSigns(bytes: Uint8Array, from: number, count: number, quads: Uint8Array, to: number): void {
  const pairs = signQuads();
  for (let i = 0; i < count; i++) {
    const two = pairs[bytes[from + i]!]!;
    quads[to + 2 * i] = two;
    quads[to + 2 * i + 1] = two >> 8;
  }
}

/** The converse of `unpackSigns`; only the upper bit of a code counts. */
export function packSigns(quads: Uint8Array, from: number, count: number, bytes: Uint8Array, to: number): void {
  for (let i = 0; i < count; i++) {
    const two = quads[from + 2 * i]! | (quads[from + 2 * i + 1]! << 8);
    let byte = 0;
    for (let j = 0; j < 8; j++) byte |= ((two >> (2 * j + 1)) & 1) << j;
    bytes[to + i] = byte;
  }
}

export const Q1_0: BlockLayout = {
  name: 'Q1_0',
  group: 128,
  blockBytes: BLOCK_BYTES,
  scaleAt: 0,
  digitBytes: 0,
  codes: 0b101,
  unpack(bytes, from, blocks, quads, to) {
    for (let block = 0; block < blocks; block++) {
      unpackSigns(bytes, from + block * BLOCK_BYTES + 2, BITS, quads, to + block * 2 * BITS);
    }
  },
  pack(quads, from, blocks, bytes, to) {
    for (let block = 0; block < blocks; block++) {
      packSigns(quads, from + block * 2 * BITS, BITS, bytes, to + block * BLOCK_BYTES + 2);
    }
  },
};
