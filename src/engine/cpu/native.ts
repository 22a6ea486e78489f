// The native addon of the CPU backend: its functions as TypeScript sees them.

import { type LoadedAddon, loadAddon } from '../../native/load.ts';
import type { StepStatus } from '../recorded/step-status.ts';

export type NativeHandle = { readonly __native: unique symbol };

export type NativeInfo = {
  readonly isa: string;
  /** Most that run. */
  readonly threads: number;
  /** How many run steps of one row, of a few and of many. */
  readonly used: { readonly one: number; readonly few: number; readonly many: number };
  /** Whether those numbers are what measurement came to; never where one was given. */
  readonly found: { readonly one: boolean; readonly few: boolean; readonly many: boolean };
  /** Bytes that each thread asks for ahead of its stream of weights. */
  readonly prefetch: {
    readonly ternary: number;
    readonly int8: number;
    readonly dense: number;
    readonly grouped: number;
  };
  /** Calls of each kind of kernel so far: tests assert by them that the fast path ran. */
  readonly counters: {
    readonly ternaryVector: number;
    readonly ternaryMatrix: number;
    readonly int8: number;
    readonly dense: number;
    readonly attention: number;
    readonly groupedVector: number;
    readonly groupedMatrix: number;
    readonly delta: number;
  };
  /** Bytes beside the weights. */
  readonly memory: {
    readonly activations: number;
    readonly kv: number;
    readonly scratch: number;
    /** Recurrent states of all sequences. */
    readonly recurrent: number;
  };
};

export type NativeAddon = {
  isas(): { usable: string[]; built: string[] };
  selfTest(): string;
  load(request: {
    words: Int32Array;
    blobs: readonly (Uint8Array | Int8Array | Float32Array)[];
    isa: string;
    /** At most. */
    threads: number;
    /** Always so many; else as many of them as turn out to help. */
    fixed: boolean;
    /** Numbers of threads that fill whole caches or nodes: tried in place of others close to them. */
    edges: Int32Array;
    /** Bytes, or 0: the usual distance, until `settle` finds a better one. */
    prefetch: number;
  }): NativeHandle;
  /**
   * Moves the weights to huge pages where they lie and measures the best prefetch distances; resolves to the bytes that
   * now are on huge pages.
   */
  settle(handle: NativeHandle): Promise<number>;
  createSequence(handle: NativeHandle): number;
  freeSequence(handle: NativeHandle, sequence: number): void;
  sequenceLength(handle: NativeHandle, sequence: number): number;
  /** Beside 0, the least length to which a sequence can be cut or at which it can be forked. */
  rewindLimit(handle: NativeHandle, sequence: number): number;
  truncate(handle: NativeHandle, sequence: number, length: number): void;
  fork(handle: NativeHandle, sequence: number, length: number): number;
  step(
    handle: NativeHandle,
    tokens: Int32Array,
    sequences: Int32Array,
    positions: Int32Array,
    outputRows: Int32Array,
    trace: boolean,
    /** Empty: not wanted. */
    logits: Float32Array,
    tritCounts: Int32Array,
    /** As `TopLogits`; empty: not wanted. */
    topIds: Int32Array,
    topLogits: Float32Array,
    masses: Float64Array,
  ): Promise<StepStatus>;
  /** Steps run on so many threads from now on; 0: on as many as help. */
  useThreads(handle: NativeHandle, threads: number): void;
  info(handle: NativeHandle): NativeInfo;
  dispose(handle: NativeHandle): void;
  /** Asks for huge pages under memory that is not touched yet; returns the index at which the first one begins. */
  expectHugePages(memory: Uint8Array): number;
  /** Rows of a dense matrix (dtype 0 f32, 1 f16, 2 bf16) to int8; resolves to the first row with a NaN, or -1. */
  quantizeRows(
    bytes: Uint8Array,
    dtype: number,
    rows: number,
    columns: number,
    codes: Int8Array,
    rowScale: Float32Array,
    threads: number,
  ): Promise<number>;
  /**
   * Rows of a GGUF file's blocks (source 0 Q2_0, 1 the same in blocks of 128, 2 PTQ1_0, 3 Q1_0) or of an MLX pack (6,
   * without scales) to panels; resolves to the columns of a canonical group, -1 for a scale that is not finite, -2 where
   * only the slow way knows.
   */
  repackGrouped(
    bytes: Uint8Array,
    source: number,
    rows: number,
    columns: number,
    panels: Uint8Array,
    scales: Uint16Array,
  ): Promise<number>;
  /** Masters (dtype as above) to rowquad bytes; resolves to the scale, or NaN when something is not finite. */
  mastersToRowquad(bytes: Uint8Array, dtype: number, rows: number, columns: number, out: Uint8Array): Promise<number>;
  measure(kind: 'read' | 'macs', isa: string, threads: number, bytes: number): Promise<number>;
};

export type NativeState = LoadedAddon<NativeAddon>;

/** Decided once a process; with `now` no compiler is waited for. */
export const loadNative = (options: { readonly now?: boolean } = {}): Promise<NativeState> =>
  loadAddon<NativeAddon>('bitnet', options);
