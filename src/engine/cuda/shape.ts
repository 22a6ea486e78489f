// What decides an encoded list, what its instructions name, and the operations that make one row.

import type { BufferId } from '../program.ts';
import type { Instruction } from './instruction.ts';
import type { PlacedWeight } from './weights.ts';

/** How a step's attention is done; see attention.cuh, attend-split.cuh and attention_rows.cuh. */
export type AttentionKind = 'split' | 'one' | 'whole' | 'blocks' | 'rows' | 'batch';

/** Everything that decides a list but the contents of memory. */
export type Shape = {
  readonly tokens: number;
  readonly outputs: number;
  readonly attention: AttentionKind;
  /** Each row is its sequence's only one. */
  readonly single: boolean;
  /** Blocks of 64 positions that attention's scratch is for. */
  readonly splits: number;
  /** Of the longest row. */
  readonly positions: number;
  readonly traced: boolean;
  /** Of the largest logits of each output row, so many are told. */
  readonly top: number;
  /** The logits go to the host. */
  readonly logits: boolean;
};

/** Addresses of everything that instructions name. */
export type Memory = {
  readonly weights: readonly PlacedWeight[];
  readonly cosine: number;
  readonly sine: number;
  /** By buffer. */
  readonly buffers: readonly number[];
  readonly failed: number;
  readonly scratch: number;
  readonly counters: number;
  readonly packets: number;
  readonly counts: number;
  readonly tops: number;
  /** The host's, where a search for the largest keeps them on the device; else 0. */
  readonly logits: number;
  /** Choices of experts, sorted; 0 where there are none. */
  readonly choices: number;
  /** Largest elements of pieces of rows: `MAXIMA_BYTES`. */
  readonly maxima: number;
  /** Blocks of the grid, and their shared memory; that of kernels of `WHOLE_MEMORY`. */
  readonly grid: number;
  readonly sharedBytes: number;
  readonly mostSharedBytes: number;
  /** Blocks copy panels of group-scaled matrices whole, as they lie in memory. */
  readonly wholePanels: boolean;
  /** What of the shared memory is an instruction's own, at least. */
  readonly poolBytes: number;
};

/** Operations that make one row: their instruction, how many they are, the codes they leave, the row they make. */
export type Chain = {
  readonly instruction: Instruction;
  readonly length: number;
  readonly codes?: BufferId;
  readonly row: BufferId;
  /** Its operations are of a kind that only an instruction of rows does. */
  readonly alone: boolean;
  /** Where the row is, or may be put; whether anything is read there, or where the row before its rotation goes. */
  readonly place: number;
  readonly clashes: boolean;
};
