// Floats that are already {-s, 0, s}: ternary models exported as F16 or BF16 (TriLM, dequantized checkpoints, F16 GGUF).
// The scale s may change from one slice of rows or columns, row, or group of columns to the next, because training
// computed it once for every shard; the file does not say where, so the values must.

import type { TernaryScale } from './ternary-scale.ts';

/** Magnitudes that differ by at most one unit in the last place of f16 count as one: exporters round t * s. */
const TOLERANCE = 2 ** -10;

/** Slices tried, of rows and of columns: numbers of tensor-parallel shards. */
const SLICES = [2, 3, 4, 6, 8, 12, 16, 24, 32] as const;
const GROUPS = [512, 256, 128, 64, 32] as const;

/** With fewer elements to a scale almost any float matrix would pass. */
const MIN_PART = 16;

/**
 * Fed with the rows of a matrix in order, in windows of any height; keeps one magnitude for every `unit` columns of a
 * row. An ordinary float matrix is told by its first elements.
 */
export class PrescaledDetector {
  readonly #rows: number;
  readonly #columns: number;
  readonly #unit: number;
  readonly #magnitudes: Float32Array;
  #next = 0;
  #alive: boolean;

  constructor(rows: number, columns: number) {
    this.#rows = rows;
    this.#columns = columns;
    this.#unit = largestDivisor(columns, 32);
    this.#alive = rows * columns >= MIN_PART;
    this.#magnitudes = new Float32Array(this.#alive ? (rows * columns) / this.#unit : 0);
  }

  /** True when all rows pushed so far are zeros, which tell nothing. */
  get blank(): boolean {
    return this.#magnitudes.subarray(0, this.#next).every((magnitude) => magnitude === 0);
  }

  /** False as soon as some `unit` elements hold two magnitudes, or something that is not finite. */
  get alive(): boolean {
    return this.#alive;
  }

  /** The next rows, row-major. */
  push(values: Float32Array): void {
    const unit = this.#unit;
    for (let from = 0; this.#alive && from < values.length; from += unit) {
      let magnitude = 0;
      for (let i = from; i < from + unit; i++) {
        const v = Math.abs(values[i]!);
        if (v === 0 || v === magnitude) continue;
        if (!(v < Number.POSITIVE_INFINITY) || (magnitude !== 0 && !near(v, magnitude))) {
          this.#alive = false;
          return;
        }
        if (magnitude === 0) magnitude = v;
      }
      this.#magnitudes[this.#next++] = magnitude;
    }
  }

  /** The coarsest rule for the scale that fits all rows pushed, or undefined when the matrix is not ternary. */
  finish(): TernaryScale | undefined {
    if (!this.#alive || this.#next !== this.#magnitudes.length) return undefined;
    const whole = this.#parts(1, this.#columns, this.#rows);
    if (whole !== undefined) return { kind: 'tensor', value: whole[0]! };
    for (const count of SLICES) {
      const values = this.#parts(count, this.#columns, this.#rows / count);
      if (values !== undefined) return { kind: 'rowSlices', values };
    }
    for (const count of SLICES) {
      const values = this.#parts(count, this.#columns / count, this.#rows);
      if (values !== undefined) return { kind: 'columnSlices', values };
    }
    const rows = this.#parts(this.#rows, this.#columns, 1);
    if (rows !== undefined) return { kind: 'rowSlices', values: rows };
    for (const size of GROUPS) {
      const values = this.#parts((this.#rows * this.#columns) / size, size, 1);
      if (values !== undefined) return { kind: 'groups', size, values };
    }
    return undefined;
  }

  /** Magnitudes of `count` parts of `height` rows and `width` columns each, if every part has one; 0 where a part holds only zeros (1 for the whole). */
  #parts(count: number, width: number, height: number): Float32Array | undefined {
    const unit = this.#unit;
    if (!Number.isInteger(height) || !Number.isInteger(width) || width % unit !== 0) return undefined;
    if (this.#columns % width !== 0 || width * height < MIN_PART) return undefined;
    const values = new Float32Array(count);
    const unitsPerRow = this.#columns / unit;
    const unitsPerPart = width / unit;
    const partsPerRow = this.#columns / width;
    for (let i = 0; i < this.#magnitudes.length; i++) {
      const magnitude = this.#magnitudes[i]!;
      if (magnitude === 0) continue;
      const row = Math.floor(i / unitsPerRow);
      const part = Math.floor(row / height) * partsPerRow + Math.floor((i % unitsPerRow) / unitsPerPart);
      const known = values[part]!;
      if (known === 0) values[part] = magnitude;
      else if (!near(magnitude, known)) return undefined;
    }
    // One for the matrix must be a scale that can be divided by; others may be those of zeros.
    return count === 1 ? values.map((value) => (value === 0 ? 1 : value)) : values;
  }
}

function near(a: number, b: number): boolean {
  return Math.abs(a - b) <= TOLERANCE * Math.max(a, b);
}

function largestDivisor(n: number, limit: number): number {
  for (let d = Math.min(n, limit); d > 1; d--) if (n % d === 0) return d;
  return 1;
}

/** Scale and trits of a whole matrix (rows, columns) that is {-s, 0, s}, or undefined when it is not. */
export function detectPrescaled(
  values: Float32Array,
  rows: number,
  columns: number,
): { trits: Int8Array<ArrayBuffer>; scale: TernaryScale } | undefined {
  const detector = new PrescaledDetector(rows, columns);
  detector.push(values);
  const scale = detector.finish();
  return scale === undefined ? undefined : { trits: signs(values), scale };
}

/** -1, 0 or +1 for each value. */
export function signs(values: Float32Array): Int8Array<ArrayBuffer> {
  const trits = new Int8Array(values.length);
  for (let i = 0; i < values.length; i++) trits[i] = values[i]! > 0 ? 1 : values[i]! < 0 ? -1 : 0;
  return trits;
}
