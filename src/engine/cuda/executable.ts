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
  type TopLogits,
} from '../backend.ts';
import { BLOCK_POSITIONS, KvBlocks } from '../gpu/kv-blocks.ts';
import { type Part, type PartLimits, Sequences } from '../gpu/sequences.ts';
import type { Program } from '../program.ts';
import { emptyTop } from '../top-logits.ts';
import { weightBytesPerToken } from '../validate.ts';
import { CudaError, CudaUnsupportedError } from './addon.ts';
import {
  attentionFor,
  blockScratchFloats,
  checkProgram,
  codesStride,
  encode,
  kernelOf,
  labelsOf,
  oneRowKernel,
  POOL_BYTES,
  packetBytes,
  scratchFloats,
  splitsFor,
  type Together,
  topScratchBytes,
  topWords,
  WHOLE_MEMORY,
} from './encode.ts';
import { layStates, MAXIMA_BYTES, sortedBytes } from './encode-hybrid.ts';
import { type Gpu, type HostMemory, type KernelName, type Work, writeWork } from './gpu.ts';
import { INSTRUCTION_BYTES, type Instruction, writeInstructions } from './instruction.ts';
import type { Memory, Shape } from './shape.ts';
import { type StateSlot, StateSlots } from './state-slots.ts';
import { placeWeights } from './weights.ts';

const MAX_ROWS = 512;
/** Bytes of logits, and of attention's scratch, of one launch at most. */
const MAX_LOGITS_BYTES = 64 << 20;
const MAX_SCRATCH_BYTES = 256 << 20;
const KEPT_LISTS = 32;
const INPUT_HEADER = 64;
/** Of an input that comes with the launch of a step of one row, at most: `InlineInput` of instruction.cuh. */
const INLINE_BYTES = 2048;
/** Rows up to which this thread waits for the device. */
const WAIT_ROWS = 32;
/** No card takes so long, so a kernel hangs: for one row of the largest model and context some seconds, for 512 rows half a minute. */
const WAIT_LIMIT_MS = 60_000;
const LIMIT_MS = 600_000;

/** What of a step decides its list. */
type Asked = Pick<Step, 'trace' | 'top' | 'withoutLogits'>;
type List = {
  /** On the device. */
  readonly address: number;
  readonly length: number;
  /** Of a step of one row: the kernel that has all its operations and few others. */
  readonly oneRow?: KernelName;
  /** Of a list whose instructions are launched one by one: those, and the launches. */
  readonly here?: HostMemory;
  readonly launches?: Float64Array;
};
/** Where the arrays of a part's input begin, in words, and all its bytes: see `Input` of instruction.cuh. */
type InputLayout = {
  readonly ids: number;
  readonly positions: number;
  readonly rows: number;
  readonly outputRows: number;
  readonly firstRows: number;
  readonly tables: number;
  readonly states: number;
  readonly bytes: number;
};
/** Memory of the device, and how much. */
type Place = { address: number; bytes: number };
/** What decides how a part runs. */
type Form = {
  readonly tokens: number;
  readonly outputs: number;
  readonly sequences: number;
  /** Blocks in a row of the sequences' table. */
  readonly stride: number;
  /** Blocks that the longest context fills or begins. */
  readonly blocks: number;
  readonly traced: boolean;
  readonly top: number;
  readonly logits: boolean;
};
/** How parts of a form run, as long as memory and lists stay where they are: made once, so that a token costs little JavaScript. */
type Plan = {
  readonly form: Form;
  readonly layout: InputLayout;
  /** The input's, all words of it. */
  readonly input: Uint32Array;
  readonly list: List;
  readonly work: Float64Array;
  /** What `tell_top` writes. */
  readonly tops: { readonly words: Uint32Array; readonly floats: Float32Array } | undefined;
  /** Where in `work` the barrier's count goes, and behind three others the first tag; 0 for none. */
  readonly count: number;
  readonly tag: number;
};

export type CudaOptions = LoadOptions & {
  /** Rows of one launch at most; longer steps are cut, which no result can show. */
  readonly maxRows?: number;
  /** One launch an instruction, for cards whose blocks cannot wait for one another. */
  readonly phases?: boolean;
  /** Blocks of a launch at most, as of a card with so many multiprocessors: what each has to do is then more, and other code. */
  readonly blocks?: number;
  /** Milliseconds after which the device counts as lost if a part of a step has not ended. */
  readonly limitMs?: number;
  /** Bytes of an input of one row that come with the launch, at most; longer ones are copied before it. */
  readonly inlineBytes?: number;
};

export class CudaExecutable implements Executable {
  readonly info: ExecutableInfo;
  readonly #gpu: Gpu;
  readonly #program: Program;
  readonly #labels: readonly string[];
  readonly #maxRows: number;
  readonly #phases: boolean;
  readonly #blocks: number;
  readonly #limitMs: number | undefined;
  readonly #inlineBytes: number;
  readonly #weights: ReturnType<typeof placeWeights>;
  readonly #kv: KvBlocks;
  readonly #states: StateSlots;
  readonly #sequences: Sequences<StateSlot>;
  readonly #lists = new Map<string, List>();
  readonly #places = new Map<string, Place>();
  readonly #hosts = new Map<string, HostMemory>();
  #plan: Plan | undefined;
  #failed = new Uint32Array(0);
  #buffers: number[] = [];
  #rows = 0;
  /** Numbers that no packet has had yet: see `bitnet_one`. */
  #tag = 1;
  /** Positions whose rotations are there. */
  #turns = 0;

  constructor(gpu: Gpu, program: Program, options: CudaOptions = {}) {
    if (options.signal?.aborted) throw new CancelledError('loading was cancelled');
    checkProgram(program);
    this.#gpu = gpu;
    this.#program = program;
    this.#labels = labelsOf(program);
    this.#maxRows = options.maxRows ?? MAX_ROWS;
    this.#phases = options.phases ?? gpu.info.cooperative === 0;
    this.#limitMs = options.limitMs;
    this.#inlineBytes = Math.min(INLINE_BYTES, options.inlineBytes ?? INLINE_BYTES);
    this.#blocks = Math.min(options.blocks ?? Infinity, gpu.info.multiprocessors);
    const { layers, kvHeads, headDim } = program.kv;
    this.#kv = new KvBlocks(gpu, layers * 2 * kvHeads * headDim * BLOCK_POSITIONS * 4);
    this.#states = new StateSlots(gpu, layStates(program).bytes);
    this.#sequences = new Sequences(program, this.#kv, this.#states);
    this.#weights = placeWeights(gpu, program, this.#states.bytes);
    this.info = {
      backend: 'cuda',
      isa: gpu.name,
      threads: 1,
      weightBytes: weightBytesPerToken(program),
      // Convolutions' states have two copies, heads whole slices.
      ...(this.#states.bytes > 0 && { recurrentBytes: this.#states.bytes }),
    };
    try {
      this.#failed = new Uint32Array(this.#host('failed', 4 * Math.max(1, this.#labels.length)).memory);
      const table = program.contextLength * Math.max(1, program.rope.rotaryDim / 2) * 4;
      for (const name of ['cosine', 'sine']) this.#place(name, table);
    } catch (error) {
      this[Symbol.dispose]();
      if (!(error instanceof CudaError)) throw error;
      throw new CudaUnsupportedError(error.text.what, program.name);
    }
  }

  createSequence(): SequenceId {
    return this.#sequences.create();
  }

  freeSequence(sequence: SequenceId): void {
    this.#sequences.free(sequence);
  }

  sequenceLength(sequence: SequenceId): number {
    return this.#sequences.sequenceLength(sequence);
  }

  rewindLimit(sequence: SequenceId): number {
    return this.#sequences.rewindLimit(sequence);
  }

  truncate(sequence: SequenceId, length: number): void {
    this.#sequences.truncate(sequence, length);
  }

  fork(sequence: SequenceId, length: number): SequenceId {
    return this.#sequences.fork(sequence, length);
  }

  async step(step: Step): Promise<StepResult> {
    const { vocabSize, tracePoints } = this.#program;
    const traced = step.trace === true;
    const outputs = step.outputRows.length;
    const top = emptyTop(outputs, step.top ?? 0);
    // One part, as nearly always: its logits are copied once, into memory that nobody cleared first.
    let only: Float32Array | undefined;
    let logits: Float32Array | undefined;
    const tritCounts = new Int32Array(traced ? step.tokens.length * tracePoints * 3 : 0);
    const limits = () => this.#limits(step);
    await this.#sequences.run(step, limits, async (part) => {
      await this.#runPart(step, part);
      if (top.mass.length > 0) this.#readTop(part, top, step.top!);
      if (step.withoutLogits !== true) {
        const found = new Float32Array(this.#hosts.get('logits')!.memory, 0, part.outputs * vocabSize);
        if (part.outputs === outputs) only = found.slice();
        else if (part.outputs > 0) {
          logits ??= new Float32Array(outputs * vocabSize);
          logits.set(found, part.firstOutput * vocabSize);
        }
      }
      if (traced && tracePoints > 0) {
        const counts = new Int32Array(this.#hosts.get('counts')!.memory, 0, part.tokens * tracePoints * 3);
        tritCounts.set(counts, part.firstToken * tracePoints * 3);
      }
    });
    return { logits: logits ?? only ?? new Float32Array(0), top, tritCounts };
  }

  /** What `tell_top` wrote of a part's rows. */
  #readTop({ outputs, firstOutput }: Part, { ids, logits, mass }: TopLogits, count: number): void {
    const { words, floats } = this.#plan!.tops!;
    for (let i = 0; i < outputs; i += 1) {
      const row = firstOutput + i;
      const at = i * topWords(count);
      mass[row] = words[at + 2]! > 0 ? Number.NaN : words[at + 1]! + words[at]! / 2 ** 32;
      for (let j = 0; j < count; j += 1) {
        ids[row * count + j] = words[at + 4 + j]!;
        logits[row * count + j] = floats[at + 4 + count + j]!;
      }
    }
  }

  /** The instructions of a step of these rows: what docs/cuda.md counts, and the tests look at. */
  instructionsOf(tokens: number, outputs: number, positions: number, sequences = 1, asked: Asked = {}): Instruction[] {
    const shape = this.#shape(tokens, outputs, sequences, positions, asked);
    this.#prepare(shape, 1);
    return this.#encode(shape);
  }

  [Symbol.dispose](): void {
    if (!this.#sequences.close()) return;
    this.#gpu.release(this.#weights.address);
    this.#kv.dispose();
    this.#states.dispose();
    this.#forgetLists();
    for (const { address } of this.#places.values()) this.#gpu.release(address);
    this.#places.clear();
    this.#hosts.clear();
  }

  // ---- a step

  /** Parts small enough for the activations, the logits and attention's scratch. */
  #limits(step: Step): PartLimits {
    if (step.tokens.length === 1) return { rows: 1, outputs: 1 };
    const outputs = Math.max(1, Math.floor(MAX_LOGITS_BYTES / (this.#program.vocabSize * 4)));
    let positions = 0;
    for (const position of step.positions) positions = Math.max(positions, position + 1);
    const kind = this.#attentionFor(step.tokens.length, new Set(step.sequences).size, positions);
    const rowBytes = Math.max(1, scratchFloats(this.#program, kind, splitsFor(positions)) * 4);
    const rows = Math.max(1, Math.min(this.#maxRows, Math.floor(MAX_SCRATCH_BYTES / rowBytes)));
    return { rows, outputs };
  }

  #shape(tokens: number, outputs: number, sequences: number, positions: number, asked: Asked): Shape {
    // Lists are kept: what they depend on is rounded.
    const rounded = Math.ceil(positions / BLOCK_POSITIONS) * BLOCK_POSITIONS;
    const attention = this.#attentionFor(tokens, sequences, rounded);
    const { trace: traced = false, top = 0, withoutLogits = false } = asked;
    return {
      tokens,
      outputs,
      attention,
      single: sequences === tokens,
      splits: splitsFor(rounded),
      positions: rounded,
      traced,
      top,
      logits: !withoutLogits,
    };
  }

  #attentionFor(tokens: number, sequences: number, positions: number, waits = !this.#phases) {
    return attentionFor(this.#program, tokens, sequences, positions, this.#together(), waits);
  }

  #together(): Together {
    return { grid: this.#blocks, sharedBytes: this.#gpu.sharedBytes.one };
  }

  #takeTags(count: number): number {
    if (this.#tag + count >= 2 ** 32) {
      // What is left of a number's first use must not be taken for its second.
      const packets = this.#places.get('packets');
      if (packets !== undefined) this.#gpu.upload(packets.address, new Uint8Array(packets.bytes));
      this.#tag = 1;
    }
    this.#tag += count;
    return this.#tag - count;
  }

  async #runPart(step: Step, part: Part): Promise<void> {
    let positions = 0;
    for (let t = part.firstToken; t < part.firstToken + part.tokens; t += 1) {
      positions = Math.max(positions, step.positions[t]! + 1);
    }
    const plan = this.#planOf(step, part, positions);
    this.#turnsUpTo(positions);
    this.#writeInput(step, part, plan);
    this.#failed.fill(0);
    if (plan.count > 0) plan.work[plan.count] = this.#gpu.takeBarrier(plan.list.length, this.#blocks);
    if (plan.tag > 0) plan.work[plan.tag] = this.#takeTags(plan.list.length);
    const here = part.tokens <= WAIT_ROWS;
    await this.#gpu.perform(plan.work, this.#program.name, here, this.#limitMs ?? (here ? WAIT_LIMIT_MS : LIMIT_MS));
    this.#moveStates(step, part);
    // What a kernel writes there is 1.
    const at = this.#failed.indexOf(1);
    if (at >= 0) throw new NonFiniteError(`${this.#program.name}, ${this.#labels[at]!}`);
  }

  #planOf(step: Step, part: Part, positions: number): Plan {
    const form = this.#formOf(step, part, positions);
    if (this.#plan !== undefined && sameForm(this.#plan.form, form)) return this.#plan;
    this.#plan = undefined;
    const { tokens, outputs, sequences, traced, top, logits } = form;
    const shape = this.#shape(tokens, outputs, sequences, positions, { trace: traced, top, withoutLogits: !logits });
    const layout = inputLayout(form);
    this.#prepare(shape, layout.bytes);
    const input = this.#hosts.get('input')!;
    const inputAt = this.#places.get('input')!.address;
    const list = this.#list(shape);
    const isInline = list.oneRow !== undefined && layout.bytes <= this.#inlineBytes;
    const work: Work[] = isInline ? [] : [{ copy: 'in', to: inputAt, from: input.address, bytes: layout.bytes }];
    const together = list.launches === undefined && list.length > 0;
    const tags = list.oneRow === undefined ? 0 : 1;
    // Several rows have kernels of their own for what takes longest.
    if (list.launches !== undefined) {
      work.push({ numbers: list.launches });
    } else if (together) {
      const args = [list.address, list.length, 0, isInline ? 0 : inputAt, this.#gpu.barrier, ...(tags > 0 ? [0] : [])];
      const kernel = list.oneRow ?? 'bitnet_step';
      const given = tags > 0 ? { given: input.address } : {};
      work.push({ kernel, grid: this.#blocks, how: 'together', sharedBytes: this.#sharedBytes(shape), ...given, args });
    }
    const numbers = writeWork(work);
    // Where those zeros are.
    const count = together ? numbers.length - 3 - tags : 0;
    const tag = together ? tags * (numbers.length - 1) : 0;
    const words = new Uint32Array(input.memory, 0, layout.bytes / 4);
    writeHeader(words, form, layout);
    const told = top > 0 ? this.#hosts.get('tops')!.memory : undefined;
    const tops = told && { words: new Uint32Array(told), floats: new Float32Array(told) };
    this.#plan = { form, layout, input: words, list, work: numbers, tops, count, tag };
    return this.#plan;
  }

  #formOf(
    { sequences: ids, trace, top, withoutLogits }: Step,
    { firstToken, tokens, outputs }: Part,
    positions: number,
  ): Form {
    let sequences = 0;
    let stride = 1;
    for (let t = firstToken; t < firstToken + tokens; t += 1) {
      if (t > firstToken && ids[t] === ids[t - 1]) continue;
      sequences += 1;
      stride = Math.max(stride, this.#sequences.get(ids[t]!).blocks.length);
    }
    return {
      tokens,
      outputs,
      sequences,
      stride,
      blocks: Math.ceil(positions / BLOCK_POSITIONS),
      traced: trace === true,
      top: top ?? 0,
      logits: withoutLogits !== true,
    };
  }

  /** The copies that a part has written are those that count. */
  #moveStates(step: Step, { firstToken, tokens }: Part): void {
    for (const id of new Set(step.sequences.subarray(firstToken, firstToken + tokens))) {
      const { states } = this.#sequences.get(id);
      if (states !== undefined) states.copy = 1 - states.copy;
    }
  }

  #writeInput(step: Step, part: Part, { form, layout, input }: Plan): void {
    const { firstToken, tokens, firstOutput, outputs } = part;
    const { sequences, stride } = form;
    const { ids, positions, rows, outputRows, firstRows, tables, states } = layout;
    let row = -1;
    for (let t = 0; t < tokens; t += 1) {
      const id = step.sequences[firstToken + t]!;
      if (t === 0 || id !== step.sequences[firstToken + t - 1]) {
        row += 1;
        const sequence = this.#sequences.get(id);
        let to = tables + 2 * row * stride;
        for (const block of sequence.blocks) {
          writeAddress(input, to, block);
          to += 2;
        }
        input[firstRows + row] = t;
        writeAddress(input, states + 4 * row, sequence.states?.address ?? 0);
        writeAddress(input, states + 4 * row + 2, sequence.states?.copy ?? 0);
      }
      input[ids + t] = step.tokens[firstToken + t]!;
      input[positions + t] = step.positions[firstToken + t]!;
      input[rows + t] = row;
    }
    input[firstRows + sequences] = tokens;
    for (let i = 0; i < outputs; i += 1) input[outputRows + i] = step.outputRows[firstOutput + i]! - firstToken;
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

  #prepare({ tokens, outputs, attention, splits, top, logits }: Shape, inputBytes: number): void {
    const { vocabSize, tracePoints, kv, choices = 0 } = this.#program;
    this.#place('maxima', MAXIMA_BYTES);
    this.#place('choices', sortedBytes(this.#program, tokens));
    this.#place('input', inputBytes);
    this.#host('input', Math.max(inputBytes, INLINE_BYTES));
    const floats =
      tokens * scratchFloats(this.#program, attention, splits) + this.#blocks * blockScratchFloats(attention, splits);
    this.#place('scratch', Math.max(floats * 4, topScratchBytes(outputs, top)));
    this.#place('counters', tokens * kv.kvHeads * 4);
    const together = this.#together();
    if (attention === 'split') {
      this.#place('packets', packetBytes(this.#program, together, splits));
    }
    this.#host('counts', tokens * tracePoints * 12);
    if (top > 0) {
      this.#place('logits', outputs * vocabSize * 4);
      this.#host('tops', outputs * topWords(top) * 4);
    }
    if (top === 0 || logits) this.#host('logits', Math.max(1, outputs) * vocabSize * 4);
    if (tokens <= this.#rows) return;
    const rows = Math.min(Math.max(this.#maxRows, tokens), 2 ** Math.ceil(Math.log2(tokens)));
    const sizes = this.#program.buffers.map(({ dtype, width, rows: counted }, id) => {
      if (id === this.#program.logits) return 0;
      const n = counted === 'choices' ? rows * choices : rows;
      if (dtype === 'i8' || dtype === 'i16') return codesStride(this.#program, id) * n;
      return Math.max(2, width) * 4 * n;
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

  #sharedBytes({ tokens }: Shape): number {
    return tokens === 1 ? this.#gpu.sharedBytes.one : this.#gpu.sharedBytes.many;
  }

  #memory(shape: Shape): Memory {
    const buffers = [...this.#buffers];
    const hostLogits = this.#hosts.get('logits')?.address ?? 0;
    // A search for the largest reads them again and again: on the device.
    buffers[this.#program.logits] = shape.top > 0 ? this.#places.get('logits')!.address : hostLogits;
    return {
      weights: this.#weights.placed,
      cosine: this.#places.get('cosine')!.address,
      sine: this.#places.get('sine')!.address,
      buffers,
      failed: this.#hosts.get('failed')!.address,
      scratch: this.#places.get('scratch')!.address,
      counters: this.#places.get('counters')!.address,
      counts: this.#hosts.get('counts')!.address,
      maxima: this.#places.get('maxima')!.address,
      choices: this.#places.get('choices')!.address,
      poolBytes: POOL_BYTES,
      tops: shape.top > 0 ? this.#hosts.get('tops')!.address : 0,
      logits: shape.logits ? hostLogits : 0,
      grid: this.#blocks,
      packets: this.#places.get('packets')?.address ?? 0,
      sharedBytes: this.#sharedBytes(shape),
      mostSharedBytes: this.#gpu.sharedBytes.one,
      // The PTX text does not, and needs no more room.
      wholePanels: this.#gpu.info.capability >= 90,
    };
  }

  #encode(shape: Shape): Instruction[] {
    const list = encode(this.#program, this.#memory(shape), shape);
    if (shape.attention !== 'split' || oneRowKernel(list) !== undefined) return list;
    // Beside operations that only the other kernel has, attention is done as it does it.
    const { tokens, positions } = shape;
    const other = { ...shape, attention: this.#attentionFor(tokens, 1, positions, false) };
    this.#prepare(other, 0);
    return encode(this.#program, this.#memory(other), other);
  }

  #list(shape: Shape): List {
    const { tokens, outputs, attention, single, splits, positions, traced, top, logits } = shape;
    // The positions count only where they decide how many heads a block takes.
    const key = `${tokens} ${outputs} ${attention} ${single} ${splits} ${attention === 'whole' ? positions : 0} ${traced} ${top} ${logits}`;
    const known = this.#lists.get(key);
    if (known !== undefined) return known;
    const instructions = this.#encode(shape);
    const bytes = writeInstructions(instructions);
    const alone = instructions.length > 0 && (this.#phases || tokens > 1);
    let launched: Pick<List, 'here' | 'launches'> = {};
    let address = 0;
    if (alone) {
      const here = this.#gpu.host(bytes.length);
      new Uint8Array(here.memory).set(bytes);
      launched = { here, launches: writeWork(this.#launches(instructions, here.address, shape)) };
    } else {
      address = this.#take(bytes.length, 'instructions');
      this.#gpu.upload(address, bytes);
    }
    if (this.#lists.size >= KEPT_LISTS) {
      const [oldest, list] = this.#lists.entries().next().value!;
      this.#forgetList(list);
      this.#lists.delete(oldest);
    }
    const oneRow = shape.tokens === 1 ? oneRowKernel(instructions) : undefined;
    const list = { address, length: instructions.length, ...(oneRow !== undefined && { oneRow }), ...launched };
    this.#lists.set(key, list);
    return list;
  }

  /** A launch for each instruction. Several rows have kernels of their own for what takes longest. */
  #launches(instructions: readonly Instruction[], address: number, shape: Shape): Work[] {
    const { barrier, sharedBytes } = this.#gpu;
    const input = this.#places.get('input')!.address;
    return instructions.map((instruction, i) => {
      const kernel = kernelOf(instruction);
      return {
        kernel,
        grid: this.#blocks,
        how: i === 0 ? 'plain' : 'early',
        sharedBytes: WHOLE_MEMORY.has(kernel) ? sharedBytes.one : this.#sharedBytes(shape),
        given: address + i * INSTRUCTION_BYTES,
        args: [input, barrier, i],
      };
    });
  }

  #forgetLists(): void {
    this.#plan = undefined;
    for (const list of this.#lists.values()) this.#forgetList(list);
    this.#lists.clear();
  }
  #forgetList({ address }: List): void {
    if (address !== 0) this.#gpu.release(address);
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
}

function sameForm(a: Form, b: Form): boolean {
  return (
    a.tokens === b.tokens &&
    a.outputs === b.outputs &&
    a.sequences === b.sequences &&
    a.stride === b.stride &&
    a.blocks === b.blocks &&
    a.traced === b.traced &&
    a.top === b.top &&
    a.logits === b.logits
  );
}

function inputLayout({ tokens, outputs, sequences, stride }: Form): InputLayout {
  const ids = INPUT_HEADER / 4;
  const positions = ids + tokens;
  const rows = positions + tokens;
  const outputRows = rows + tokens;
  const firstRows = outputRows + outputs;
  const tables = 2 * Math.ceil((firstRows + sequences + 1) / 2);
  const states = tables + 2 * sequences * stride;
  return { ids, positions, rows, outputRows, firstRows, tables, states, bytes: 4 * (states + 4 * sequences) };
}

function writeHeader(words: Uint32Array, { tokens, outputs, sequences, stride }: Form, layout: InputLayout): void {
  const { ids, positions, rows, outputRows, tables, states } = layout;
  words.set([tokens, outputs, stride, sequences]);
  [ids, positions, rows, outputRows, tables, states].forEach((word, i) => {
    writeAddress(words, 4 + 2 * i, 4 * word);
  });
}

/** A u64 as two words: faster than a BigInt. */
function writeAddress(words: Uint32Array, at: number, address: number): void {
  words[at] = address;
  words[at + 1] = address / 2 ** 32;
}
