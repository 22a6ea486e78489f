// Weights on the GPU. They stay in the layout of the file: where a matrix has whole 16-byte rows and lies on pages of its
// own it is not even copied. Only rows of other lengths are copied once, padded to 16 elements.

import type { Program, Weight } from '../program.ts';
import { type Gpu, type GpuBuffer, padded } from './gpu.ts';

/** A row of zero trits: codes 1. */
const ZERO_TRITS = 0x55;

export type PlacedWeight = {
  readonly buffer: GpuBuffer;
  /** int8: the row scales; grouped: the groups'. */
  readonly scales?: GpuBuffer;
  /** Elements from row to row (of a ternary matrix: from quad to quad); a grouped matrix has none. */
  readonly stride: number;
};

export function placeWeights(gpu: Gpu, program: Program): PlacedWeight[] {
  return program.weights.map((weight) => placeWeight(gpu, weight));
}

function placeWeight(gpu: Gpu, weight: Weight): PlacedWeight {
  switch (weight.kind) {
    case 'ternary': {
      const { name, rows, columns, bytes } = weight;
      return place(gpu, name, bytes, Math.ceil(rows / 4), columns, 1, ZERO_TRITS);
    }
    case 'dense': {
      const { name, rows, columns, bytes, dtype } = weight;
      return place(gpu, name, bytes, rows, columns, dtype === 'f32' ? 4 : 2, 0);
    }
    case 'int8': {
      const { name, rows, columns, codes, rowScale } = weight;
      const bytes = new Uint8Array(codes.buffer, codes.byteOffset, codes.byteLength);
      return { ...place(gpu, name, bytes, rows, columns, 1, 0), scales: gpu.place(rowScale, `${name}, row scales`) };
    }
    case 'grouped': {
      const { name, bytes, scales, columns } = weight;
      return { buffer: gpu.place(bytes, name), scales: gpu.place(scales, `${name}, scales`), stride: columns };
    }
    case 'vector': {
      const { name, values } = weight;
      const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
      return place(gpu, name, bytes, 1, values.length, 4, 0);
    }
  }
}

function place(
  gpu: Gpu,
  name: string,
  bytes: Uint8Array,
  rows: number,
  columns: number,
  elementBytes: number,
  fill: number,
): PlacedWeight {
  const stride = padded(columns);
  if (stride === columns) return { buffer: gpu.place(bytes, name), stride };
  const buffer = gpu.allocate(rows * stride * elementBytes, name);
  const to = new Uint8Array(buffer.memory);
  const rowBytes = columns * elementBytes;
  if (fill !== 0) to.fill(fill);
  for (let r = 0; r < rows; r += 1) {
    to.set(bytes.subarray(r * rowBytes, (r + 1) * rowBytes), r * stride * elementBytes);
  }
  return { buffer, stride };
}
