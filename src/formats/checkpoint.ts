// One face for every place weights can lie: a .safetensors file, several of them behind an index, or a .gguf file.

import type { Allocate } from '../tensor/allocate.ts';
import type { TensorView } from '../tensor/tensor-view.ts';

export type TensorInfo = {
  readonly name: string;
  /** As the file spells it: a safetensors dtype (`U8`, `BF16`) or a ggml type (`TQ2_0`, `I2_S`). */
  readonly dtype: string;
  /** Row-major, outermost first, also for GGUF (which lists the innermost first). */
  readonly shape: readonly number[];
  readonly byteLength: number;
  readonly file: string;
  /** Of the first byte, from the start of `file`. */
  readonly offset: number;
};

/** Nothing of the data section is read before it is asked for. Dispose it to close its files. */
export interface Checkpoint extends Disposable {
  readonly format: 'safetensors' | 'gguf';
  /** The file, or the index file of a sharded checkpoint. */
  readonly path: string;
  readonly metadata: ReadonlyMap<string, unknown>;
  /** In the order of the file. */
  names(): string[];
  has(name: string): boolean;
  /** Throws `UnknownTensorError`. */
  info(name: string): TensorInfo;
  /**
   * A tensor of a plain element type, aligned for it, perhaps the file's own memory: not to be written to. Else it lies
   * in memory from `allocate`. Throws `UnsupportedTypeError` for block-quantized ggml types.
   */
  read(name: string, allocate?: Allocate): Promise<TensorView>;
  /** All bytes, whatever the type, aligned for any element type; in the same memory as with `read`. */
  readBytes(name: string, allocate?: Allocate): Promise<Uint8Array<ArrayBuffer>>;
  /** Bytes [start, end) of the tensor. */
  readRange(name: string, start: number, end: number): Promise<Uint8Array<ArrayBuffer>>;
  /** Fills `out` from byte `start` of the tensor on; `out` may be shared memory. */
  readInto(name: string, start: number, out: Uint8Array): Promise<void>;
}
