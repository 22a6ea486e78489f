// The addon's functions (kernels/cuda/addon.cc) and what they throw, as ours.

import { BitnetError } from '../../errors.ts';
import { UnsupportedProgramError } from '../backend.ts';

export type DeviceInfo = {
  readonly name: string;
  /** 12080 for 12.8. */
  readonly driver: number;
  readonly count: number;
  /** 90 for 9.0. */
  readonly capability: number;
  readonly multiprocessors: number;
  /** Shared memory that one block can have. */
  readonly sharedBytes: number;
  /** 1 where a grid can wait for itself. */
  readonly cooperative: number;
  readonly memoryBytes: number;
};

export type CudaAddon = {
  /** Opens the driver of this name and looks at the first device. */
  probe(library: string): DeviceInfo;
  /** Loads PTX text (ending in 0) or a cubin, with blocks of up to `shared` bytes of shared memory. */
  start(image: Uint8Array, kernels: readonly string[], shared: number): Promise<void>;
  /** Zeroed. */
  allocate(bytes: number): number;
  free(address: number): void;
  upload(address: number, bytes: Uint8Array): void;
  download(address: number, bytes: Uint8Array): void;
  memoryLeft(): number;
  /** Memory of this machine under one address for both; zeroed; freed with its last user. */
  host(bytes: number): { readonly address: number; readonly memory: ArrayBuffer };
  /** Copies and launches in order, an error if they take longer than `limitMs`. `here`: on this thread, which waits. */
  perform(work: Float64Array, here: boolean, limitMs: number): Promise<void> | undefined;
};

/** The device, its driver or its memory refused. */
export class CudaError extends BitnetError {
  readonly code = 'CUDA';
  readonly fault = 'job';
}

/** A program that the CUDA kernels do not run here. */
export class CudaUnsupportedError extends UnsupportedProgramError {
  readonly code = 'CUDA_UNSUPPORTED';

  constructor(what: string, where: string) {
    super({ what, where, fix: 'use --backend cpu for this model' });
  }
}

/** CUDA was asked for where it does not work. */
export class CudaUnavailableError extends BitnetError {
  readonly code = 'CUDA_UNAVAILABLE';
  readonly fault = 'call';

  constructor(reason: string) {
    super({ what: 'the cuda backend does not work here', where: reason, fix: 'use --backend auto' });
  }
}
