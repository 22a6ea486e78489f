// MLX's affine quantization: codes of `bits` bits, a scale and a bias for every group of columns; w = code * scale + bias.
//
// A row of codes is one little-endian bit string: code k takes bits k*bits .. k*bits + bits - 1, so 3-, 5- and 6-bit codes
// straddle the 32-bit words. Four bits: codes 0..7 of a word, lowest nibble first.
//
//     codes (15, 8, 0, 0, 8, 15, 8, 0)  ->  word 0x08f8008f
//
// Ternary values survive this encoding although they do not decode to {-s, 0, s}: in a group that holds both signs, +s
// and 0 are exact and -s comes out short by s / 2^(bits - 1). Source: the affine quantizer of ml-explore/mlx.

import { type PackedPlace, PackedSizeError } from './errors.ts';

export type AffineShape = {
  readonly rows: number;
  readonly columns: number;
  /** 2, 3, 4, 5, 6 or 8. */
  readonly bits: number;
  readonly groupSize: number;
};

export const AFFINE_BITS: readonly number[] = [2, 3, 4, 5, 6, 8];

/** Codes [rows, columns] of the bytes of the U32 weight tensor. */
export function affineCodes(bytes: Uint8Array, shape: AffineShape, at?: PackedPlace): Uint8Array<ArrayBuffer> {
  const { rows, columns, bits } = shape;
  const rowBytes = (columns * bits) / 8;
  if (rowBytes % 4 !== 0 || bytes.byteLength !== rows * rowBytes) {
    throw new PackedSizeError({
      ...(at === undefined ? {} : { at }),
      layout: `affine ${bits} bit`,
      shape: [rows, columns],
      expectedBytes: rows * Math.ceil(rowBytes / 4) * 4,
      actualBytes: bytes.byteLength,
    });
  }
  const codes = new Uint8Array(rows * columns);
  const mask = (1 << bits) - 1;
  // Rows are whole words, so the bit string simply runs on from row to row.
  let from = 0;
  let held = 0;
  let word = 0;
  for (let i = 0; i < codes.length; i++) {
    while (held < bits) {
      word |= bytes[from++]! << held;
      held += 8;
    }
    codes[i] = word & mask;
    word >>>= bits;
    held -= bits;
  }
  return codes;
}

/** Values [rows, columns] in float32; scales and biases are (rows, columns / groupSize). */
export function decodeAffine(
  weight: Uint8Array,
  scales: Float32Array,
  biases: Float32Array,
  shape: AffineShape,
  at?: PackedPlace,
): Float32Array<ArrayBuffer> {
  const { rows, columns, groupSize } = shape;
  const groups = (rows * columns) / groupSize;
  if (columns % groupSize !== 0 || scales.length !== groups || biases.length !== groups) {
    throw new PackedSizeError({
      ...(at === undefined ? {} : { at }),
      layout: `affine scales and biases for groups of ${groupSize}`,
      shape: [rows, columns],
      expectedBytes: groups,
      actualBytes: Math.min(scales.length, biases.length),
    });
  }
  const codes = affineCodes(weight, shape, at);
  const values = new Float32Array(codes.length);
  for (let group = 0, i = 0; group < groups; group++) {
    const scale = scales[group]!;
    const bias = biases[group]!;
    for (const end = i + groupSize; i < end; i++) values[i] = Math.fround(codes[i]! * scale) + bias;
  }
  return values;
}

/**
 * The trits behind decoded values when the encoder was given {-s, 0, s}; `largest` is max |value| over the tensor, which
 * is s. Into `trits` (same length), which is returned.
 */
export function affineTrits(values: Float32Array, largest: number, trits: Int8Array): Int8Array {
  const threshold = largest / 4;
  for (let i = 0; i < values.length; i++) {
    const value = values[i]!;
    trits[i] = Math.abs(value) < threshold || value === 0 ? 0 : value > 0 ? 1 : -1;
  }
  return trits;
}
