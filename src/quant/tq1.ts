// Layout TQ1_0 of ggml: 256 trits in 54 bytes, five to a byte in base 3.
//
//     bytes    0 .. 31     trit 32n + m of byte m              n = 0..4
//             32 .. 47     trit 160 + 16n + (m - 32)           n = 0..4
//             48 .. 51     trit 240 + 4n + (m - 48)            n = 0..3
//             52, 53       scale, f16
//
// The digits d0..d4 (trit + 1) make v = d0*81 + d1*27 + d2*9 + d3*3 + d4 < 243, stored as ceil(v * 256 / 243): the byte
// is a fixed-point fraction of 256, so digit n is the integer part of 3 * frac(byte / 256 * 3^n), with no division.
//
//     trits (-1, +1, 0, -1, +1) -> digits 0 2 1 0 2 -> v = 65 -> 0x45
//
// Source: ggml-quants.c of llama.cpp and quants.py of gguf-py.

import { type PackedPlace, PackedSizeError } from './errors.ts';
import { f32ToF16 } from './f16.ts';
import { blockScales, type TernaryBlocks } from './ternary-blocks.ts';

export const TQ1_BLOCK = 256;
export const TQ1_BYTES = 54;

/** Runs of bytes that are laid out alike: trit n of byte `byte + m` is `trit` + n * step + m. */
const RUNS = [
  { byte: 0, length: 32, trit: 0, step: 32, digits: 5 },
  { byte: 32, length: 16, trit: 160, step: 16, digits: 5 },
  { byte: 48, length: 4, trit: 240, step: 4, digits: 4 },
] as const;

// Trits of every byte, five each, made on first use; and the same as codes for `repack.ts`.
let table: Int8Array | undefined;
let codes: { readonly four: Int32Array; readonly fifth: Uint8Array } | undefined;

function digitTable(): Int8Array {
  if (table === undefined) {
    table = new Int8Array(256 * 5);
    for (let byte = 0; byte < 256; byte++) {
      for (let n = 0, power = 1; n < 5; n++, power *= 3) table[byte * 5 + n] = (((byte * power) & 255) * 3) >> 8;
    }
    for (let i = 0; i < table.length; i++) table[i]! -= 1;
  }
  return table;
}

/**
 * The codes (trit + 1) of every byte's digits: `four` has digits 0 to 3 in bytes 0 to 3 of a word, `fifth` digit 4.
 * Byte 0x45 = digits 0 2 1 0 2: four 0x00010200, fifth 2.
 */
export function tq1Codes(): { readonly four: Int32Array; readonly fifth: Uint8Array } {
  if (codes === undefined) {
    const digitsOf = digitTable();
    const four = new Int32Array(256);
    const fifth = new Uint8Array(256);
    for (let byte = 0; byte < 256; byte++) {
      for (let n = 0; n < 4; n++) four[byte]! |= (digitsOf[byte * 5 + n]! + 1) << (8 * n);
      fifth[byte] = digitsOf[byte * 5 + 4]! + 1;
    }
    codes = { four, fifth };
  }
  return codes;
}

/** Trits and block scales of `bytes`, which hold `count` elements. */
export function unpackTq1(bytes: Uint8Array, count: number, at?: PackedPlace): TernaryBlocks {
  const blocks = count / TQ1_BLOCK;
  if (!Number.isInteger(blocks) || bytes.byteLength !== blocks * TQ1_BYTES) {
    throw new PackedSizeError({
      ...(at === undefined ? {} : { at }),
      layout: 'TQ1_0',
      shape: [count],
      expectedBytes: Math.ceil(blocks) * TQ1_BYTES,
      actualBytes: bytes.byteLength,
    });
  }
  const digitsOf = digitTable();
  const trits = new Int8Array(count);
  for (let block = 0; block < blocks; block++) {
    for (const { byte, length, trit, step, digits } of RUNS) {
      for (let m = 0; m < length; m++) {
        const row = bytes[block * TQ1_BYTES + byte + m]! * 5;
        for (let n = 0, to = block * TQ1_BLOCK + trit + m; n < digits; n++, to += step) trits[to] = digitsOf[row + n]!;
      }
    }
  }
  return { trits, scales: blockScales(bytes, TQ1_BYTES, 52) };
}

/**
 * Packs trits (a multiple of 256) under one scale, rounded to f16. A block of zeros gets the scale 0, as ggml's own
 * quantizer writes it.
 */
export function packTq1(trits: Int8Array, scale: number): Uint8Array<ArrayBuffer> {
  const blocks = trits.length / TQ1_BLOCK;
  if (!Number.isInteger(blocks)) {
    const expectedBytes = Math.ceil(blocks) * TQ1_BLOCK;
    throw new PackedSizeError({
      layout: 'TQ1_0 trits',
      shape: [trits.length],
      expectedBytes,
      actualBytes: trits.length,
    });
  }
  const d = f32ToF16(Float32Array.of(scale));
  const bytes = new Uint8Array(blocks * TQ1_BYTES);
  for (let block = 0; block < blocks; block++) {
    let any = 0;
    for (const { byte, length, trit: first, step, digits } of RUNS) {
      for (let m = 0; m < length; m++) {
        let v = 0;
        for (let n = 0, from = block * TQ1_BLOCK + first + m; n < 5; n++, from += step) {
          // The four bytes of four digits leave the last digit 0.
          const trit = n < digits ? trits[from]! : -1;
          if (n < digits) any |= trit;
          v = v * 3 + trit + 1;
        }
        bytes[block * TQ1_BYTES + byte + m] = Math.floor((v * 256 + 242) / 243);
      }
    }
    if (any !== 0) bytes.set(d, block * TQ1_BYTES + 52);
  }
  return bytes;
}
