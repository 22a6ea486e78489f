// Layout I2_S of bitnet.cpp: the whole matrix as one stream of two-bit codes (trit + 1), then one f32 scale in 32 bytes.
// Three different orders share this one type id, according to the machine that wrote the file; nothing in the file tells
// them apart. Element i of the flattened matrix, from the high bits of a byte to the low:
//
//     L128   byte 32k + b: elements 128k + b, + 32 + b, + 64 + b, + 96 + b   (b < 32)   x86 and all published files
//     L64    byte 16k + b: elements  64k + b, + 16 + b, + 32 + b, + 48 + b   (b < 16)   quantized on ARM
//     L4ROW  byte g*C + c: column c of rows 4g, 4g + 1, 4g + 2, 4g + 3                  x86 without ACT_PARALLEL
//
//     bit   7   6   5   4   3   2   1   0
//         +-------+-------+-------+-------+     code 00 = -1   01 = 0   10 = +1
//         | first |second | third |fourth |     code 11 is refused
//         +-------+-------+-------+-------+
//     L128, elements (0, 32, 64, 96) = (-1, +1, 0, -1)  ->  00 10 01 00  =  0x24
//
// Source: ggml-bitnet-mad.cpp and the converters of microsoft/BitNet.

import { type PackedPlace, PackedSizeError, TernaryCodeError } from './errors.ts';

/** L128 unless the caller knows better. */
export type I2sLayout = 'L128' | 'L64' | 'L4ROW';

export const I2S_TAIL_BYTES = 32;

/** Elements that a whole number of bytes must cover. */
export function i2sBlock(layout: I2sLayout, columns: number): number {
  return layout === 'L128' ? 128 : layout === 'L64' ? 64 : 4 * columns;
}

/**
 * Distance between the four elements of a byte, and the number of bytes that follow each other in order: byte
 * k * stride + b holds elements 4 * k * stride + b + (0, 1, 2, 3) * stride in all three layouts.
 */
function strideOf(layout: I2sLayout, columns: number): number {
  return layout === 'L128' ? 32 : layout === 'L64' ? 16 : columns;
}

/**
 * Trits of packed bytes without the tail: all of a matrix or any part that begins and ends at a block. `columns`
 * matters for L4ROW and for messages.
 */
export function unpackI2sTrits(
  bytes: Uint8Array,
  matrix: { readonly columns: number; readonly layout?: I2sLayout; readonly firstElement?: number },
  at?: PackedPlace,
): Int8Array<ArrayBuffer> {
  const { columns, layout = 'L128', firstElement = 0 } = matrix;
  const block = i2sBlock(layout, columns);
  if ((bytes.byteLength * 4) % block !== 0) {
    throw new PackedSizeError({
      ...(at === undefined ? {} : { at }),
      layout: `I2_S ${layout}`,
      shape: [bytes.byteLength * 4],
      expectedBytes: (Math.ceil((bytes.byteLength * 4) / block) * block) / 4,
      actualBytes: bytes.byteLength,
    });
  }
  const stride = strideOf(layout, columns);
  const trits = new Int8Array(bytes.byteLength * 4);
  for (let index = 0, start = 0; index < bytes.byteLength; start += 4 * stride) {
    for (let to = start, end = start + stride; to < end; to++, index++) {
      const byte = bytes[index]!;
      if ((byte & (byte >> 1) & 0x55) !== 0) {
        let field = 0;
        while (((byte >> (6 - 2 * field)) & 3) !== 3) field++;
        const element = firstElement + to + field * stride;
        throw new TernaryCodeError({
          ...(at === undefined ? {} : { at }),
          layout: `I2_S ${layout}`,
          byteIndex: firstElement / 4 + index,
          byte,
          row: Math.floor(element / columns),
          column: element % columns,
        });
      }
      trits[to] = (byte >> 6) - 1;
      trits[to + stride] = ((byte >> 4) & 3) - 1;
      trits[to + 2 * stride] = ((byte >> 2) & 3) - 1;
      trits[to + 3 * stride] = (byte & 3) - 1;
    }
  }
  return trits;
}

/** Trits [rows, columns] and the scale of a whole I2_S tensor. */
export function unpackI2s(
  bytes: Uint8Array,
  rows: number,
  columns: number,
  options: { readonly layout?: I2sLayout; readonly at?: PackedPlace } = {},
): { trits: Int8Array<ArrayBuffer>; scale: number } {
  const { layout = 'L128', at } = options;
  const packed = (rows * columns) / 4;
  if (bytes.byteLength !== packed + I2S_TAIL_BYTES) {
    throw new PackedSizeError({
      ...(at === undefined ? {} : { at }),
      layout: `I2_S ${layout}`,
      shape: [rows, columns],
      expectedBytes: packed + I2S_TAIL_BYTES,
      actualBytes: bytes.byteLength,
    });
  }
  const trits = unpackI2sTrits(bytes.subarray(0, packed), { columns, layout }, at);
  return { trits, scale: i2sScale(bytes.subarray(packed)) };
}

/** The scale in the last 32 bytes of a tensor. */
export function i2sScale(tail: Uint8Array): number {
  return new DataView(tail.buffer, tail.byteOffset, tail.byteLength).getFloat32(0, true);
}

/** Packs trits [rows, columns] and their scale; rows * columns must be a multiple of the layout's block. */
export function packI2s(
  trits: Int8Array,
  rows: number,
  columns: number,
  scale: number,
  layout: I2sLayout = 'L128',
): Uint8Array<ArrayBuffer> {
  const block = i2sBlock(layout, columns);
  if (trits.length !== rows * columns || trits.length % block !== 0) {
    throw new PackedSizeError({
      layout: `I2_S ${layout} trits`,
      shape: [rows, columns],
      expectedBytes: Math.ceil((rows * columns) / block) * block,
      actualBytes: trits.length,
    });
  }
  const stride = strideOf(layout, columns);
  const packed = trits.length / 4;
  const bytes = new Uint8Array(packed + I2S_TAIL_BYTES);
  for (let index = 0, start = 0; index < packed; start += 4 * stride) {
    for (let from = start, end = start + stride; from < end; from++, index++) {
      bytes[index] =
        ((trits[from]! + 1) << 6) |
        ((trits[from + stride]! + 1) << 4) |
        ((trits[from + 2 * stride]! + 1) << 2) |
        (trits[from + 3 * stride]! + 1);
    }
  }
  new DataView(bytes.buffer).setFloat32(packed, scale, true);
  return bytes;
}
