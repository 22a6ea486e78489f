// A program on the GPU: its runs become dispatches, a step becomes one command buffer.

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
import { mostOf } from '../gpu/operands.ts';
import { type Part, type PartLimits, Sequences } from '../gpu/sequences.ts';
import type { BufferId, Program } from '../program.ts';
import { emptyTop, topLogits } from '../top-logits.ts';
import { weightBytesPerToken } from '../validate.ts';
import type { Dispatch } from './addon.ts';
import {
  type AttentionOptions,
  checkRows,
  rowsOf,
  type Shape,
  StepEncoder,
  type StepMemory,
  sharedAttention,
  splitsAt,
  TOP_CHUNK,
  tableStride,
} from './encode.ts';
import { type Gpu, type GpuBuffer, padded } from './gpu.ts';
import { KvPool } from './kv-pool.ts';
import { checkProgram, isExact, type Plan, planProgram, type Run } from './plan.ts';
import { StatePool } from './state-pool.ts';
import { CANDIDATES, type TernaryChoice, type Tuning } from './tuning.ts';
import { placeWeights } from './weights.ts';

const MAX_ROWS = 512;
/** Bytes of logits, and of attention partials, of one command buffer at most. */
const MAX_SCRATCH_BYTES = 64 << 20;
const KEPT_TAPES = 16;

export type MetalOptions = LoadOptions &
  AttentionOptions & {
    readonly tuning?: Tuning;
    /** Rows of one command buffer at most (default 512); longer steps are cut, which no result can show. */
    readonly maxRows?: number;
  };

export class MetalExecutable implements Executable {
  readonly info: ExecutableInfo;
  readonly #gpu: Gpu;
  readonly #program: Program;
  readonly #exact: boolean;
  readonly #plans: { readonly plain: Plan; readonly traced: Plan };
  readonly #memory: StepMemory;
  readonly #encoder: StepEncoder;
  readonly #tuning: Tuning;
  readonly #maxRows: number;
  readonly #shareFrom: number | undefined;
  readonly #sequences: Sequences<number>;
  readonly #tapes = new Map<string, Uint32Array>();

  constructor(gpu: Gpu, program: Program, options: MetalOptions) {
    if (options.signal?.aborted) throw new CancelledError('loading was cancelled');
    checkProgram(program);
    this.#gpu = gpu;
    this.#program = program;
    this.#exact = isExact(program);
    this.#plans = { plain: planProgram(program, { traced: false }), traced: planProgram(program, { traced: true }) };
    checkRows(gpu, program, Object.values(this.#plans));
    this.#tuning = options.tuning ?? new Map();
    this.#maxRows = options.maxRows ?? MAX_ROWS;
    this.#shareFrom = options.shareFrom;
    this.#memory = {
      weights: placeWeights(gpu, program),
      cosine: gpu.place(program.rope.cos, 'RoPE cosines'),
      sine: gpu.place(program.rope.sin, 'RoPE sines'),
      pool: new KvPool(gpu, program.kv),
      states: new StatePool(gpu, program.recurrent ?? []),
      activations: [],
      rows: 0,
      statusRows: 0,
      scratch: new Map(),
    };
    this.#sequences = new Sequences(program, this.#memory.pool, this.#memory.states);
    this.#encoder = new StepEncoder(gpu, program, this.#memory, this.#tuning, options);
    this.info = { backend: 'metal', isa: gpu.name, threads: 1, weightBytes: weightBytesPerToken(program) };
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
    const count = step.top ?? 0;
    const outputs = step.outputRows.length;
    const logits = new Float32Array(step.withoutLogits === true ? 0 : outputs * vocabSize);
    const top = emptyTop(outputs, count);
    const tritCounts = new Int32Array(traced ? step.tokens.length * tracePoints * 3 : 0);
    await this.#run(step, count, (part) => {
      if (logits.length > 0) {
        for (let i = 0; i < part.outputs; i += 1) logits.set(this.#logitsOf(i), (part.firstOutput + i) * vocabSize);
      }
      if (count > 0) this.#readTop(part, count, top);
      if (traced && tracePoints > 0) {
        const counts = new Int32Array(this.#scratchMemory('trit counts'), 0, part.tokens * tracePoints * 3);
        tritCounts.set(counts, part.firstToken * tracePoints * 3);
      }
    });
    return { logits, top, tritCounts };
  }

  /** Of an output row of the part that has just run. */
  #logitsOf(row: number): Float32Array {
    const { logits, vocabSize } = this.#program;
    return new Float32Array(this.#activationMemory(logits), row * padded(vocabSize) * 4, vocabSize);
  }

  #readTop({ firstOutput, outputs }: Part, count: number, { ids, logits, mass }: TopLogits): void {
    if (outputs === 0) return;
    const chunks = Math.ceil(this.#program.vocabSize / TOP_CHUNK);
    ids.set(new Int32Array(this.#scratchMemory('top ids'), 0, outputs * count), firstOutput * count);
    logits.set(new Float32Array(this.#scratchMemory('top values'), 0, outputs * count), firstOutput * count);
    const parts = new Uint32Array(this.#scratchMemory('top masses'), 0, outputs * chunks * 2);
    for (let row = 0; row < outputs; row += 1) {
      const to = firstOutput + row;
      mass[to] = massOfParts(parts.subarray(row * chunks * 2, (row + 1) * chunks * 2));
      if (!Number.isNaN(mass[to])) continue;
      // The order of what is no number is the reference's.
      const found = topLogits(this.#logitsOf(row), 1, count);
      ids.set(found.ids, to * count);
      logits.set(found.logits, to * count);
    }
  }

  /** The dispatches of one decoded token at `position`: what docs/metal.md counts, and the tests look at. */
  dispatchesAt(position: number): readonly Dispatch[] {
    const sequence = this.#sequences.create();
    this.#sequences.reserve(this.#sequences.get(sequence), 1);
    const shape = {
      tokens: 1,
      outputs: 1,
      sequences: this.#countSequences(1),
      splits: splitsAt(position),
      traced: false,
      top: 0,
    };
    this.#prepare(shape);
    this.#sequences.free(sequence);
    return this.#encoder.encode(this.#planOf(shape), shape);
  }

  [Symbol.dispose](): void {
    if (!this.#sequences.close()) return;
    for (const { buffer, scales } of this.#memory.weights) {
      this.#gpu.release(buffer);
      if (scales !== undefined) this.#gpu.release(scales);
    }
    // The logits stand among the activations, but belong to the scratch buffers.
    const activations = this.#memory.activations.filter((_, id) => id !== this.#program.logits);
    for (const buffer of [this.#memory.cosine, this.#memory.sine, ...activations, ...this.#memory.scratch.values()])
      this.#gpu.release(buffer);
    this.#memory.pool.dispose();
    this.#memory.states.dispose();
    this.#tapes.clear();
  }

  /**
   * Measures the kernels for every shape of ternary matrix that `tuning` lacks, on the model's own weights, and adds
   * what was fastest. Returns whether anything was added.
   */
  async tune(repeats = 3): Promise<boolean> {
    const shape: Shape = { tokens: 1, outputs: 1, sequences: 1, splits: 1, traced: false, top: 0 };
    this.#prepare(shape);
    const byShape = new Map<string, (Run & { run: 'ternary' })[]>();
    for (const run of this.#plans.plain.runs) {
      if (run.run !== 'ternary') continue;
      const key = this.#encoder.shapeOf(run);
      byShape.set(key, [...(byShape.get(key) ?? []), run]);
    }
    let added = false;
    for (const [key, runs] of byShape) {
      if (this.#tuning.has(key)) continue;
      let best: TernaryChoice | undefined;
      let bestSeconds = Infinity;
      for (const choice of CANDIDATES) {
        if (choice.simdgroups * 32 > this.#gpu.pipeline(choice.kernel).maxThreads) continue;
        // All layers' matrices in one command buffer: no layer finds its weights in the cache.
        const tape = this.#gpu.tape(runs.map((run) => this.#encoder.ternary(run, shape, choice)));
        let seconds = Infinity;
        for (let i = 0; i < repeats; i += 1) seconds = Math.min(seconds, await this.#gpu.run(tape, `tuning ${key}`));
        if (seconds < bestSeconds) {
          best = choice;
          bestSeconds = seconds;
        }
      }
      if (best === undefined) continue;
      this.#tuning.set(key, best);
      added = true;
    }
    if (added) this.#tapes.clear();
    return added;
  }

  // ---- a step

  #run(step: Step, top: number, finished: (part: Part) => void): Promise<void> {
    const limits = () => this.#limits(step);
    return this.#sequences.run(step, limits, async (part) => {
      await this.#runPart(step, part, top);
      finished(part);
    });
  }

  /** As a shape counts them. */
  #countSequences(count: number): number {
    return this.#memory.states.stride === 0 ? 0 : count;
  }

  /** Parts small enough for the activations, the logits and the attention's partial sums. */
  #limits(step: Step): PartLimits {
    const outputs = Math.max(1, Math.floor(MAX_SCRATCH_BYTES / (padded(this.#program.vocabSize) * 4)));
    let longest = 0;
    for (const position of step.positions) longest = Math.max(longest, position);
    const rowPartials = Math.max(1, this.#rowPartials(splitsAt(longest)));
    return { rows: Math.min(this.#maxRows, Math.max(1, Math.floor(MAX_SCRATCH_BYTES / rowPartials))), outputs };
  }

  async #runPart(step: Step, part: Part, top: number): Promise<void> {
    const { firstToken, tokens, outputs } = part;
    let longest = 0;
    let count = 0;
    for (let t = firstToken; t < firstToken + tokens; t += 1) {
      longest = Math.max(longest, step.positions[t]!);
      if (t === firstToken || step.sequences[t] !== step.sequences[t - 1]) count += 1;
    }
    const sequences = this.#countSequences(count);
    const shape: Shape = { tokens, outputs, sequences, splits: splitsAt(longest), traced: step.trace === true, top };
    this.#prepare(shape);
    this.#writeInputs(step, part);
    const { pool, states } = this.#memory;
    const sizes = `${tokens} ${outputs} ${sequences} ${shape.splits} ${shape.traced} ${top}`;
    const key = `${sizes} ${pool.buffer.id} ${states.id}`;
    let tape = this.#tapes.get(key);
    if (tape === undefined) {
      tape = this.#gpu.tape(this.#encoder.encode(this.#planOf(shape), shape));
      if (this.#tapes.size >= KEPT_TAPES) this.#tapes.delete(this.#tapes.keys().next().value!);
      this.#tapes.set(key, tape);
    }
    await this.#gpu.run(tape, this.#program.name);
    this.#checkFinite(shape);
  }

  #writeInputs(step: Step, { firstToken, tokens, firstOutput, outputs }: Part): void {
    new Int32Array(this.#scratchMemory('tokens')).set(step.tokens.subarray(firstToken, firstToken + tokens));
    const places = new Uint32Array(this.#scratchMemory('places'));
    const table = new Uint32Array(this.#scratchMemory('block table'));
    const runs = new Uint32Array(this.#scratchMemory('runs'));
    const stride = tableStride(this.#program);
    const { states } = this.#memory;
    let row = -1;
    for (let t = 0; t < tokens; t += 1) {
      const id = step.sequences[firstToken + t]!;
      if (t === 0 || id !== step.sequences[firstToken + t - 1]) {
        row += 1;
        const { blocks, states: slot } = this.#sequences.get(id);
        table.set(blocks, row * stride);
        if (slot !== undefined) runs.set([t, t, slot * states.stride, 0], 4 * row);
      }
      if (states.stride > 0) runs[4 * row + 1] = t + 1;
      places[2 * t] = step.positions[firstToken + t]!;
      places[2 * t + 1] = row;
    }
    const rows = new Uint32Array(this.#scratchMemory('output rows'));
    for (let i = 0; i < outputs; i += 1) rows[i] = step.outputRows[firstOutput + i]! - firstToken;
  }

  #checkFinite(shape: Shape): void {
    const { labels } = this.#planOf(shape);
    const status = new Uint32Array(this.#scratchMemory('status'));
    const rows = this.#checkedRows(shape);
    for (let index = 0; index < labels.length; index += 1) {
      for (let row = 0; row < rows[index]!; row += 1) {
        if (status[index * this.#memory.statusRows + row] === 0) continue;
        // The NaN may have reached the padding of rows, which has to be zero.
        for (const { memory } of this.#memory.activations) new Uint8Array(memory!).fill(0);
        throw new NonFiniteError(`${this.#program.name}, ${labels[index]!}`);
      }
    }
  }

  /** Rows of each operation of the plan that reports NaN: all tokens, their choices, or the outputs. */
  #checkedRows(shape: Shape): number[] {
    const rows: number[] = [];
    for (const run of this.#planOf(shape).runs) {
      if (run.run === 'rows' && run.quantize !== undefined)
        rows[run.quantize.index] = rowsOf(this.#program, run.x, shape);
      else if (run.run === 'route') rows[run.index] = rowsOf(this.#program, run.x, shape);
    }
    return rows;
  }

  // ---- buffers

  #prepare(shape: Shape): void {
    const { tokens, outputs, splits, top } = shape;
    this.#scratchBuffer('tokens', tokens * 4);
    this.#scratchBuffer('places', tokens * 8);
    this.#scratchBuffer('output rows', Math.max(1, outputs) * 4);
    this.#scratchBuffer('runs', this.#countSequences(tokens) * 16);
    this.#scratchBuffer('block table', tokens * tableStride(this.#program) * 4);
    this.#scratchBuffer('trit counts', tokens * this.#program.tracePoints * 12);
    const shared = this.#exact
      ? sharedAttention(this.#program, shape, this.#shareFrom)
      : splits > 1
        ? {
            parts: tokens * this.#rowPartials(splits),
            scores: 0,
            stats: tokens * splits * mostOf(this.#program).heads * 8,
          }
        : undefined;
    this.#scratchBuffer('attention partials', shared?.parts ?? 0);
    this.#scratchBuffer('attention statistics', shared?.stats ?? 0);
    this.#scratchBuffer('attention scores', shared?.scores ?? 0);
    if (top > 0) {
      const chunks = Math.ceil(this.#program.vocabSize / TOP_CHUNK);
      this.#scratchBuffer('top candidates', outputs * chunks * top * 8);
      this.#scratchBuffer('top ids', outputs * top * 4);
      this.#scratchBuffer('top values', outputs * top * 4);
      this.#scratchBuffer('top masses', outputs * chunks * 8);
    }
    if (tokens > this.#memory.rows) this.#allocateActivations(tokens);
    // Logits are the one wide buffer: as many rows of them as a step asked for, not as it has tokens.
    const logits = this.#scratchBuffer('logits', Math.max(1, outputs) * padded(this.#program.vocabSize) * 4);
    this.#memory.activations[this.#program.logits] = logits;
  }

  #allocateActivations(rows: number): void {
    const { buffers, logits, choices = 0 } = this.#program;
    const most = rows * Math.max(1, choices);
    this.#memory.activations.forEach((buffer, id) => {
      if (id !== logits) this.#gpu.release(buffer);
    });
    this.#memory.activations.length = 0;
    this.#tapes.clear();
    const { scales } = this.#plans.traced;
    buffers.forEach(({ name, dtype, width, rows: counted }, id) => {
      if (id === logits) return;
      const bytes = scales.has(id) ? 8 : padded(width) * (dtype === 'f32' || dtype === 'i32' ? 4 : 2);
      this.#memory.activations[id] = this.#gpu.allocate((counted === 'choices' ? most : rows) * bytes, name);
    });
    this.#memory.rows = rows;
    this.#memory.statusRows = most;
    this.#scratchBuffer('status', Math.max(1, this.#plans.traced.labels.length) * most * 4);
  }

  /** At least `bytes` of scratch; grows by doubling. */
  #scratchBuffer(name: string, bytes: number): GpuBuffer & { readonly memory: ArrayBuffer } {
    const known = this.#memory.scratch.get(name);
    if (known !== undefined && known.memory.byteLength >= bytes) return known;
    const size = Math.max(bytes, 2 * (known?.memory.byteLength ?? 0));
    const buffer = this.#gpu.allocate(Math.min(size, Math.max(bytes, MAX_SCRATCH_BYTES)), name);
    if (known !== undefined) this.#gpu.release(known);
    this.#memory.scratch.set(name, buffer);
    this.#tapes.clear();
    return buffer;
  }

  #scratchMemory(name: string): ArrayBuffer {
    return this.#memory.scratch.get(name)!.memory;
  }

  #activationMemory(buffer: BufferId): ArrayBuffer {
    return this.#memory.activations[buffer]!.memory!;
  }

  /** Bytes of attention's partial sums of a row; exact attention has them for few rows only, see `sharedAttention`. */
  #rowPartials(splits: number): number {
    if (splits === 1 || this.#exact) return 0;
    return splits * mostOf(this.#program).heads * this.#memory.pool.headStride * 4;
  }

  #planOf({ traced }: Shape): Plan {
    return traced ? this.#plans.traced : this.#plans.plain;
  }
}

/** Of what `top_mass` wrote of the chunks of a row; NaN where one has a NaN. */
function massOfParts(parts: Uint32Array): number {
  let sum = 0;
  for (let i = 0; i < parts.length; i += 2) {
    if (parts[i] === 0xffffffff) return Number.NaN;
    // Below 2^53: 2^32 for each token of the vocabulary at most.
    sum += 2 ** 16 * parts[i]! + parts[i + 1]!;
  }
  return sum / 2 ** 32;
}
