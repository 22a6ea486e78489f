// Weights on the GPU. They stay in the layout of the file: where a matrix has whole 16-byte rows and lies on pages of its
// own it is not even copied. Only rows of other lengths are copied once, padded to 16 elements.

import { padRows, rowsOf, scalesOf, type WeightRows } from '../gpu/weight-rows.ts';
import type { Program, Weight } from '../program.ts';
import { type Gpu, type GpuBuffer, padded } from './gpu.ts';

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
  const { name } = weight;
  const scales = scalesOf(weight);
  if (weight.kind === 'grouped') {
    return {
      buffer: gpu.place(weight.bytes, name),
      scales: gpu.place(scales!, `${name}, scales`),
      stride: weight.columns,
    };
  }
  const rows = rowsOf(weight);
  const stride = padded(rows.columns);
  const elements = { buffer: placeRows(gpu, name, rows, stride), stride };
  return scales === undefined ? elements : { ...elements, scales: gpu.place(scales, `${name}, row scales`) };
}

function placeRows(gpu: Gpu, name: string, rows: WeightRows, stride: number): GpuBuffer {
  if (stride === rows.columns) return gpu.place(rows.bytes, name);
  const buffer = gpu.allocate(rows.rows * stride * rows.elementBytes, name);
  padRows(rows, stride, new Uint8Array(buffer.memory));
  return buffer;
}
