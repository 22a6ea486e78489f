// The WebAssembly backend: the C++ engine of kernels/ compiled to one module. It is there wherever Node is, needs no
// compiler, and computes the same bits as the native one. Small programs and hosts without shared memory run on the
// caller's thread, in a module that knows of no others; large ones run on several threads (threads.ts).

import { readFile } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { setFlagsFromString } from 'node:v8';
import { BitnetError, CancelledError } from '../../errors.ts';
import { packageRoot } from '../../package/root.ts';
import type { Backend, Executable, ExecutableInfo, LoadOptions, SequenceId, Step, StepResult } from '../backend.ts';
import type { Program } from '../program.ts';
import { encodeProgram } from '../recorded/encode.ts';
import { stepFailure } from '../recorded/step-status.ts';
import { checkRewind } from '../rewind.ts';
import { checkStep, weightBytesPerToken } from '../validate.ts';
import { WasmThreads } from './threads.ts';
import { type WasmGlobal, type WasmMemory, type WasmModule, webAssembly } from './web-assembly.ts';

/** The module's memory (at most 4 GiB) is too small, or the program is not one the kernels accept. */
export class WasmEngineError extends BitnetError {
  readonly code = 'WASM_ENGINE';
  readonly fault = 'job';
}

/** relaxed-simd multiplies int8 pairs in one instruction; simd128 is in every Node we support. */
export type WasmIsa = 'relaxed-simd' | 'simd128';

/** Threads are for the better instruction set only: it is in every Node we support, behind a flag at the least. */
const FILES = {
  'relaxed-simd': 'bitnet-relaxed.wasm',
  simd128: 'bitnet-simd.wasm',
  threads: 'bitnet-relaxed-threads.wasm',
} as const satisfies Record<WasmIsa | 'threads', string>;
type Build = keyof typeof FILES;

type Exports = {
  alloc(bytes: number): number;
  free(address: number): void;
  create(words: number, wordCount: number, pairs: number, count: number, threads: number): number;
  sequence_create(): number;
  sequence_free(id: number): void;
  sequence_length(id: number): number;
  rewind_limit(id: number): number;
  truncate(id: number, length: number): number;
  fork(id: number, length: number): number;
  begin(
    rows: number,
    tokens: number,
    sequences: number,
    positions: number,
    outputs: number,
    outputRows: number,
    trace: number,
    logits: number,
    tritCounts: number,
    top: number,
    topIds: number,
    topLogits: number,
    masses: number,
  ): number;
  stages(): number;
  run_stage(stage: number): number;
  end(): number;
  abandon(): number;
  failure_status(): number;
  failure_op(): number;
  failure_text(): number;
};

/** What only the module with threads has. */
type ThreadExports = Exports & {
  __stack_pointer: WasmGlobal;
  set_threads(threads: number): void;
  start(): void;
  progress(): number;
};

export type WasmLoadOptions = LoadOptions & {
  readonly isa?: WasmIsa;
  /** Told when threads are wanted and cannot be had; stderr when not given. */
  readonly warn?: (line: string) => void;
};

/**
 * Multiply-adds of one token from which on threads are started unasked. Below, a token is there within a millisecond or
 * two, and starting them (20 ms and 5 MB each) would be felt more than what they save.
 */
const WORTH_THREADS = 50_000_000;
/** More come only when asked for: so many read memory as fast as it can be read. */
const DEFAULT_THREADS = 16;
/** The most that kernels/wasm/pool.h takes. */
const MOST_THREADS = 256;
const STACK_BYTES = 128 << 10;
/** 4 GiB, as the module says. */
const MOST_PAGES = 65_536;
/** What the module needs before its first allocation. */
const INITIAL_PAGES = 8;

const modules = new Map<Build, Promise<WasmModule | undefined>>();

/** Undefined when this Node cannot run the module. */
function compiled(build: Build): Promise<WasmModule | undefined> {
  let found = modules.get(build);
  if (found === undefined) {
    found = compile(build);
    modules.set(build, found);
  }
  return found;
}

async function compile(build: Build): Promise<WasmModule | undefined> {
  const folder = join(packageRoot(), 'kernels', 'wasm');
  const bytes = await readFile(join(folder, FILES[build]));
  // Node 20 knows relaxed SIMD behind a flag; later ones have it on.
  if (build !== 'simd128' && !webAssembly.validate(bytes)) setFlagsFromString('--experimental-wasm-relaxed-simd');
  return webAssembly.validate(bytes) ? webAssembly.compile(bytes) : undefined;
}

export const wasmBackend = {
  name: 'wasm',
  unavailable: async () => {
    try {
      return (await compiled('simd128')) === undefined ? 'this Node cannot run WebAssembly SIMD' : undefined;
    } catch (error) {
      return `the WebAssembly module could not be read: ${(error as Error).message}`;
    }
  },
  load: async (program: Program, options: WasmLoadOptions): Promise<WasmExecutable> => {
    const wanted: readonly WasmIsa[] = options.isa === undefined ? ['relaxed-simd', 'simd128'] : [options.isa];
    const threads = wantedThreads(program, options);
    if (threads > 1) {
      const instance = await instantiateShared(options);
      if (options.signal?.aborted) throw new CancelledError('loading was cancelled');
      if (instance !== undefined) return WasmExecutable.withThreads(instance, program, threads, options);
    }
    for (const isa of wanted) {
      const module = await compiled(isa);
      if (module === undefined) continue;
      if (options.signal?.aborted) throw new CancelledError('loading was cancelled');
      const exports = (await webAssembly.instantiate(module)).exports as Exports & { readonly memory: WasmMemory };
      return new WasmExecutable({ exports, memory: exports.memory }, isa, program);
    }
    throw new WasmEngineError({ what: `this Node cannot run ${wanted.join(' or ')}`, fix: 'use the backend "js"' });
  },
} satisfies Backend;

type Instance = { readonly exports: Exports; readonly memory: WasmMemory };
type SharedInstance = {
  readonly exports: ThreadExports;
  readonly memory: WasmMemory;
  readonly module: WasmModule;
  /** `call` is what the module calls when the last item of a step was done on this thread. */
  readonly onFinished: (call: () => void) => void;
};

/** Undefined, and said, when this Node or machine gives no shared memory. */
async function instantiateShared(options: WasmLoadOptions): Promise<SharedInstance | undefined> {
  try {
    const module = await compiled('threads');
    if (module === undefined) throw new Error('this Node does not run modules with shared memory');
    // Reserves address space; memory is taken as it grows.
    const memory = new webAssembly.Memory({ initial: INITIAL_PAGES, maximum: MOST_PAGES, shared: true });
    let finished = () => {};
    const imports = { env: { memory, finished: () => finished() } };
    const exports = (await webAssembly.instantiate(module, imports)).exports as ThreadExports;
    const onFinished = (call: () => void) => {
      finished = call;
    };
    return { exports, memory, module, onFinished };
  } catch (error) {
    warnOneThread(options, error as Error);
    return undefined;
  }
}

function warnOneThread({ warn }: WasmLoadOptions, error: Error): void {
  const line = `the wasm backend runs on one thread: ${error.message}`;
  if (warn === undefined) process.stderr.write(`${line}\n`);
  else warn(line);
}

function wantedThreads(program: Program, { isa, threads }: WasmLoadOptions): number {
  if (isa === 'simd128') return 1;
  if (threads !== undefined) return Math.min(threads, MOST_THREADS);
  return macsPerRow(program) < WORTH_THREADS ? 1 : Math.min(availableParallelism(), DEFAULT_THREADS);
}

/** Multiply-adds of one token through the program's matrices. */
function macsPerRow({ ops, weights, choices = 0 }: Program): number {
  let macs = 0;
  for (const op of ops) {
    if (!('weight' in op)) continue;
    const weight = weights[op.weight];
    if (weight === undefined || weight.kind === 'vector') continue;
    macs += weight.rows * weight.columns * (op.op === 'expertMatmul' ? choices : 1);
  }
  return macs;
}

/** The threads of an executable. */
type Crew = {
  readonly threads: WasmThreads;
  readonly count: number;
  readonly start: () => void;
  readonly onLost: (error: Error) => void;
};

export class WasmExecutable implements Executable {
  readonly #isa: WasmIsa;
  readonly #program: Program;
  readonly #weightBytes: number;
  #instance: Instance | undefined;
  #crew: Crew | undefined;
  /** The threads have the memory. */
  #busy = false;
  /** Kept between steps; grown when a step needs more. */
  #room = { address: 0, bytes: 0 };

  constructor(instance: Instance, isa: WasmIsa, program: Program, threads = 1) {
    this.#instance = instance;
    this.#isa = isa;
    this.#program = program;
    this.#weightBytes = weightBytesPerToken(program);
    const { exports } = instance;
    const { words, blobs } = encodeProgram(program);
    const wordsAt = this.#copyIn(words);
    const pairs = new Uint32Array(2 * blobs.length);
    blobs.forEach((blob, i) => {
      pairs[2 * i] = this.#copyIn(blob);
      pairs[2 * i + 1] = blob.byteLength;
    });
    const pairsAt = this.#copyIn(pairs);
    if (exports.create(wordsAt, words.length, pairsAt, blobs.length, threads) === 0) {
      throw new WasmEngineError({ what: this.#failureText(instance), where: program.name });
    }
    exports.free(wordsAt);
    exports.free(pairsAt);
  }

  /** Steps run on `count` threads; where these cannot be started, on the caller's, which is said. */
  static async withThreads(
    { exports, memory, module, onFinished }: SharedInstance,
    program: Program,
    count: number,
    options: WasmLoadOptions,
  ): Promise<WasmExecutable> {
    const made = new WasmExecutable({ exports, memory }, 'relaxed-simd', program, count);
    try {
      exports.set_threads(count);
      const stackTops = Array.from({ length: count }, () => made.#alloc(STACK_BYTES) + STACK_BYTES);
      const progress = () => exports.progress();
      const threads = await WasmThreads.start({ module, memory, stackTops, progress });
      onFinished(() => threads.finished());
      made.#crew = {
        threads,
        count,
        start: () => exports.start(),
        onLost: (error) => warnOneThread(options, error),
      };
    } catch (error) {
      warnOneThread(options, error as Error);
    }
    return made;
  }

  /** `threads` is how many run now. */
  get info(): ExecutableInfo {
    return {
      backend: 'wasm',
      isa: this.#isa,
      threads: this.#crew?.threads.usable ? this.#crew.count : 1,
      weightBytes: this.#weightBytes,
    };
  }

  createSequence(): SequenceId {
    const id = this.#live().exports.sequence_create();
    if (id < 0) throw new WasmEngineError({ what: 'no room for another sequence', where: this.#program.name });
    return id;
  }

  freeSequence(sequence: SequenceId): void {
    this.#live().exports.sequence_free(sequence);
  }

  sequenceLength(sequence: SequenceId): number {
    const length = this.#live().exports.sequence_length(sequence);
    if (length < 0) throw new RangeError(`sequence ${sequence} does not exist`);
    return length;
  }

  rewindLimit(sequence: SequenceId): number {
    const limit = this.#live().exports.rewind_limit(sequence);
    if (limit < 0) throw new RangeError(`sequence ${sequence} does not exist`);
    return limit;
  }

  truncate(sequence: SequenceId, length: number): void {
    checkRewind(this, 'truncate to', sequence, length);
    this.#live().exports.truncate(sequence, length);
  }

  fork(sequence: SequenceId, length: number): SequenceId {
    checkRewind(this, 'fork at', sequence, length);
    const instance = this.#live();
    const id = instance.exports.fork(sequence, length);
    if (id < 0) throw new WasmEngineError({ what: this.#failureText(instance), where: this.#program.name });
    return id;
  }

  async step(step: Step): Promise<StepResult> {
    const instance = this.#live();
    const { exports, memory } = instance;
    const program = this.#program;
    checkStep(program, step, (sequence) => {
      const length = exports.sequence_length(sequence);
      return length < 0 ? undefined : length;
    });
    const { tokens, sequences, positions, outputRows } = step;
    const trace = step.trace === true;
    const { top = 0 } = step;
    const outputCount = outputRows.length;
    const logitCount = step.withoutLogits === true ? 0 : outputCount * program.vocabSize;
    const countCount = trace ? tokens.length * program.tracePoints * 3 : 0;
    const topCount = outputCount * top;
    const massCount = top > 0 ? outputCount : 0;
    // Doubles first, where they are aligned.
    const [massesAt, tokensAt, sequencesAt, positionsAt, outputsAt, logitsAt, countsAt, idsAt, valuesAt] = this.#layOut(
      [
        2 * massCount,
        ...[tokens.length, tokens.length, tokens.length, outputCount],
        ...[logitCount, countCount, topCount, topCount],
      ],
    ) as [number, number, number, number, number, number, number, number, number];
    const words = new Int32Array(memory.buffer);
    words.set(tokens, tokensAt / 4);
    words.set(sequences, sequencesAt / 4);
    words.set(positions, positionsAt / 4);
    words.set(outputRows, outputsAt / 4);
    const rows = [tokens.length, tokensAt, sequencesAt, positionsAt] as const;
    const outputs = [outputCount, outputsAt, trace ? 1 : 0, logitCount === 0 ? 0 : logitsAt, countsAt] as const;
    const tops = [top, idsAt, valuesAt, massesAt] as const;
    const begin = () => {
      if (exports.begin(...rows, ...outputs, ...tops) === 0) throw this.#failure(instance);
    };
    begin();
    const crew = this.#crew;
    const together = crew === undefined ? 'not begun' : await this.#runTogether(crew);
    if (together === 'not begun') runAlone(exports);
    else if (together === 'lost') {
      if (exports.abandon() !== 0) {
        throw new WasmEngineError({
          what: 'the threads were lost in the middle of a step, and with them the states of its sequences',
          where: program.name,
          fix: 'begin these sequences again',
        });
      }
      // No sequence has moved on: what the lost threads have computed is computed again.
      begin();
      runAlone(exports);
    }
    if (exports.end() === 0) throw this.#failure(instance);
    // The memory may have grown, which replaces its buffer.
    return {
      logits: new Float32Array(memory.buffer, logitsAt, logitCount).slice(),
      tritCounts: new Int32Array(memory.buffer, countsAt, countCount).slice(),
      top: {
        ids: new Int32Array(memory.buffer, idsAt, topCount).slice(),
        logits: new Float32Array(memory.buffer, valuesAt, topCount).slice(),
        mass: new Float64Array(memory.buffer, massesAt, massCount).slice(),
      },
    };
  }

  /** During a step: when it is over. */
  [Symbol.dispose](): void {
    this.#instance = undefined;
    if (!this.#busy) this.#dismiss();
  }

  /** Whether the threads were lost, before the step began or in it. */
  async #runTogether({ threads, start, onLost }: Crew): Promise<'done' | 'not begun' | 'lost'> {
    this.#busy = true;
    let begun = false;
    try {
      await threads.run(() => {
        begun = true;
        start();
      });
      return 'done';
    } catch (error) {
      this.#dismiss();
      onLost(error as Error);
      return begun ? 'lost' : 'not begun';
    } finally {
      this.#busy = false;
      if (this.#instance === undefined) this.#dismiss();
    }
  }

  #dismiss(): void {
    void this.#crew?.threads.end();
    this.#crew = undefined;
  }

  #live(): Instance {
    if (this.#instance === undefined) {
      throw new WasmEngineError({ what: 'this program was disposed', where: this.#program.name });
    }
    if (this.#busy) {
      throw new WasmEngineError({ what: 'a step of this program is running', where: this.#program.name });
    }
    return this.#instance;
  }

  #alloc(bytes: number): number {
    const address = bytes < 2 ** 32 ? this.#live().exports.alloc(bytes) >>> 0 : 0;
    if (address === 0) {
      throw new WasmEngineError({
        what: `WebAssembly has no room for ${bytes} more bytes`,
        where: this.#program.name,
        fix: 'a module has at most 4 GiB: use the backend "cpu"',
      });
    }
    return address;
  }

  #copyIn(data: Uint8Array | Int8Array | Float32Array | Int32Array | Uint32Array): number {
    const address = this.#alloc(data.byteLength);
    const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    new Uint8Array(this.#live().memory.buffer).set(bytes, address);
    return address;
  }

  /** Addresses of arrays of 4-byte elements, one behind the other in the step's room. */
  #layOut(counts: readonly number[]): number[] {
    const total = counts.reduce((sum, count) => sum + 4 * count, 0);
    if (total > this.#room.bytes) {
      if (this.#room.address !== 0) this.#live().exports.free(this.#room.address);
      this.#room = { address: 0, bytes: 0 };
      this.#room = { address: this.#alloc(total), bytes: total };
    }
    let at = this.#room.address;
    return counts.map((count) => {
      const here = at;
      at += 4 * count;
      return here;
    });
  }

  #failureText({ exports, memory }: Instance): string {
    // A copy: text is not decoded from shared memory.
    const bytes = new Uint8Array(memory.buffer, exports.failure_text() >>> 0, 200).slice();
    return new TextDecoder().decode(bytes.subarray(0, bytes.indexOf(0)));
  }

  #failure(instance: Instance): BitnetError {
    const { exports } = instance;
    const result = { status: exports.failure_status(), op: exports.failure_op(), text: this.#failureText(instance) };
    return stepFailure(this.#program, result);
  }
}

/** The stages of a step that has begun, on this thread. */
function runAlone({ stages, run_stage }: Exports): void {
  const count = stages();
  for (let stage = 0; stage < count; stage += 1) if (run_stage(stage) === 0) return;
}
