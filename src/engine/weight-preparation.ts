// Ways to make weights that a backend may have in native code. Each gives the bits of the JavaScript it stands for, or
// undefined where it cannot be used (yet: nobody waits for a compiler).

import type { Allocate } from '../tensor/allocate.ts';
import type { TensorView } from '../tensor/tensor-view.ts';
import type { DenseWeight, Int8Weight } from './program.ts';

/** A grouped matrix as blocks of a GGUF file. */
export type GroupedSource = {
  readonly layout: 'Q2_0' | 'Q2_0_G128' | 'PQ2_0' | 'PTQ1_0' | 'Q1_0' | 'TQ2_0' | 'TQ1_0';
  readonly bytes: Uint8Array;
  readonly rows: number;
  readonly columns: number;
};

export type PreparedGrouped = {
  readonly group: number;
  readonly bytes: Uint8Array;
  readonly scaleType: 'f16' | 'f32';
  readonly scales: Uint8Array;
};

export interface WeightPreparation {
  /** The int8 form of a head; fills and keeps `codes`. */
  quantizeHead(head: DenseWeight, codes: Int8Array<ArrayBuffer>): Promise<Int8Weight | undefined>;
  /** Masters made trits: fills `out` with rowquad bytes; the scale. */
  mastersToRowquad(masters: TensorView, rows: number, columns: number, out: Uint8Array): Promise<number | undefined>;
  /** Panels of a matrix's canonical group. */
  repackGrouped(source: GroupedSource, allocate: Allocate): Promise<PreparedGrouped | undefined>;
}
