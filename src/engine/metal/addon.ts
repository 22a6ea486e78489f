// The addon's functions (kernels/metal/addon.mm), and the tape that `run` takes.

import { BitnetError } from '../../errors.ts';
import { UnsupportedProgramError } from '../backend.ts';
import { type Arguments, KERNELS, type KernelName, packStruct, type StructName } from './signatures.ts';

export type MetalAddon = {
  open(source: string): { name: string; maxBufferLength: number; workingSet: number };
  pipeline(name: string): { id: number; maxThreads: number; threadgroupBytes: number };
  allocate(bytes: number): { id: number; memory: ArrayBuffer };
  /** The bytes' own pages as a buffer; undefined where they are not whole pages. */
  wrap(bytes: Uint8Array | Int8Array): { id: number; offset: number } | undefined;
  release(id: number): void;
  /** One command buffer. Resolves with the seconds it took on the GPU. */
  run(tape: Uint32Array): Promise<number>;
};

/** The GPU, its compiler or its memory refused. */
export class MetalError extends BitnetError {
  readonly code = 'METAL';
  readonly fault = 'job';
}

/** A program that the Metal kernels cannot run, for a reason that holds on every GPU. */
export class MetalUnsupportedError extends UnsupportedProgramError {
  readonly code = 'METAL_UNSUPPORTED';

  constructor(what: string, where: string) {
    super({ what, where, fix: 'use --backend cpu for this model' });
  }
}

/** A buffer as a kernel is given it. */
export type Bound = { readonly id: number; readonly offset: number };

export type Grid = readonly [x: number, y: number, z: number];

export type Dispatch = {
  readonly kernel: KernelName;
  readonly grid: Grid;
  readonly threads: number;
  readonly args: Readonly<Record<string, Bound | Readonly<Record<string, number>>>>;
};

/** Types the arguments by the kernel's signature. */
export function dispatch<K extends KernelName>(
  kernel: K,
  grid: Grid,
  threads: number,
  args: Arguments<K, Bound>,
): Dispatch {
  return { kernel, grid, threads, args: args as Dispatch['args'] };
}

/** The dispatches as the words that the addon's `run` reads. */
export function writeTape(dispatches: readonly Dispatch[], pipelineId: (kernel: KernelName) => number): Uint32Array {
  const words: number[] = [];
  for (const { kernel, grid, threads, args } of dispatches) {
    const signature = Object.entries(KERNELS[kernel]) as [string, number | StructName][];
    words.push(pipelineId(kernel), ...grid, threads, signature.length);
    signature.forEach(([name, kind], index) => {
      const argument = args[name];
      if (argument === undefined) throw new RangeError(`${kernel}: no argument ${name}`);
      if (typeof kind === 'string') {
        const packed = packStruct(kind, argument as Readonly<Record<string, number>>);
        words.push(index, 1, packed.length, ...packed);
      } else {
        const { id, offset } = argument as Bound;
        words.push(index, 0, id, offset);
      }
    });
  }
  return Uint32Array.from(words);
}
