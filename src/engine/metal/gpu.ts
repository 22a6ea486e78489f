// The device side of the addon: pipelines by name, buffers with a life, and the addon's errors as ours.

import { deviceErrorText } from '../gpu/device-error.ts';
import { type Bound, type Dispatch, type MetalAddon, MetalError, writeTape } from './addon.ts';
import type { KernelName } from './signatures.ts';

/** Elements that rows of activations and weights are padded to: kernels read whole 16-byte vectors of any type. */
export const ROW_ALIGN = 16;

export function padded(width: number): number {
  return Math.ceil(width / ROW_ALIGN) * ROW_ALIGN;
}

export type Pipeline = { readonly id: number; readonly maxThreads: number };

/** A buffer of the GPU in shared memory. `memory` is absent where the bytes belong to the caller. */
export type GpuBuffer = Bound & { readonly memory?: ArrayBuffer };

export class Gpu {
  readonly name: string;
  readonly maxBufferLength: number;
  readonly #addon: MetalAddon;
  readonly #pipelines = new Map<KernelName, Pipeline>();

  constructor(addon: MetalAddon, kernelText: string) {
    this.#addon = addon;
    const { name, maxBufferLength } = ours(() => addon.open(kernelText));
    this.name = name;
    this.maxBufferLength = maxBufferLength;
  }

  pipeline(kernel: KernelName): Pipeline {
    const known = this.#pipelines.get(kernel);
    if (known !== undefined) return known;
    const made = ours(() => this.#addon.pipeline(kernel));
    this.#pipelines.set(kernel, made);
    return made;
  }

  /** Zeroed: the padding of rows has to be, and stays so. */
  allocate(bytes: number, what: string): GpuBuffer & { readonly memory: ArrayBuffer } {
    const size = Math.max(16, Math.ceil(bytes / 16) * 16);
    const { id, memory } = ours(() => this.#addon.allocate(size), what);
    new Uint8Array(memory).fill(0);
    return { id, offset: 0, memory };
  }

  /** The bytes as they lie, where they fill whole pages; else a copy. */
  place(bytes: Uint8Array | Int8Array | Float32Array, what: string): GpuBuffer {
    const view = new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const wrapped = ours(() => this.#addon.wrap(view), what);
    if (wrapped !== undefined) return wrapped;
    const buffer = this.allocate(view.byteLength, what);
    new Uint8Array(buffer.memory).set(view);
    return buffer;
  }

  release(buffer: Bound): void {
    ours(() => this.#addon.release(buffer.id));
  }

  tape(dispatches: readonly Dispatch[]): Uint32Array {
    return writeTape(dispatches, (kernel) => this.pipeline(kernel).id);
  }

  /** One command buffer; resolves with its seconds on the GPU. */
  async run(tape: Uint32Array, what: string): Promise<number> {
    try {
      return await this.#addon.run(tape);
    } catch (cause) {
      throw metalError(cause, what);
    }
  }
}

function ours<T>(call: () => T, where?: string): T {
  try {
    return call();
  } catch (cause) {
    throw metalError(cause, where);
  }
}

function metalError(cause: unknown, where: string | undefined): MetalError {
  return new MetalError(deviceErrorText('Metal', cause, where), { cause });
}
