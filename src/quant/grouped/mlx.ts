// MLX packs whose affine groups hold trits: codes of two bits (or one) in 32-bit words, a scale and a bias for each group.
//
//     2 bits: code i of a word is its bits 2i, 2i + 1, so the little-endian bytes are quads
//     1 bit:  code i of a word is its bit i: 1 is the larger value
//
// MLX computes scale * code + bias. With two bits that is w = scale * (code - 1) exactly when the bias is the negative
// scale; with one bit it is +-s exactly when scale = 2s and bias = -s. Anything else is no ternary matrix: MLX's own
// quantizer makes four levels s, s/2, 0, -s/2 of a ternary group, and the value -s is lost.

import { NotTernaryError, type PackedPlace, PackedSizeError } from '../errors.ts';
import { checkScales, exactHalves } from './codec.ts';
import { FLOAT_BYTES, type FloatType, floatsOf } from './floats.ts';
import type { GroupedRows } from './grouped-matrix.ts';
import { packSigns, unpackSigns } from './q1.ts';

export type MlxPack = {
  readonly bits: 1 | 2;
  readonly group: number;
  /** (rows, columns * bits / 8) bytes of the U32 words. */
  readonly weight: Uint8Array;
  /** (rows, columns / group) little-endian elements of `scaleType`. */
  readonly scales: Uint8Array;
  readonly biases: Uint8Array;
  readonly scaleType: FloatType;
};

/** Bytes of the words of a row. Words do not cross rows, so `columns * bits` is a multiple of 32. */
export function mlxRowBytes(columns: number, bits: number): number {
  return (columns * bits) / 8;
}

/**
 * The scales s of a pack, (rows, columns / group). Throws NotTernaryError for a group that is not ternary (or, of one bit,
 * not +-s), PackedSizeError, and GroupScaleError for a scale that is not finite.
 */
export function mlxScales(
  pack: MlxPack,
  rows: number,
  columns: number,
  { at, firstRow = 0 }: { readonly at?: PackedPlace | undefined; readonly firstRow?: number } = {},
): Float32Array {
  const { bits, group, weight, scaleType } = pack;
  const perRow = columns / group;
  const layout = `MLX ${bits} bit, group ${group}`;
  const expectedBytes = rows * Math.ceil((columns * bits) / 32) * 4;
  if (!Number.isInteger(perRow) || group % 32 !== 0 || weight.byteLength !== expectedBytes) {
    throw new PackedSizeError({ at, layout, shape: [rows, columns], expectedBytes, actualBytes: weight.byteLength });
  }
  for (const part of [pack.scales, pack.biases]) {
    const needed = rows * perRow * FLOAT_BYTES[scaleType];
    if (part.byteLength === needed) continue;
    const shape = [rows, perRow];
    throw new PackedSizeError({
      at,
      layout: `${layout}, scales or biases`,
      shape,
      expectedBytes: needed,
      actualBytes: part.byteLength,
    });
  }
  const scales = floatsOf(pack.scales, scaleType);
  const biases = floatsOf(pack.biases, scaleType);
  checkScales(scales, perRow, at, { layout, firstRow });
  const found = bits === 2 ? scales : biases.map((bias) => -bias);
  for (let i = 0; i < scales.length; i++) {
    // Zeros of either sign are one number: a group of zeros may have any bias that is none.
    const ternary = bits === 2 ? biases[i] === -scales[i]! : scales[i] === 2 * found[i]!;
    if (ternary) continue;
    const wanted = bits === 2 ? `the bias is not -scale (${-scales[i]!})` : `the scale is not -2 times the bias`;
    throw new NotTernaryError({
      what: `${at?.tensor === undefined ? 'an MLX matrix' : `tensor "${at.tensor}"`} is not ternary: in row ${firstRow + Math.floor(i / perRow)}, group ${i % perRow}, ${wanted} but scale ${scales[i]}, bias ${biases[i]}`,
      ...(at?.file !== undefined && { where: at.file }),
      fix: "MLX's own quantizer loses the value -s of ternary weights: take a pack made from them directly",
    });
  }
  return found;
}

/** Codes and scales of a pack. Throws as `mlxScales`. */
export function decodeMlx(
  pack: MlxPack,
  rows: number,
  columns: number,
  options: { readonly at?: PackedPlace | undefined; readonly firstRow?: number } = {},
): GroupedRows {
  const scales = mlxScales(pack, rows, columns, options);
  const { bits, group, weight } = pack;
  if (bits === 2) return { rows, columns, group, quads: weight, scales };
  const quads = new Uint8Array(2 * weight.byteLength);
  unpackSigns(weight, 0, weight.byteLength, quads, 0);
  return { rows, columns, group, quads, scales };
}

/**
 * A matrix as an MLX pack with f16 scales: two bits, or one when it has only -1 and +1 (which stock MLX does not read).
 * Undefined when a scale (or, with one bit, twice a scale) is no finite f16, or a code does not fit the bits.
 */
export function encodeMlx(matrix: GroupedRows, bits: 1 | 2): MlxPack | undefined {
  const { quads, scales, group } = matrix;
  const halves = exactHalves(scales);
  if (!(halves instanceof Uint16Array)) return undefined;
  const biases = new Uint8Array(halves.map((half) => half ^ 0x8000).buffer);
  const pack = { bits, group, biases, scaleType: 'F16' } as const;
  if (bits === 2) return { ...pack, weight: Uint8Array.from(quads), scales: new Uint8Array(halves.buffer) };
  const doubled = exactHalves(scales.map((scale) => 2 * scale));
  if (!(doubled instanceof Uint16Array) || quads.some((byte) => (byte & 0x55) !== 0)) return undefined;
  const weight = new Uint8Array(quads.byteLength / 2);
  packSigns(quads, 0, weight.byteLength, weight, 0);
  return { ...pack, weight, scales: new Uint8Array(doubled.buffer) };
}
