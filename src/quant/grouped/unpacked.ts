// Ordinary floats that are -m, 0 or +m with one m for each group of columns: the unpacked folders of group-scaled models.
// Equality is that of bits, not closeness; -0 is a zero; a group of zeros has the scale 0. A second magnitude makes the
// matrix dense, also 2m: it is never rounded to m.

import { f32ToBf16 } from '../bf16.ts';
import { elementsOf } from '../bytes.ts';
import { CodeNotHeldError, NotTernaryError, type PackedPlace, PackedSizeError } from '../errors.ts';
import { f32ToF16 } from '../f16.ts';
import { countCodes } from './codec.ts';
import { type FloatType, floatsOf } from './floats.ts';
import { type GroupedRows, groupedValues } from './grouped-matrix.ts';
import { quadRowBytes } from './quads.ts';

/** Tried in this order, then whole rows. */
const GROUPS = [128, 64, 32] as const;

/** With fewer weights to a scale almost any floats would pass. */
const MIN_GROUP = 16;

/** Elements as integers: their bits without the sign are zero, or a magnitude. */
function bitsOf(
  bytes: Uint8Array,
  type: FloatType,
): { bits: Uint16Array | Uint32Array; sign: number; infinite: number } {
  if (type === 'F32') return { bits: elementsOf(bytes, Uint32Array), sign: 0x80000000, infinite: 0x7f800000 };
  return { bits: elementsOf(bytes, Uint16Array), sign: 0x8000, infinite: type === 'F16' ? 0x7c00 : 0x7f80 };
}

/** Fed with the rows of a matrix in windows; tells which groups hold for all of them. */
export class UnpackedDetector {
  readonly #columns: number;
  readonly #alive: Map<number, boolean>;
  readonly #unit: number;

  constructor(columns: number) {
    this.#columns = columns;
    const groups = [...GROUPS.filter((group) => columns % group === 0), ...(columns >= MIN_GROUP ? [columns] : [])];
    this.#alive = new Map(groups.map((group) => [group, true]));
    this.#unit = columns % 32 === 0 ? 32 : columns;
  }

  /** The groups that have held so far, the most wanted first: 128, 64, 32, the whole row. */
  get groups(): number[] {
    return [...this.#alive].filter(([, alive]) => alive).map(([group]) => group);
  }

  /** The next rows, little-endian elements of `type`. */
  push(bytes: Uint8Array, type: FloatType): void {
    const unit = this.#unit;
    const columns = this.#columns;
    const { bits, sign, infinite } = bitsOf(bytes, type);
    const magnitudeBits = sign - 1;
    const perRow = columns / unit;
    const magnitudes = new Float64Array(perRow);
    for (let from = 0; from < bits.length && this.groups.length > 0; from += columns) {
      for (let u = 0; u < perRow; u++) {
        let magnitude = 0;
        for (let i = from + u * unit, end = i + unit; i < end; i++) {
          const v = bits[i]! & magnitudeBits;
          if (v === 0 || v === magnitude) continue;
          if (magnitude !== 0 || v >= infinite) {
            this.#alive.clear();
            return;
          }
          magnitude = v;
        }
        magnitudes[u] = magnitude;
      }
      for (const [group, alive] of this.#alive) {
        if (alive && group !== unit && !oneEach(magnitudes, group / unit)) this.#alive.set(group, false);
      }
    }
  }
}

/** True when each `count` neighbours are 0 or one number. */
function oneEach(magnitudes: Float64Array, count: number): boolean {
  for (let from = 0; from < magnitudes.length; from += count) {
    let one = 0;
    for (let i = from; i < from + count; i++) {
      if (magnitudes[i] === 0 || magnitudes[i] === one) continue;
      if (one !== 0) return false;
      one = magnitudes[i]!;
    }
  }
  return true;
}

/** The first group, of 128, 64, 32 and the whole row, that holds for a whole matrix; undefined for a dense one. */
export function unpackedGroup(bytes: Uint8Array, type: FloatType, columns: number): number | undefined {
  const detector = new UnpackedDetector(columns);
  detector.push(bytes, type);
  return detector.groups[0];
}

/** Codes and scales of whole rows. Throws NotTernaryError where a group has two magnitudes or one that is not finite. */
export function decodeUnpacked(
  bytes: Uint8Array,
  type: FloatType,
  { rows, columns, group }: { readonly rows: number; readonly columns: number; readonly group: number },
  { at, firstRow = 0 }: { readonly at?: PackedPlace | undefined; readonly firstRow?: number } = {},
): GroupedRows {
  const size = type === 'F32' ? 4 : 2;
  const expectedBytes = rows * columns * size;
  if (bytes.byteLength !== expectedBytes || columns % group !== 0) {
    throw new PackedSizeError({
      at,
      layout: `${type} in groups of ${group}`,
      shape: [rows, columns],
      expectedBytes,
      actualBytes: bytes.byteLength,
    });
  }
  const { bits, sign, infinite } = bitsOf(bytes, type);
  const magnitudeBits = sign - 1;
  const rowBytes = quadRowBytes(columns);
  const quads = new Uint8Array(rows * rowBytes).fill(0x55);
  const perRow = columns / group;
  // The scale of a group is one of its elements, so the magnitudes are elements of the type.
  const magnitudes = type === 'F32' ? new Uint32Array(rows * perRow) : new Uint16Array(rows * perRow);
  for (let row = 0, i = 0; row < rows; row++) {
    for (let g = 0; g < perRow; g++) {
      let magnitude = 0;
      for (let k = g * group, end = k + group; k < end; k++, i++) {
        const v = bits[i]! & magnitudeBits;
        if (v === 0) continue;
        if (v !== magnitude) {
          if (magnitude !== 0 || v >= infinite) {
            throw new NotTernaryError({
              what: `${at?.tensor === undefined ? 'a float matrix' : `tensor "${at.tensor}"`} has more than one magnitude, or one that is not finite, in row ${firstRow + row}, columns ${g * group} to ${end - 1}`,
              ...(at?.file !== undefined && { where: at.file }),
              fix: 'these are ordinary floats, not trits under a scale for each group',
            });
          }
          magnitude = v;
        }
        // Code 1 lies there already: 1 ^ 3 is 2, 1 ^ 1 is 0.
        quads[row * rowBytes + (k >> 2)]! ^= ((bits[i]! & sign) === 0 ? 3 : 1) << (2 * (k & 3));
      }
      magnitudes[row * perRow + g] = magnitude;
    }
  }
  return { rows, columns, group, quads, scales: floatsOf(new Uint8Array(magnitudes.buffer), type) };
}

/**
 * Rows as plain floats: the values of `groupedValues`, so F16 and BF16 only where every scale is one. Throws
 * CodeNotHeldError for weights of +2, which a reader of unpacked folders could not tell from another scale, and
 * NotTernaryError for a scale that the type does not hold.
 */
export function encodeUnpacked(
  matrix: GroupedRows,
  type: FloatType,
  { at }: { readonly at?: PackedPlace | undefined } = {},
): Uint8Array<ArrayBuffer> {
  const { rows, columns, group, quads, scales } = matrix;
  // Rows whose last byte is not full end in zeros, which the count does not ask about.
  const twos = countCodes(quads, 4 * rows * quadRowBytes(columns))[3];
  if (twos > 0) throw new CodeNotHeldError({ at, layout: `an unpacked ${type} matrix`, zeros: 0, twos });
  const narrow = { F16: f32ToF16, BF16: f32ToBf16, F32: (values: Float32Array) => Uint8Array.from(bytesOf(values)) }[
    type
  ];
  const wide = floatsOf(narrow(scales), type);
  const index = scales.findIndex((scale, i) => !Object.is(scale, wide[i]));
  if (index >= 0) {
    const perRow = columns / group;
    throw new NotTernaryError({
      what: `the scale ${scales[index]} of row ${Math.floor(index / perRow)}, group ${index % perRow} of ${at?.tensor === undefined ? 'a matrix' : `tensor "${at.tensor}"`} is no ${type}`,
      ...(at?.file !== undefined && { where: at.file }),
      fix: 'write F32',
    });
  }
  return narrow(groupedValues(matrix));
}

function bytesOf(values: Float32Array): Uint8Array {
  return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
}
