// The WebAssembly backend: the C++ engine of kernels/ compiled to one module, on one thread. It is there wherever Node
// is, needs no compiler, and computes the same bits as the native one.

import { readFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { setFlagsFromString } from 'node:v8';
import { BitnetError, CancelledError } from '../../errors.ts';
import type { Backend, Executable, ExecutableInfo, LoadOptions, SequenceId, Step, StepResult } from '../backend.ts';
import { stepFailure } from '../cpu/backend.ts';
import { encodeProgram } from '../cpu/encode.ts';
import type { Program } from '../program.ts';
import { checkStep, weightBytesPerToken } from '../validate.ts';
import { type WasmInstance, type WasmMemory, type WasmModule, webAssembly } from './web-assembly.ts';

/** The module's memory (at most 4 GiB) is too small, or the program is not one the kernels accept. */
export class WasmEngineError extends BitnetError {
  readonly code = 'WASM_ENGINE';
  readonly fault = 'job';
}

/** relaxed-simd multiplies int8 pairs in one instruction; simd128 is in every Node we support. */
export type WasmIsa = 'relaxed-simd' | 'simd128';

const FILES: Readonly<Record<WasmIsa, string>> = {
  'relaxed-simd': 'bitnet-relaxed.wasm',
  simd128: 'bitnet-simd.wasm',
};

type Exports = {
  memory: WasmMemory;
  alloc(bytes: number): number;
  free(address: number): void;
  create(words: number, wordCount: number, pairs: number, count: number): number;
  sequence_create(): number;
  sequence_free(id: number): void;
  sequence_length(id: number): number;
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
  ): number;
  stages(): number;
  run_stage(stage: number): number;
  end(): number;
  failure_status(): number;
  failure_op(): number;
  failure_text(): number;
};

export type WasmLoadOptions = LoadOptions & { readonly isa?: WasmIsa };

const modules = new Map<WasmIsa, Promise<WasmModule | undefined>>();

/** Undefined when this Node cannot run the module. */
function compiled(isa: WasmIsa): Promise<WasmModule | undefined> {
  let found = modules.get(isa);
  if (found === undefined) {
    found = compile(isa);
    modules.set(isa, found);
  }
  return found;
}

async function compile(isa: WasmIsa): Promise<WasmModule | undefined> {
  const folder = join(dirname(fileURLToPath(import.meta.url)), '..', '..', '..', 'kernels', 'wasm');
  const bytes = await readFile(join(folder, FILES[isa]));
  // Node 20 knows relaxed SIMD behind a flag; later ones have it on.
  if (isa === 'relaxed-simd' && !webAssembly.validate(bytes)) setFlagsFromString('--experimental-wasm-relaxed-simd');
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
    for (const isa of wanted) {
      const module = await compiled(isa);
      if (module === undefined) continue;
      if (options.signal?.aborted) throw new CancelledError('loading was cancelled');
      return new WasmExecutable(await webAssembly.instantiate(module), isa, program);
    }
    throw new WasmEngineError({ what: `this Node cannot run ${wanted.join(' or ')}`, fix: 'use the backend "js"' });
  },
} satisfies Backend;

export class WasmExecutable implements Executable {
  readonly info: ExecutableInfo;
  readonly #program: Program;
  #exports: Exports | undefined;
  /** Kept between steps; grown when a step needs more. */
  #room = { address: 0, bytes: 0 };

  constructor(instance: WasmInstance, isa: WasmIsa, program: Program) {
    this.#exports = instance.exports as unknown as Exports;
    this.#program = program;
    const { words, blobs } = encodeProgram(program);
    const wordsAt = this.#copyIn(words);
    const pairs = new Uint32Array(2 * blobs.length);
    blobs.forEach((blob, i) => {
      pairs[2 * i] = this.#copyIn(blob);
      pairs[2 * i + 1] = blob.byteLength;
    });
    const pairsAt = this.#copyIn(pairs);
    if (this.#exports.create(wordsAt, words.length, pairsAt, blobs.length) === 0) {
      throw new WasmEngineError({ what: this.#failureText(), where: program.name });
    }
    this.#exports.free(wordsAt);
    this.#exports.free(pairsAt);
    this.info = { backend: 'wasm', isa, threads: 1, weightBytes: weightBytesPerToken(program) };
  }

  createSequence(): SequenceId {
    const id = this.#live().sequence_create();
    if (id < 0) throw new WasmEngineError({ what: 'no room for another sequence', where: this.#program.name });
    return id;
  }

  freeSequence(sequence: SequenceId): void {
    this.#live().sequence_free(sequence);
  }

  sequenceLength(sequence: SequenceId): number {
    const length = this.#live().sequence_length(sequence);
    if (length < 0) throw new RangeError(`sequence ${sequence} does not exist`);
    return length;
  }

  truncate(sequence: SequenceId, length: number): void {
    const known = this.sequenceLength(sequence);
    if (!(length >= 0 && length <= known)) throw new RangeError(`truncate to ${length} of ${known}`);
    this.#live().truncate(sequence, length);
  }

  fork(sequence: SequenceId, length: number): SequenceId {
    const known = this.sequenceLength(sequence);
    if (!(length >= 0 && length <= known)) throw new RangeError(`fork at ${length} of ${known}`);
    const id = this.#live().fork(sequence, length);
    if (id < 0) throw new WasmEngineError({ what: this.#failureText(), where: this.#program.name });
    return id;
  }

  async step(step: Step): Promise<StepResult> {
    const wasm = this.#live();
    const program = this.#program;
    checkStep(program, step, (sequence) => {
      const length = wasm.sequence_length(sequence);
      return length < 0 ? undefined : length;
    });
    const { tokens, sequences, positions, outputRows } = step;
    const trace = step.trace === true;
    const logitCount = outputRows.length * program.vocabSize;
    const countCount = trace ? tokens.length * program.tracePoints * 3 : 0;
    const sizes = [tokens.length, tokens.length, tokens.length, outputRows.length, logitCount, countCount];
    const [tokensAt, sequencesAt, positionsAt, outputsAt, logitsAt, countsAt] = this.#layOut(sizes) as [
      number,
      number,
      number,
      number,
      number,
      number,
    ];
    const words = new Int32Array(wasm.memory.buffer);
    words.set(tokens, tokensAt / 4);
    words.set(sequences, sequencesAt / 4);
    words.set(positions, positionsAt / 4);
    words.set(outputRows, outputsAt / 4);
    const rows = [tokens.length, tokensAt, sequencesAt, positionsAt] as const;
    if (wasm.begin(...rows, outputRows.length, outputsAt, trace ? 1 : 0, logitsAt, countsAt) === 0)
      throw this.#failure();
    const stages = wasm.stages();
    for (let stage = 0; stage < stages; stage += 1) if (wasm.run_stage(stage) === 0) break;
    if (wasm.end() === 0) throw this.#failure();
    // The memory may have grown, which replaces its buffer.
    return {
      logits: new Float32Array(wasm.memory.buffer, logitsAt, logitCount).slice(),
      tritCounts: new Int32Array(wasm.memory.buffer, countsAt, countCount).slice(),
    };
  }

  [Symbol.dispose](): void {
    this.#exports = undefined;
  }

  #live(): Exports {
    if (this.#exports === undefined) {
      throw new WasmEngineError({ what: 'this program was disposed', where: this.#program.name });
    }
    return this.#exports;
  }

  #alloc(bytes: number): number {
    const address = bytes < 2 ** 32 ? this.#live().alloc(bytes) >>> 0 : 0;
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
      if (this.#room.address !== 0) this.#live().free(this.#room.address);
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

  #failureText(): string {
    const { memory, failure_text } = this.#live();
    const bytes = new Uint8Array(memory.buffer, failure_text() >>> 0, 200);
    return new TextDecoder().decode(bytes.subarray(0, bytes.indexOf(0)));
  }

  #failure(): BitnetError {
    const wasm = this.#live();
    const result = { status: wasm.failure_status(), op: wasm.failure_op(), text: this.#failureText() };
    return stepFailure(this.#program, result);
  }
}
