// The device side of the addon: memory, lists of work, and a device that is lost stays lost.

import { deviceErrorText } from '../gpu/device-error.ts';
import type { BlockMemory } from '../gpu/kv-blocks.ts';
import { type CudaAddon, CudaError, type DeviceInfo } from './addon.ts';

/** Kernels by their place in the module. */
export const KERNELS = [
  'bitnet_step',
  'bitnet_one',
  'bitnet_one_grouped',
  'bitnet_one_any',
  'bitnet_phase',
  'bitnet_rows',
  'bitnet_some',
  'bitnet_tiles',
  'bitnet_head',
  'bitnet_ready',
  'bitnet_attend_rows',
  'bitnet_attend_batch',
] as const;
export type KernelName = (typeof KERNELS)[number];

/** Shared memory of a block, at least: what every card of sm_80 and later has, less a reserve. */
export const SHARED_BYTES = 98_304;
/** Of steps of many rows: the rest of a multiprocessor's memory is its cache, through which their weights stream. */
const MOST_SHARED_BYTES = 131_072;

/** Copies and launches; `writeWork` turns them into the addon's numbers, which may be kept. */
export type Work =
  | { readonly numbers: Float64Array }
  | { readonly copy: 'in' | 'within'; readonly to: number; readonly from: number; readonly bytes: number }
  | {
      readonly kernel: KernelName;
      readonly grid: number;
      /** The whole grid at once, or an error; or, where card and driver can, before the launch before it has ended. */
      readonly how: 'together' | 'early' | 'plain';
      readonly sharedBytes: number;
      /** This machine's address of an argument before the others that is more than a number. */
      readonly given?: number;
      readonly args: readonly number[];
    };

export function writeWork(work: readonly Work[]): Float64Array {
  const parts = work.map((item) => {
    if ('numbers' in item) return item.numbers;
    if ('copy' in item) return [item.copy === 'in' ? 0 : 1, item.to, item.from, item.bytes];
    const { kernel, grid, how, sharedBytes, given = 0, args } = item;
    const way = ['plain', 'together', 'early'].indexOf(how);
    return [2, KERNELS.indexOf(kernel), grid, sharedBytes, way, given, args.length, ...args];
  });
  const all = new Float64Array(parts.reduce((n, { length }) => n + length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

/** The barrier's counter; behind it what a profiling build of the kernels writes. */
export const BARRIER_BYTES = 65_536;

/** Copies within the device take milliseconds. */
const COPY_LIMIT_MS = 60_000;

export type HostMemory = { readonly address: number; readonly memory: ArrayBuffer };

const OUT_OF_MEMORY = /OUT_OF_MEMORY/;

export class Gpu implements BlockMemory {
  readonly info: DeviceInfo;
  /** Of every block of a step of one row, which streams through it, and of other steps. */
  readonly sharedBytes: { readonly one: number; readonly many: number };
  readonly #addon: CudaAddon;
  /** Why nothing works any more. */
  #lost: string | undefined;
  /** Of the grid's barrier, and its count so far: launches continue it. */
  readonly barrier: number;
  #count = 0;

  private constructor(addon: CudaAddon, info: DeviceInfo) {
    this.#addon = addon;
    this.info = info;
    this.sharedBytes = { one: sharedBytesOf(info), many: Math.min(MOST_SHARED_BYTES, sharedBytesOf(info)) };
    this.barrier = this.#ours(() => addon.allocate(BARRIER_BYTES));
  }

  /** Loads the kernels, which of PTX text takes half a minute the first time. */
  static async open(addon: CudaAddon, info: DeviceInfo, image: Uint8Array): Promise<Gpu> {
    try {
      await addon.start(image, KERNELS, sharedBytesOf(info));
    } catch (cause) {
      throw cudaError(cause);
    }
    return new Gpu(addon, info);
  }

  get name(): string {
    return this.info.name;
  }

  get lost(): string | undefined {
    return this.#lost;
  }

  /** The barrier's count before a launch of so many instructions; the launch adds to it. */
  takeBarrier(instructions: number, grid: number): number {
    const before = this.#count;
    this.#count = (this.#count + (instructions - 1) * grid) >>> 0;
    return before;
  }

  /** Zeroed memory; undefined where there is not so much. */
  allocate(bytes: number): number | undefined {
    try {
      return this.#ours(() => this.#addon.allocate(Math.max(64, bytes)));
    } catch (error) {
      if (error instanceof CudaError && OUT_OF_MEMORY.test(error.message)) return undefined;
      throw error;
    }
  }

  release(address: number): void {
    // What a lost device held is gone.
    if (this.#lost === undefined) this.#ours(() => this.#addon.free(address));
  }

  memoryLeft(): number {
    return this.#ours(() => this.#addon.memoryLeft());
  }

  host(bytes: number): HostMemory {
    return this.#ours(() => this.#addon.host(Math.max(64, bytes)));
  }

  upload(address: number, bytes: Uint8Array): void {
    if (bytes.byteLength > 0) this.#ours(() => this.#addon.upload(address, bytes));
  }

  download(address: number, bytes: Uint8Array): void {
    this.#ours(() => this.#addon.download(address, bytes));
  }

  /** Does what `writeWork` wrote. `here`: this thread waits, which costs less than to be told for what takes a millisecond. */
  async perform(work: Float64Array, what: string, here: boolean, limitMs: number): Promise<void> {
    this.#check();
    try {
      await this.#addon.perform(work, here, limitMs);
    } catch (cause) {
      throw this.#error(cause, what);
    }
  }

  copyPieces(pieces: readonly { readonly to: number; readonly from: number }[], bytes: number): void {
    const work = pieces.map(({ to, from }): Work => ({ copy: 'within', to, from, bytes }));
    this.#ours(() => this.#addon.perform(writeWork(work), true, COPY_LIMIT_MS));
  }

  #check(): void {
    if (this.#lost === undefined) return;
    throw new CudaError({
      what: `the CUDA device is lost since an earlier error (${this.#lost})`,
      fix: 'restart the server, or use --backend cpu',
    });
  }

  #ours<T>(call: () => T): T {
    this.#check();
    try {
      return call();
    } catch (cause) {
      throw this.#error(cause);
    }
  }

  #error(cause: unknown, where?: string): CudaError {
    const message = cause instanceof Error ? cause.message : String(cause);
    // Whatever else a driver reports, its context takes no more work after that.
    if (!OUT_OF_MEMORY.test(message)) this.#lost = message;
    return cudaError(cause, where);
  }
}

const sharedBytesOf = (info: DeviceInfo) => Math.max(SHARED_BYTES, info.sharedBytes);

const cudaError = (cause: unknown, where?: string) => new CudaError(deviceErrorText('CUDA', cause, where), { cause });
