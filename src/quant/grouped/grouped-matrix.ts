// A matrix whose rows have one scale for each `group` consecutive columns: w[r, k] = scale[r, k div group] * (code - 1),
// with the codes 0 .. 3 for -1, 0, +1, +2.

import type { TernaryScale } from '../ternary-scale.ts';
import { packQuads, quadRowBytes, unpackQuads } from './quads.ts';

/** Rows of a matrix, all of them or a window; codes four to a byte. */
export type GroupedRows = {
  readonly rows: number;
  readonly columns: number;
  /** Columns that share a scale; divides columns. */
  readonly group: number;
  /** (rows * quadRowBytes(columns)), see `quads.ts`. */
  readonly quads: Uint8Array;
  /** (rows, columns / group), finite; zero and negative ones are allowed. */
  readonly scales: Float32Array;
};

/** The same with one code a byte, for small matrices and tests. */
export type GroupedMatrix = Omit<GroupedRows, 'quads'> & { readonly codes: Uint8Array };

export function toCodes({ quads, ...matrix }: GroupedRows): GroupedMatrix {
  return { ...matrix, codes: unpackQuads(quads, matrix.rows, matrix.columns) };
}

export function toQuads({ codes, ...matrix }: GroupedMatrix): GroupedRows {
  return { ...matrix, quads: packQuads(codes, matrix.rows, matrix.columns) };
}

/** The weights as float32: scale * (code - 1). */
export function groupedValues({ rows, columns, group, quads, scales }: GroupedRows): Float32Array<ArrayBuffer> {
  const values = new Float32Array(rows * columns);
  const codes = unpackQuads(quads, rows, columns);
  for (let i = 0, g = 0; i < values.length; g++) {
    const scale = scales[g]!;
    for (const end = i + group; i < end; i++) values[i] = (codes[i]! - 1) * scale;
  }
  return values;
}

/**
 * Where a scale changes, as groups of columns: one for a matrix or for a block of rows (a model that was trained in
 * shards) is a group a row.
 */
export function groupsOfScale(
  scale: TernaryScale,
  rows: number,
  columns: number,
): { readonly group: number; readonly scales: Float32Array } {
  switch (scale.kind) {
    case 'tensor':
      return { group: columns, scales: new Float32Array(rows).fill(scale.value) };
    case 'rowSlices': {
      const height = rows / scale.values.length;
      return {
        group: columns,
        scales: Float32Array.from({ length: rows }, (_, r) => scale.values[Math.floor(r / height)]!),
      };
    }
    case 'columnSlices': {
      const count = scale.values.length;
      return {
        group: columns / count,
        scales: Float32Array.from({ length: rows * count }, (_, i) => scale.values[i % count]!),
      };
    }
    case 'groups':
      return { group: scale.size, scales: scale.values };
  }
}

/** True when all codes of columns [start, end) of a row of quads (from byte `at` on) are 1. */
export function onlyZeros(quads: Uint8Array, at: number, start: number, end: number): boolean {
  for (let k = start; k < end; k++) if (((quads[at + (k >> 2)]! >> (2 * (k & 3))) & 3) !== 1) return false;
  return true;
}

/**
 * The same weights with another group. Splitting repeats scales. Joining takes groups whose scales have equal bits; a
 * group that holds only zeros joins any, and its codes become 1. Undefined where that does not do.
 */
export function regroup(matrix: GroupedRows, group: number): GroupedRows | undefined {
  const { rows, columns, quads, scales } = matrix;
  if (group === matrix.group) return matrix;
  if (columns % group !== 0) return undefined;
  if (matrix.group % group === 0) {
    const times = matrix.group / group;
    return {
      ...matrix,
      group,
      scales: Float32Array.from({ length: scales.length * times }, (_, i) => scales[Math.floor(i / times)]!),
    };
  }
  if (group % matrix.group !== 0) return undefined;
  const times = group / matrix.group;
  const joined = new Float32Array(scales.length / times);
  const bits = new Uint32Array(scales.buffer, scales.byteOffset, scales.length);
  const perRow = columns / matrix.group;
  const rowBytes = quadRowBytes(columns);
  let cleared: Uint8Array | undefined;
  for (let i = 0; i < joined.length; i++) {
    const first = i * times;
    const end = first + times;
    let equal = true;
    for (let j = first + 1; j < end; j++) equal &&= bits[j] === bits[first];
    if (equal) {
      joined[i] = scales[first]!;
      continue;
    }
    let live = -1;
    for (let j = first; j < end; j++) {
      const start = (j % perRow) * matrix.group;
      const at = Math.floor(j / perRow) * rowBytes;
      if (onlyZeros(quads, at, start, start + matrix.group)) continue;
      if (scales[j] === 0) {
        // Zeros as well, which the scale of their neighbours would bring to life.
        cleared ??= Uint8Array.from(quads);
        clear(cleared, at, start, start + matrix.group);
      } else if (live < 0) live = j;
      else if (bits[j] !== bits[live]) return undefined;
    }
    joined[i] = live < 0 ? 0 : scales[live]!;
  }
  return { rows, columns, group, quads: cleared ?? quads, scales: joined };
}

function clear(quads: Uint8Array, at: number, start: number, end: number): void {
  for (let k = start; k < end; k++) {
    const shift = 2 * (k & 3);
    quads[at + (k >> 2)] = (quads[at + (k >> 2)]! & ~(3 << shift)) | (1 << shift);
  }
}

/** Groups that one product for all layouts knows, the most wanted first. */
const CANONICAL = [128, 64, 32] as const;

/**
 * The same weights with the group that they have in every layout, so that float sums over groups are equal whatever file
 * a model comes in: the largest of 128, 64 and 32 that its scales allow, the given one where none does.
 */
export function canonicalGroup(matrix: GroupedRows): GroupedRows {
  for (const group of CANONICAL) {
    const same = regroup(matrix, group);
    if (same !== undefined) return same;
  }
  return matrix;
}
