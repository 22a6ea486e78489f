// A program on the device: a step is one list of instructions, and one launch.

import { CancelledError } from '../../errors.ts';
import {
  type Executable,
  type ExecutableInfo,
  type LoadOptions,
  NonFiniteError,
  type SequenceId,
  type Step,
  type StepResult,
} from '../backend.ts';
import { BLOCK_POSITIONS, KvBlocks } from '../gpu/kv-blocks.ts';
import type { Program } from '../program.ts';
import { checkRewind } from '../rewind.ts';
import { checkStep, weightBytesPerToken } from '../validate.ts';
import { CudaError, CudaUnsupportedError } from './addon.ts';
import {
  attentionFor,
  bestBytes,
  blockScratchFloats,
  checkProgram,
  codesStride,
  encode,
  kernelOf,
  labelsOf,
  type Memory,
  type Shape,
  scratchFloats,
  splitsFor,
} from './encode.ts';
import type { Gpu, HostMemory, KernelName, Work } from './gpu.ts';
import { writeInstructions } from './instruction.ts';
import { placeWeights } from './weights.ts';

const MAX_ROWS = 512;
/** Bytes of logits, and of attention's scratch, of one launch at most. */
const MAX_LOGITS_BYTES = 64 << 20;
const MAX_SCRATCH_BYTES = 256 << 20;
const KEPT_LISTS = 32;
const INPUT_HEADER = 64;
/** Rows up to which this thread waits for the device. */
const WAIT_ROWS = 8;

type Sequence = { length: number; readonly blocks: number[] };
type List = { readonly address: number; readonly length: number; readonly kernels: readonly KernelName[] };
/** Memory of the device, and how much. */
type Place = { address: number; bytes: number };

export type BestResult = {
  /** (O,): the largest logit's id, the lowest among equals. */
  readonly ids: Uint32Array;
  /** (O,). */
  readonly logits: Float32Array;
};

export type CudaOptions = LoadOptions & {
  /** Rows of one launch at most; longer steps are cut, which no result can show. */
  readonly maxRows?: number;
  /** One launch an instruction, for cards whose blocks cannot wait for one another. */
  readonly phases?: boolean;
};

export class CudaExecutable implements Executable {
  readonly info: ExecutableInfo;
  readonly #gpu: Gpu;
  readonly #program: Program;
  readonly #labels: readonly string[];
  readonly #maxRows: number;
  readonly #phases: boolean;
  readonly #weights: ReturnType<typeof placeWeights>;
  readonly #kv: KvBlocks;
  readonly #sequences = new Map<SequenceId, Sequence>();
  readonly #lists = new Map<string, List>();
  readonly #places = new Map<string, Place>();
  readonly #hosts = new Map<string, HostMemory>();
  #buffers: number[] = [];
  #rows = 0;
  /** Positions whose rotations are there. */
  #turns = 0;
  #nextSequence = 0;
  #running = false;
  #disposed = false;

  constructor(gpu: Gpu, program: Program, options: CudaOptions = {}) {
    if (options.signal?.aborted) throw new CancelledError('loading was cancelled');
    checkProgram(program);
    this.#gpu = gpu;
    this.#program = program;
    this.#labels = labelsOf(program);
    this.#maxRows = options.maxRows ?? MAX_ROWS;
    this.#phases = options.phases ?? gpu.info.cooperative === 0;
    const { layers, kvHeads, headDim } = program.kv;
    this.#kv = new KvBlocks(gpu, layers * 2 * kvHeads * headDim * BLOCK_POSITIONS * 4);
    this.#weights = placeWeights(gpu, program);
    this.info = { backend: 'cuda', isa: gpu.name, threads: 1, weightBytes: weightBytesPerToken(program) };
    try {
      this.#host('failed', 4 * Math.max(1, this.#labels.length));
      const table = program.contextLength * Math.max(1, program.rope.rotaryDim / 2) * 4;
      for (const name of ['cosine', 'sine']) this.#place(name, table);
    } catch (error) {
      this[Symbol.dispose]();
      if (!(error instanceof CudaError)) throw error;
      throw new CudaUnsupportedError(error.text.what, program.name);
    }
  }

  createSequence(): SequenceId {
    const id = this.#nextSequence++;
    this.#sequences.set(id, { length: 0, blocks: [] });
    return id;
  }

  freeSequence(sequence: SequenceId): void {
    const found = this.#sequences.get(sequence);
    if (found !== undefined) this.#kv.trim(found.blocks, 0);
    this.#sequences.delete(sequence);
  }

  sequenceLength(sequence: SequenceId): number {
    return this.#sequence(sequence).length;
  }

  rewindLimit(_sequence: SequenceId): number {
    return 0;
  }

  truncate(sequence: SequenceId, length: number): void {
    const found = this.#sequence(sequence);
    checkRewind(this, 'truncate to', sequence, length);
    found.length = length;
    this.#kv.trim(found.blocks, length);
  }

  fork(sequence: SequenceId, length: number): SequenceId {
    const from = this.#sequence(sequence);
    checkRewind(this, 'fork at', sequence, length);
    const blocks: number[] = [];
    this.#kv.reserve(blocks, length);
    const bytes = this.#kv.blockBytes;
    if (blocks.length > 0) {
      this.#gpu.performNow(blocks.map((to, i): Work => ({ copy: 'within', to, from: from.blocks[i]!, bytes })));
    }
    const id = this.createSequence();
    this.#sequences.set(id, { length, blocks });
    return id;
  }

  async step(step: Step): Promise<StepResult> {
    const { vocabSize, tracePoints } = this.#program;
    const traced = step.trace === true;
    // One part, as nearly always: its logits are copied once, into memory that nobody cleared first.
    let only: Float32Array | undefined;
    let logits: Float32Array | undefined;
    const tritCounts = new Int32Array(traced ? step.tokens.length * tracePoints * 3 : 0);
    await this.#run(step, false, (part) => {
      const found = new Float32Array(this.#hosts.get('logits')!.memory, 0, part.outputs * vocabSize);
      if (part.outputs === step.outputRows.length) only = found.slice();
      else {
        logits ??= new Float32Array(step.outputRows.length * vocabSize);
        logits.set(found, part.firstOutput * vocabSize);
      }
      if (traced && tracePoints > 0) {
        const counts = new Int32Array(this.#hosts.get('counts')!.memory, 0, part.tokens * tracePoints * 3);
        tritCounts.set(counts, part.firstToken * tracePoints * 3);
      }
    });
    return { logits: logits ?? only ?? new Float32Array(0), tritCounts };
  }

  /** As `step`, but finds the largest logit of each output row on the device, so that a greedy step brings back two numbers. */
  async stepBest(step: Step): Promise<BestResult> {
    const outputs = step.outputRows.length;
    const result = { ids: new Uint32Array(outputs), logits: new Float32Array(outputs) };
    await this.#run(step, true, (part) => {
      if (part.outputs === 0) return;
      const { memory } = this.#hosts.get('bests')!;
      const [ids, values] = [new Uint32Array(memory), new Float32Array(memory)];
      for (let i = 0; i < part.outputs; i += 1) {
        result.ids[part.firstOutput + i] = ids[2 * i]!;
        result.logits[part.firstOutput + i] = values[2 * i + 1]!;
      }
    });
    return result;
  }

  /** The instructions of a step of these rows: what docs/cuda.md counts, and the tests look at. */
  instructionsOf(tokens: number, outputs: number, positions: number): ReturnType<typeof encode> {
    const shape = this.#shape(tokens, outputs, 1, positions, false, false);
    this.#prepare(shape, 1);
    return encode(this.#program, this.#memory(shape), shape);
  }

  [Symbol.dispose](): void {
    if (this.#disposed) return;
    if (this.#running) throw new RangeError('disposed while a step runs');
    this.#disposed = true;
    this.#gpu.release(this.#weights.address);
    this.#kv.dispose();
    this.#forgetLists();
    for (const { address } of this.#places.values()) this.#gpu.release(address);
    this.#places.clear();
    this.#hosts.clear();
    this.#sequences.clear();
  }

  // ---- a step

  async #run(step: Step, best: boolean, finished: (part: Part) => void): Promise<void> {
    if (this.#disposed) throw new RangeError('the executable was disposed');
    if (this.#running) throw new RangeError('one step at a time');
    checkStep(this.#program, step, (sequence) => this.#sequences.get(sequence)?.length);
    this.#running = true;
    const lengths = new Map<Sequence, number>();
    step.sequences.forEach((id, t) => {
      lengths.set(this.#sequence(id), step.positions[t]! + 1);
    });
    try {
      for (const [sequence, length] of lengths) this.#kv.reserve(sequence.blocks, length);
      for (const part of this.#cut(step, best)) {
        await this.#runPart(step, part, best);
        finished(part);
      }
      // Only a finished step moves the sequences on.
      for (const [sequence, length] of lengths) sequence.length = length;
    } catch (error) {
      for (const sequence of lengths.keys()) this.#kv.trim(sequence.blocks, sequence.length);
      throw error;
    } finally {
      this.#running = false;
    }
  }

  /** Parts small enough for the activations, the logits and attention's scratch. */
  *#cut(step: Step, best: boolean): Generator<Part> {
    const tokens = step.tokens.length;
    const maxOutputs = Math.max(1, Math.floor(MAX_LOGITS_BYTES / (this.#program.vocabSize * 4 * (best ? 0.25 : 1))));
    let positions = 0;
    for (const position of step.positions) positions = Math.max(positions, position + 1);
    const grid = this.#gpu.info.multiprocessors;
    const kind = attentionFor(this.#program, tokens, new Set(step.sequences).size, positions, grid);
    const rowBytes = Math.max(1, scratchFloats(this.#program, kind, splitsFor(positions)) * 4);
    const maxRows = Math.max(1, Math.min(this.#maxRows, Math.floor(MAX_SCRATCH_BYTES / rowBytes)));
    let firstToken = 0;
    let firstOutput = 0;
    while (firstToken < tokens) {
      let end = firstToken;
      let outputs = 0;
      while (end < tokens && end - firstToken < maxRows) {
        const wanted = step.outputRows[firstOutput + outputs] === end;
        if (wanted && outputs === maxOutputs) break;
        if (wanted) outputs += 1;
        end += 1;
      }
      yield { firstToken, tokens: end - firstToken, firstOutput, outputs };
      firstToken = end;
      firstOutput += outputs;
    }
  }

  #shape(tokens: number, outputs: number, sequences: number, positions: number, traced: boolean, best: boolean): Shape {
    // Lists are kept: what they depend on is rounded.
    const rounded = Math.ceil(positions / BLOCK_POSITIONS) * BLOCK_POSITIONS;
    const attention = attentionFor(this.#program, tokens, sequences, rounded, this.#gpu.info.multiprocessors);
    return { tokens, outputs, attention, splits: splitsFor(rounded), positions: rounded, traced, best };
  }

  async #runPart(step: Step, part: Part, best: boolean): Promise<void> {
    const { firstToken, tokens, outputs } = part;
    let positions = 0;
    for (let t = firstToken; t < firstToken + tokens; t += 1) positions = Math.max(positions, step.positions[t]! + 1);
    const { sequences } = this.#inputLayout(step, part);
    const shape = this.#shape(tokens, outputs, sequences, positions, step.trace === true, best);
    this.#turnsUpTo(positions);
    const inputBytes = this.#inputBytes(step, part);
    this.#prepare(shape, inputBytes);
    const input = this.#hosts.get('input')!;
    const inputAt = this.#places.get('input')!.address;
    this.#writeInput(step, part, input.memory, inputAt);
    const failed = new Uint32Array(this.#hosts.get('failed')!.memory);
    failed.fill(0);
    const list = this.#list(shape);
    const grid = this.#gpu.info.multiprocessors;
    const work: Work[] = [{ copy: 'in', to: inputAt, from: input.address, bytes: inputBytes }];
    // Several rows have kernels of their own for what takes longest.
    if (list.length > 0 && (this.#phases || tokens > 1)) {
      list.kernels.forEach((kernel, i) => {
        work.push({ kernel, grid, together: false, args: [list.address, list.length, i, inputAt] });
      });
    } else if (list.length > 0) {
      const args = [list.address, list.length, this.#gpu.takeBarrier(list.length, grid), inputAt, this.#gpu.barrier];
      work.push({ kernel: 'bitnet_step', grid, together: true, args });
    }
    await this.#gpu.perform(work, this.#program.name, tokens <= WAIT_ROWS);
    for (let i = 0; i < this.#labels.length; i += 1) {
      if (failed[i] !== 0) throw new NonFiniteError(`${this.#program.name}, ${this.#labels[i]!}`);
    }
  }

  /** Header, tokens, positions, rows of the table, output rows, the table of blocks: see `Input` of instruction.cuh. */
  #inputLayout(step: Step, { firstToken, tokens, outputs }: Part) {
    let sequences = 0;
    let stride = 1;
    for (let t = firstToken; t < firstToken + tokens; t += 1) {
      if (t === firstToken || step.sequences[t] !== step.sequences[t - 1]) sequences += 1;
      stride = Math.max(stride, this.#sequence(step.sequences[t]!).blocks.length);
    }
    const tables = Math.ceil((INPUT_HEADER + 4 * (3 * tokens + outputs)) / 8) * 8;
    return { sequences, stride, tables };
  }

  #inputBytes(step: Step, part: Part): number {
    const { sequences, stride, tables } = this.#inputLayout(step, part);
    return tables + 8 * sequences * stride;
  }

  #writeInput(step: Step, part: Part, memory: ArrayBuffer, address: number): void {
    const { firstToken, tokens, firstOutput, outputs } = part;
    const { stride, tables } = this.#inputLayout(step, part);
    const header = new Uint32Array(memory, 0, 4);
    header.set([tokens, outputs, stride, 0]);
    const addresses = new BigUint64Array(memory, 16, 5);
    const words = new Int32Array(memory, INPUT_HEADER, 3 * tokens + outputs);
    [0, tokens, 2 * tokens, 3 * tokens].forEach((word, i) => {
      addresses[i] = BigInt(address + INPUT_HEADER + 4 * word);
    });
    addresses[4] = BigInt(address + tables);
    words.set(step.tokens.subarray(firstToken, firstToken + tokens), 0);
    words.set(step.positions.subarray(firstToken, firstToken + tokens), tokens);
    const table = new BigUint64Array(memory, tables);
    let row = -1;
    for (let t = 0; t < tokens; t += 1) {
      const id = step.sequences[firstToken + t]!;
      if (t === 0 || id !== step.sequences[firstToken + t - 1]) {
        row += 1;
        this.#sequence(id).blocks.forEach((block, i) => {
          table[row * stride + i] = BigInt(block);
        });
      }
      words[2 * tokens + t] = row;
    }
    for (let i = 0; i < outputs; i += 1) words[3 * tokens + i] = step.outputRows[firstOutput + i]! - firstToken;
  }

  // ---- memory

  #turnsUpTo(positions: number): void {
    const { rope, contextLength } = this.#program;
    if (positions <= this.#turns || rope.rotaryDim === 0) return;
    const half = rope.rotaryDim / 2;
    const end = Math.min(contextLength, Math.max(positions, 2 * this.#turns, 256));
    const { cos, sin } = rope.upTo?.(end) ?? rope;
    const from = this.#turns * half;
    for (const [name, table] of [
      ['cosine', cos],
      ['sine', sin],
    ] as const) {
      const rows = table.slice(from, end * half);
      this.#gpu.upload(this.#places.get(name)!.address + 4 * from, new Uint8Array(rows.buffer));
    }
    this.#turns = end;
  }

  #prepare({ tokens, outputs, attention, splits, best }: Shape, inputBytes: number): void {
    const { vocabSize, tracePoints, kv } = this.#program;
    this.#place('input', inputBytes);
    this.#host('input', inputBytes);
    const floats =
      tokens * scratchFloats(this.#program, attention, splits) +
      this.#gpu.info.multiprocessors * blockScratchFloats(attention, splits);
    this.#place('scratch', Math.max(floats * 4, best ? bestBytes(outputs) : 0));
    this.#place('counters', tokens * kv.kvHeads * 4);
    this.#host('counts', tokens * tracePoints * 12);
    if (best) {
      this.#place('logits', outputs * vocabSize * 4);
      this.#host('bests', outputs * 8);
    } else this.#host('logits', Math.max(1, outputs) * vocabSize * 4);
    if (tokens <= this.#rows) return;
    const rows = Math.min(Math.max(this.#maxRows, tokens), 2 ** Math.ceil(Math.log2(tokens)));
    const sizes = this.#program.buffers.map(({ dtype, width }, id) => {
      if (id === this.#program.logits) return 0;
      if (dtype === 'i8' || dtype === 'i16') return codesStride(this.#program, id) * rows;
      return Math.max(2, width) * 4 * rows;
    });
    const offsets: number[] = [];
    let bytes = 0;
    for (const size of sizes) {
      offsets.push(bytes);
      bytes += Math.ceil(size / 256) * 256;
    }
    const address = this.#place('activations', bytes);
    this.#buffers = offsets.map((offset) => address + offset);
    this.#rows = rows;
    this.#forgetLists();
  }

  #memory(shape: Shape): Memory {
    const buffers = [...this.#buffers];
    buffers[this.#program.logits] = shape.best
      ? this.#places.get('logits')!.address
      : this.#hosts.get('logits')!.address;
    return {
      weights: this.#weights.placed,
      cosine: this.#places.get('cosine')!.address,
      sine: this.#places.get('sine')!.address,
      buffers,
      failed: this.#hosts.get('failed')!.address,
      scratch: this.#places.get('scratch')!.address,
      counters: this.#places.get('counters')!.address,
      counts: this.#hosts.get('counts')!.address,
      bests: shape.best ? this.#hosts.get('bests')!.address : 0,
      grid: this.#gpu.info.multiprocessors,
      sharedBytes: this.#gpu.sharedBytes,
    };
  }

  #list(shape: Shape): List {
    const { tokens, outputs, attention, splits, positions, traced, best } = shape;
    // The positions count only where they decide how many heads a block takes.
    const key = `${tokens} ${outputs} ${attention} ${splits} ${attention === 'whole' ? positions : 0} ${traced} ${best}`;
    const known = this.#lists.get(key);
    if (known !== undefined) return known;
    const instructions = encode(this.#program, this.#memory(shape), shape);
    const bytes = writeInstructions(instructions);
    const address = this.#take(bytes.length, 'instructions');
    this.#gpu.upload(address, bytes);
    if (this.#lists.size >= KEPT_LISTS) {
      const [oldest, list] = this.#lists.entries().next().value!;
      this.#gpu.release(list.address);
      this.#lists.delete(oldest);
    }
    const list = { address, length: instructions.length, kernels: instructions.map(kernelOf) };
    this.#lists.set(key, list);
    return list;
  }

  #forgetLists(): void {
    for (const { address } of this.#lists.values()) this.#gpu.release(address);
    this.#lists.clear();
  }

  #take(bytes: number, what: string): number {
    const address = this.#gpu.allocate(bytes);
    if (address !== undefined) return address;
    throw new CudaError({
      what: `${this.#gpu.name} has no ${Math.ceil(bytes / 2 ** 20)} MiB left`,
      where: what,
      fix: 'shorten the prompts, run fewer sequences at once, or use --backend cpu',
    });
  }

  /** At least so many bytes of the device under this name; grows by doubling. */
  #place(name: string, bytes: number): number {
    const known = this.#places.get(name);
    if (known !== undefined && known.bytes >= bytes) return known.address;
    const size = Math.max(64, bytes, Math.min(2 * (known?.bytes ?? 0), bytes + MAX_LOGITS_BYTES));
    if (known !== undefined) {
      this.#gpu.release(known.address);
      this.#places.delete(name);
      this.#forgetLists();
      if (name === 'activations') this.#rows = 0;
    }
    const address = this.#take(size, name);
    this.#places.set(name, { address, bytes: size });
    return address;
  }

  #host(name: string, bytes: number): HostMemory {
    const known = this.#hosts.get(name);
    if (known !== undefined && known.memory.byteLength >= bytes) return known;
    const size = Math.max(64, bytes, Math.min(2 * (known?.memory.byteLength ?? 0), bytes + MAX_LOGITS_BYTES));
    const made = this.#gpu.host(Math.ceil(size / 64) * 64);
    if (known !== undefined) this.#forgetLists();
    this.#hosts.set(name, made);
    return made;
  }

  #sequence(id: SequenceId): Sequence {
    const found = this.#sequences.get(id);
    if (found === undefined) throw new RangeError(`sequence ${id} does not exist`);
    return found;
  }
}

type Part = {
  readonly firstToken: number;
  readonly tokens: number;
  readonly firstOutput: number;
  readonly outputs: number;
};
