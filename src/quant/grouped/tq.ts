// TQ1_0 and TQ2_0 with a scale of its own for each block of 256. Where the trits lie is told in `../tq1.ts` and
// `../tq2.ts`; here they become quads. TQ2_0's fourth code is +2 times the scale, as ggml computes it.

import { TQ1_BLOCK, TQ1_BYTES } from '../tq1.ts';
import { TQ2_BLOCK, TQ2_BYTES } from '../tq2.ts';
import { base3Byte, base3Digits } from './base3.ts';
import type { BlockLayout } from './block-layout.ts';
import { transposeQuads } from './quads.ts';

const QUADS = 64;

/** Bytes that are laid out alike: digit n of byte `byte + m` is element 4 * `quad` + n * `length` + m. */
const RUNS = [
  { byte: 0, length: 32, quad: 0, digits: 5 },
  { byte: 32, length: 16, quad: 40, digits: 5 },
  { byte: 48, length: 4, quad: 60, digits: 4 },
] as const;

export const TQ1_0: BlockLayout = {
  name: 'TQ1_0',
  group: TQ1_BLOCK,
  blockBytes: TQ1_BYTES,
  scaleAt: 52,
  digitBytes: 52,
  codes: 0b111,
  unpack(bytes, from, blocks, quads, to) {
    const { four, fifth } = base3Digits();
    for (let block = 0, at = from, out = to; block < blocks; block++, at += TQ1_BYTES, out += QUADS) {
      for (const { byte, length, quad, digits } of RUNS) {
        for (let m = 0; m < length; m += 4) {
          const a = bytes[at + byte + m]!;
          const b = bytes[at + byte + m + 1]!;
          const c = bytes[at + byte + m + 2]!;
          const d = bytes[at + byte + m + 3]!;
          const codes = four[a]! | (four[b]! << 2) | (four[c]! << 4) | (four[d]! << 6);
          const first = out + quad + m / 4;
          const step = length / 4;
          quads[first] = codes;
          quads[first + step] = codes >> 8;
          quads[first + 2 * step] = codes >> 16;
          quads[first + 3 * step] = codes >> 24;
          if (digits === 5)
            quads[first + 4 * step] = fifth[a]! | (fifth[b]! << 2) | (fifth[c]! << 4) | (fifth[d]! << 6);
        }
      }
    }
  },
  pack(quads, from, blocks, bytes, to) {
    for (let block = 0, at = from, out = to; block < blocks; block++, at += QUADS, out += TQ1_BYTES) {
      for (const { byte, length, quad, digits } of RUNS) {
        for (let m = 0; m < length; m++) {
          let v = 0;
          for (let n = 0; n < 5; n++) {
            const element = 4 * quad + n * length + m;
            v = 3 * v + (n < digits ? (quads[at + (element >> 2)]! >> (2 * (element & 3))) & 3 : 0);
          }
          bytes[out + byte + m] = base3Byte(v);
        }
      }
    }
  },
};

/** Four bytes of a half, of which byte m holds elements 32n + m: four times four neighbours, across. */
function across(bytes: Uint8Array, at: number): number {
  return transposeQuads(bytes[at]! | (bytes[at + 1]! << 8) | (bytes[at + 2]! << 16) | (bytes[at + 3]! << 24));
}

export const TQ2_0: BlockLayout = {
  name: 'TQ2_0',
  group: TQ2_BLOCK,
  blockBytes: TQ2_BYTES,
  scaleAt: 64,
  digitBytes: 0,
  codes: 0b1111,
  unpack(bytes, from, blocks, quads, to) {
    const isAligned = (quads.byteOffset + to) % 4 === 0;
    const own = isAligned ? quads : new Uint8Array(blocks * QUADS);
    const words = new Int32Array(own.buffer, own.byteOffset + (isAligned ? to : 0), blocks * (QUADS / 4));
    for (let block = 0, at = from, out = 0; block < blocks; block++, at += 2) {
      for (let half = 0; half < 2; half++, at += 32, out += 8) {
        for (let four = 0; four < 2; four++) {
          const start = at + 16 * four;
          const a = across(bytes, start);
          const b = across(bytes, start + 4);
          const c = across(bytes, start + 8);
          const d = across(bytes, start + 12);
          // The bytes of four words, again across: byte k of each is the k-th word.
          const even = (a & 0x00ff00ff) | ((b & 0x00ff00ff) << 8);
          const odd = ((a >>> 8) & 0x00ff00ff) | (b & 0xff00ff00);
          const even2 = (c & 0x00ff00ff) | ((d & 0x00ff00ff) << 8);
          const odd2 = ((c >>> 8) & 0x00ff00ff) | (d & 0xff00ff00);
          words[out + four] = (even & 0xffff) | (even2 << 16);
          words[out + four + 2] = (odd & 0xffff) | (odd2 << 16);
          words[out + four + 4] = (even >>> 16) | (even2 & 0xffff0000);
          words[out + four + 6] = (odd >>> 16) | (odd2 & 0xffff0000);
        }
      }
    }
    if (!isAligned) quads.set(own, to);
  },
  pack(quads, from, blocks, bytes, to) {
    for (let block = 0, at = from, out = to; block < blocks; block++, at += QUADS, out += TQ2_BYTES) {
      for (let m = 0; m < 64; m += 4) {
        const first = at + (m >> 5) * 32 + (m & 31) / 4;
        const word = quads[first]! | (quads[first + 8]! << 8) | (quads[first + 16]! << 16) | (quads[first + 24]! << 24);
        const codes = transposeQuads(word);
        bytes[out + m] = codes;
        bytes[out + m + 1] = codes >> 8;
        bytes[out + m + 2] = codes >> 16;
        bytes[out + m + 3] = codes >> 24;
      }
    }
  },
};
