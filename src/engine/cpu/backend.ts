// The native backend: hands the recorded program to the addon once, then one asynchronous call per step.

import { ArgumentError, CancelledError } from '../../errors.ts';
import {
  type Backend,
  type Executable,
  type ExecutableInfo,
  LARGE_MODEL_BYTES,
  type LoadOptions,
  type SequenceId,
  type Step,
  type StepResult,
  type ThreadsFound,
  type ThreadsUsed,
} from '../backend.ts';
import type { Program } from '../program.ts';
import { encodeProgram } from '../recorded/encode.ts';
import { NativeEngineError, STATUS, stepFailure } from '../recorded/step-status.ts';
import { checkRewind } from '../rewind.ts';
import { emptyTop } from '../top-logits.ts';
import { checkStep, weightBytesPerToken } from '../validate.ts';
import { coreLimits } from './cores.ts';
import { loadNative, type NativeAddon, type NativeHandle, type NativeInfo } from './native.ts';
import { fullGroups, readTopology } from './topology.ts';
import { hugePageMemory } from './weight-memory.ts';

/** Values of BITNET_ISA. */
export const ISA_NAMES = ['scalar', 'avx2', 'avxvnni', 'avx512', 'amx', 'neon'] as const;

export type CpuLoadOptions = LoadOptions & {
  /** Instruction set; BITNET_ISA, else the best one, when not given. */
  readonly isa?: string;
  /** Bytes that each thread asks for ahead of its stream of weights; measured when not given. */
  readonly prefetchBytes?: number;
};

export const cpuBackend = {
  name: 'cpu',
  unavailable: async ({ now = false } = {}) => {
    const native = await loadNative({ now });
    return 'reason' in native ? native.reason : undefined;
  },
  weightMemory: hugePageMemory,
  load: async (program: Program, options: CpuLoadOptions): Promise<CpuExecutable> => {
    const native = await loadNative();
    if ('reason' in native) {
      throw new NativeEngineError({
        what: 'the native kernels cannot be used here',
        where: native.reason,
        fix: 'use --backend wasm',
      });
    }
    if (options.signal?.aborted) throw new CancelledError('loading was cancelled');
    const executable = new CpuExecutable(native.addon, program, options);
    // Weights that do not come from `weightMemory` are moved.
    if (executable.info.weightBytes >= LARGE_MODEL_BYTES) await executable.settle();
    return executable;
  },
} satisfies Backend;

/** Of the addon. */
const MOST_THREADS = 256;

/** To ask for the threads used takes 6 us, as long as a hundredth of a small model's step. */
const STEPS_BETWEEN_READS = 16;

type Threads = { readonly used: ThreadsUsed; readonly found: ThreadsFound };

const threadsOf = ({ used, found }: NativeInfo): Threads => ({
  used: { generation: used.one, prompt: used.many },
  found: {
    generation: found.one ? used.one : undefined,
    prompt: found.many ? used.many : undefined,
  },
});

/** The instruction set to ask the addon for: '' is its own choice. */
export function chooseIsa(wanted: string | undefined, usable: readonly string[], built: readonly string[]): string {
  if (wanted === undefined || wanted === '') return '';
  const matches = (isa: string) => isa === wanted || (wanted === 'neon' && isa.startsWith('neon'));
  if (usable.some(matches)) return wanted;
  const known = ISA_NAMES.some((name) => name === wanted) || built.includes(wanted);
  throw new ArgumentError({
    what: known
      ? `this CPU or build cannot run the instruction set "${wanted}"`
      : `unknown instruction set "${wanted}"`,
    where: 'BITNET_ISA',
    fix: `use one of ${usable.join(', ')}, or leave it unset`,
  });
}

export class CpuExecutable implements Executable {
  readonly info: ExecutableInfo;
  readonly #addon: NativeAddon;
  readonly #program: Program;
  #handle: NativeHandle | undefined;
  /** As last read: the addon does not tell during a step, or when it was disposed. */
  #threads: Threads;
  #steps = 0;
  #isRunning = false;

  constructor(addon: NativeAddon, program: Program, options: CpuLoadOptions) {
    const { usable, built } = addon.isas();
    const isa = chooseIsa(options.isa ?? process.env.BITNET_ISA, usable, built);
    const threads = options.threads ?? Math.min(coreLimits().usable, MOST_THREADS);
    const fixed = options.threads !== undefined;
    // Each step sees to the rows that it needs: the kernels read the tables where they are.
    const { words, blobs } = encodeProgram(program, program.rope.upTo?.(0));
    const edges = Int32Array.from(fixed ? [] : fullGroups(readTopology(), threads));
    try {
      this.#handle = addon.load({ words, blobs, isa, threads, fixed, edges, prefetch: options.prefetchBytes ?? 0 });
    } catch (error) {
      throw new NativeEngineError({ what: (error as Error).message, where: program.name }, { cause: error });
    }
    this.#addon = addon;
    this.#program = program;
    const loaded = addon.info(this.#handle);
    this.#threads = threadsOf(loaded);
    this.info = { backend: 'cpu', isa: loaded.isa, threads: loaded.threads, weightBytes: weightBytesPerToken(program) };
  }

  createSequence(): SequenceId {
    const id = this.#addon.createSequence(this.#live());
    if (id < 0) throw new NativeEngineError({ what: 'no room for another sequence', where: this.#program.name });
    return id;
  }

  freeSequence(sequence: SequenceId): void {
    this.#addon.freeSequence(this.#live(), sequence);
  }

  sequenceLength(sequence: SequenceId): number {
    const length = this.#addon.sequenceLength(this.#live(), sequence);
    if (length < 0) throw new RangeError(`sequence ${sequence} does not exist`);
    return length;
  }

  rewindLimit(sequence: SequenceId): number {
    const limit = this.#addon.rewindLimit(this.#live(), sequence);
    if (limit < 0) throw new RangeError(`sequence ${sequence} does not exist`);
    return limit;
  }

  truncate(sequence: SequenceId, length: number): void {
    checkRewind(this, 'truncate to', sequence, length);
    this.#addon.truncate(this.#live(), sequence, length);
  }

  fork(sequence: SequenceId, length: number): SequenceId {
    checkRewind(this, 'fork at', sequence, length);
    return this.#addon.fork(this.#live(), sequence, length);
  }

  async step(step: Step): Promise<StepResult> {
    const handle = this.#live();
    const program = this.#program;
    checkStep(program, step, (sequence) => {
      const length = this.#addon.sequenceLength(handle, sequence);
      return length < 0 ? undefined : length;
    });
    program.rope.upTo?.(step.positions.reduce((most, position) => Math.max(most, position), 0) + 1);
    const trace = step.trace === true;
    const outputs = step.outputRows.length;
    const logits = new Float32Array(step.withoutLogits === true ? 0 : outputs * program.vocabSize);
    const top = emptyTop(outputs, step.top ?? 0);
    const tritCounts = new Int32Array(trace ? step.tokens.length * program.tracePoints * 3 : 0);
    const { tokens, sequences, positions, outputRows } = step;
    const args = [tokens, sequences, positions, outputRows, trace, logits, tritCounts] as const;
    const tops = [top.ids, top.logits, top.mass] as const;
    if (this.#steps++ % STEPS_BETWEEN_READS === 0) this.#readThreads();
    const running = this.#addon.step(handle, ...args, ...tops);
    this.#isRunning = true;
    const result = await running.finally(() => {
      this.#isRunning = false;
    });
    if (result.status !== STATUS.ok) throw stepFailure(program, result);
    return { logits, top, tritCounts };
  }

  useThreads(threads: number): void {
    this.#addon.useThreads(this.#live(), threads);
  }

  /** During a step, what was known before it; after disposal, what it had come to: whoever ends a program may still be told. */
  threadsUsed(): ThreadsUsed {
    return this.#readThreads().used;
  }

  threadsFound(): ThreadsFound {
    return this.#readThreads().found;
  }

  #readThreads(): Threads {
    if (this.#handle !== undefined && !this.#isRunning) this.#threads = threadsOf(this.#addon.info(this.#handle));
    return this.#threads;
  }

  /** Moves the weights to huge pages where the system has them. */
  settle(): Promise<number> {
    return this.#addon.settle(this.#live());
  }

  /** Counters and memory of the addon, for tests and `bench`. */
  nativeInfo(): NativeInfo {
    return this.#addon.info(this.#live());
  }

  [Symbol.dispose](): void {
    if (this.#handle === undefined) return;
    this.#readThreads();
    this.#addon.dispose(this.#handle);
    this.#handle = undefined;
  }

  #live(): NativeHandle {
    if (this.#handle === undefined)
      throw new NativeEngineError({ what: 'this program was disposed', where: this.#program.name });
    return this.#handle;
  }
}
