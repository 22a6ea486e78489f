// Layouts Q2_0 (64 columns in 18 bytes; type 42) and what PrismML wrote: the same with 128 columns in 34 bytes, first as
// type 42 too (here Q2_0_G128), then as PQ2_0 (type 142). Scale first, then the codes as quads.
//
//     byte  0     1     2               3               ...
//         +-----+-----+---------------+---------------+        codes 0 1 2 3 1 1 0 2, scale 0.0625:
//         | f16 scale | codes 0 .. 3  | codes 4 .. 7  | ...    00 2c e4 85
//         +-----+-----+---------------+---------------+
//
// Code 3 is +2 times the scale. Source: ggml-quants.c of llama.cpp; PrismML's fork for blocks of 128.

import type { BlockLayout, BlockLayoutName } from './block-layout.ts';

function q2(name: BlockLayoutName, group: number): BlockLayout {
  const codeBytes = group / 4;
  const blockBytes = codeBytes + 2;
  return {
    name,
    group,
    blockBytes,
    scaleAt: 0,
    digitBytes: 0,
    codes: 0b1111,
    unpack(bytes, from, blocks, quads, to) {
      for (let block = 0, at = from + 2, out = to; block < blocks; block++, at += blockBytes, out += codeBytes) {
        for (let i = 0; i < codeBytes; i++) quads[out + i] = bytes[at + i]!;
      }
    },
    pack(quads, from, blocks, bytes, to) {
      for (let block = 0, at = from, out = to + 2; block < blocks; block++, at += codeBytes, out += blockBytes) {
        for (let i = 0; i < codeBytes; i++) bytes[out + i] = quads[at + i]!;
      }
    },
  };
}

export const Q2_0 = q2('Q2_0', 64);
export const Q2_0_G128 = q2('Q2_0_G128', 128);
export const PQ2_0 = q2('PQ2_0', 128);
