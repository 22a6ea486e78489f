// A weight as rows of elements, in the bytes of the file: what a GPU puts into its memory, with rows padded to what its kernels
// read at once.

import type { Weight } from '../program.ts';

/** Four trits 0: codes 1. */
const ZERO_TRITS = 0x55;

/** Rows one behind the other. */
export type WeightRows = {
  readonly bytes: Uint8Array;
  readonly rows: number;
  /** Elements of a row. */
  readonly columns: number;
  readonly elementBytes: number;
  /** A byte of padding that counts as zeros. */
  readonly fill: number;
};

export const bytesOf = (array: ArrayBufferView) => new Uint8Array(array.buffer, array.byteOffset, array.byteLength);

/** The elements; of a ternary matrix rows of quads, of a group-scaled one (panels, which have no rows) all in one. */
export function rowsOf(weight: Weight): WeightRows {
  switch (weight.kind) {
    case 'ternary': {
      const { rows, columns, bytes } = weight;
      return { bytes, rows: Math.ceil(rows / 4), columns, elementBytes: 1, fill: ZERO_TRITS };
    }
    case 'int8': {
      const { rows, columns, codes } = weight;
      return { bytes: bytesOf(codes), rows, columns, elementBytes: 1, fill: 0 };
    }
    case 'dense': {
      const { rows, columns, bytes, dtype } = weight;
      return { bytes, rows, columns, elementBytes: dtype === 'f32' ? 4 : 2, fill: 0 };
    }
    case 'grouped':
      return { bytes: weight.bytes, rows: 1, columns: weight.bytes.length, elementBytes: 1, fill: 0 };
    case 'vector': {
      const { values } = weight;
      return { bytes: bytesOf(values), rows: 1, columns: values.length, elementBytes: 4, fill: 0 };
    }
  }
}

/** What scales them, where that is not one number: of int8 the rows', of group-scaled matrices the groups'. */
export function scalesOf(weight: Weight): Uint8Array | undefined {
  if (weight.kind === 'int8') return bytesOf(weight.rowScale);
  return weight.kind === 'grouped' ? weight.scales : undefined;
}

/** The rows with `stride` elements from one to the next, into `to`, which is zeroed. */
export function padRows({ bytes, columns, elementBytes, fill }: WeightRows, stride: number, to: Uint8Array): void {
  if (fill !== 0) to.fill(fill);
  const rowBytes = columns * elementBytes;
  for (let from = 0, at = 0; from < bytes.length; from += rowBytes, at += stride * elementBytes) {
    to.set(bytes.subarray(from, from + rowBytes), at);
  }
}
