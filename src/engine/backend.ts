// What a backend must do, and nothing more: take a recorded program, keep its weights and KV caches, run steps.

import { BitnetError } from '../errors.ts';
import type { Allocate } from '../tensor/allocate.ts';
import type { Program } from './program.ts';

/** A sequence's KV cache inside one executable. */
export type SequenceId = number;

/**
 * One replay of the program over T rows. Rows of one sequence are contiguous and their positions consecutive,
 * starting at that sequence's current length; different sequences may share a step.
 */
export type Step = {
  /** (T,) token ids. */
  readonly tokens: Int32Array;
  /** (T,) sequence of each row. */
  readonly sequences: Int32Array;
  /** (T,) position of each row in its sequence. */
  readonly positions: Int32Array;
  /** (O,) increasing indices of the rows whose logits are wanted; may be empty. */
  readonly outputRows: Int32Array;
  /** Run the `countTrits` operations. */
  readonly trace?: boolean;
  /** Find so many of the largest logits of each output row, at most `MAX_TOP`; 0 (default): none. */
  readonly top?: number;
  /** The logits themselves are not wanted. */
  readonly withoutLogits?: boolean;
};

/** The largest logits of each of O rows; see `Step.top`. */
export type TopLogits = {
  /** (O, top) ids, those of the largest first; among equals the lower id first. */
  readonly ids: Int32Array;
  /** (O, top) their logits. */
  readonly logits: Float32Array;
  /** (O,) sum over the vocabulary of e^(logit - largest), at least 1; not finite where a logit is NaN or +infinity, or none is finite. */
  readonly mass: Float64Array;
};

/** Most logits that are told of a row. */
export const MAX_TOP = 64;

export type StepResult = {
  /** (O, vocabSize) row-major float32, the caller's to keep; empty with `withoutLogits`. */
  readonly logits: Float32Array;
  /** Empty where `top` was not asked for. */
  readonly top: TopLogits;
  /** (T, tracePoints, 3) minus, ergodic, plus; empty when the step was not traced. */
  readonly tritCounts: Int32Array;
};

export type LoadOptions = {
  /** Worker threads; as many as help where it is not given. Backends that have none ignore it. */
  readonly threads?: number;
  readonly signal?: AbortSignal;
};

export type ExecutableInfo = {
  readonly backend: BackendName;
  /** Instruction set in use: scalar, avx2, ..., simd128; undefined where it has no meaning. */
  readonly isa?: string;
  readonly threads: number;
  /** Bytes of weights that one decoded token reads. */
  readonly weightBytes: number;
  /** Bytes of recurrent states that a sequence takes here, where that is more than the program's. */
  readonly recurrentBytes?: number;
};

/** Threads that steps run on: a generation is limited by memory, a prompt by the multiply-add units. */
export type ThreadsUsed = { readonly generation: number; readonly prompt: number };

/** What measurement has come to; undefined: nothing yet, or the number was given. */
export type ThreadsFound = { readonly [Work in keyof ThreadsUsed]: ThreadsUsed[Work] | undefined };

/** A loaded program. Not reentrant: one step at a time. */
export interface Executable extends Disposable {
  readonly info: ExecutableInfo;
  /** An empty sequence. Memory grows with its length. */
  createSequence(): SequenceId;
  freeSequence(sequence: SequenceId): void;
  /** Tokens in the sequence's cache. */
  sequenceLength(sequence: SequenceId): number;
  /**
   * The least length, beside 0, to which the sequence can be cut or at which it can be forked: 0 with a plain KV cache; its
   * own length with recurrent states; with windows, what still has its window. Earlier points need a fork made in time.
   */
  rewindLimit(sequence: SequenceId): number;
  /** Forgets everything from position `length` on. Throws RangeError below `rewindLimit`, unless it is 0. */
  truncate(sequence: SequenceId, length: number): void;
  /** A new sequence whose first `length` positions are a copy of another's; recurrent states are copied. */
  fork(sequence: SequenceId, length: number): SequenceId;
  /** Runs the program. On failure the sequences are as before the call; those with recurrent states are empty. */
  step(step: Step): Promise<StepResult>;
  /** Steps run on so many of the threads from now on; 0: on as many as help. Absent where there is nothing to choose. */
  useThreads?(threads: number): void;
  /** How many steps run on now; changes while that is found out. */
  threadsUsed?(): ThreadsUsed;
  /** What of that was found out. */
  threadsFound?(): ThreadsFound;
}

export const BACKEND_NAMES = ['metal', 'cuda', 'cpu', 'wasm', 'js'] as const;
export type BackendName = (typeof BACKEND_NAMES)[number];

/** Models from this size on are worth some care about where in memory they lie; smaller ones live in the caches. */
export const LARGE_MODEL_BYTES = 64 << 20;

export interface Backend {
  readonly name: BackendName;
  /**
   * Undefined when usable here, else one sentence that says why not. `now`: what takes long (compiling) is begun and not
   * waited for; the sentence then says so.
   */
  unavailable(options?: { readonly now?: boolean }): Promise<string | undefined>;
  /** Of a backend that is usable here, what `doctor` says of it beside that. */
  detail?(): Promise<string | undefined>;
  /** Memory from which this backend reads the weights of a large model fastest, where that is not just any. */
  weightMemory?(): Promise<Allocate>;
  /** Throws `UnsupportedProgramError` for a program that another backend may run. */
  load(program: Program, options: LoadOptions): Promise<Executable>;
}

/** NaN or infinity where the arithmetic needs finite numbers: the weights are broken or not what they claim to be. */
export class NonFiniteError extends BitnetError {
  readonly code = 'NON_FINITE';
  readonly fault = 'job';

  constructor(where: string) {
    super({
      what: 'a NaN or infinity appeared in the activations',
      where,
      fix: 'the checkpoint is damaged or its scales are read the wrong way round (config quantization_config.linear_class): run `analyze` on it and compare the download with its published hash',
    });
  }
}

/** A sound program that this backend's kernels do not cover. */
export abstract class UnsupportedProgramError extends BitnetError {
  readonly fault = 'job';
}

/** A step whose rows do not fit the program or the sequences. */
export class StepError extends BitnetError {
  readonly code = 'BAD_STEP';
  readonly fault = 'call';
}
