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
} from '../backend.ts';
import type { BufferId, Program, WeightId } from '../program.ts';
import { checkStep, weightBytesPerToken } from '../validate.ts';
import { type Dispatch, dispatch, MetalUnsupportedError } from './addon.ts';
import { type Gpu, type GpuBuffer, padded } from './gpu.ts';
import { BLOCK_POSITIONS, KvPool } from './kv-pool.ts';
import { checkProgram, LIMITS, type Plan, planProgram, type Run } from './plan.ts';
import type { KernelName, StructValues } from './signatures.ts';
import { CANDIDATES, defaultChoice, QUADS_OF, shapeKey, type TernaryChoice, type Tuning } from './tuning.ts';
import { type PlacedWeight, placeWeights } from './weights.ts';

/** Rows of one command buffer at most; longer steps are cut, which no result can show. */
const MAX_ROWS = 512;
/** Bytes of logits, and of attention partials, of one command buffer at most. */
const MAX_SCRATCH_BYTES = 64 << 20;
/** Positions per threadgroup of attention: enough threadgroups for a long context, no second pass for a short one. */
const ATTENTION_SPLIT = 256;
/** Tokens from which the matrix units beat vector kernels that read the weights once per four tokens. */
const GEMM_FROM = 9;
const TOP_CHUNK = 4096;
/** What `stepTop` can return per row. */
export const MAX_TOP = 64;
const KEPT_TAPES = 16;

type Sequence = { length: number; readonly blocks: number[] };

/** Everything that decides a tape but the contents of buffers. */
type Shape = {
  readonly tokens: number;
  readonly outputs: number;
  /** Of the longest row: its position / ATTENTION_SPLIT + 1. */
  readonly splits: number;
  readonly traced: boolean;
  /** Best logits per output row to find; 0 for none. */
  readonly top: number;
};

export type TopResult = {
  /** (O, count): the highest logits' ids, best first; among equals the lower id first. */
  readonly ids: Uint32Array;
  /** (O, count). */
  readonly logits: Float32Array;
  /** (O): log of the sum of exp(logit); logit - logSum is a token's log-probability. */
  readonly logSums: Float32Array;
};

export type MetalOptions = LoadOptions & { readonly tuning?: Tuning };

export class MetalExecutable implements Executable {
  readonly info: ExecutableInfo;
  readonly #gpu: Gpu;
  readonly #program: Program;
  readonly #plans: { readonly plain: Plan; readonly traced: Plan };
  readonly #weights: readonly PlacedWeight[];
  readonly #cosine: GpuBuffer;
  readonly #sine: GpuBuffer;
  readonly #pool: KvPool;
  readonly #tuning: Tuning;
  readonly #sequences = new Map<SequenceId, Sequence>();
  readonly #tapes = new Map<string, Uint32Array>();
  readonly #scratch = new Map<string, GpuBuffer & { readonly memory: ArrayBuffer }>();
  /** Activations by buffer id, for `#rows` rows. */
  #activations: GpuBuffer[] = [];
  #rows = 0;
  #nextSequence = 0;
  #running = false;
  #disposed = false;

  constructor(gpu: Gpu, program: Program, options: MetalOptions) {
    if (options.signal?.aborted) throw new CancelledError('loading was cancelled');
    checkProgram(program);
    this.#gpu = gpu;
    this.#program = program;
    this.#plans = { plain: planProgram(program, { traced: false }), traced: planProgram(program, { traced: true }) };
    this.#checkRows();
    this.#weights = placeWeights(gpu, program);
    this.#cosine = gpu.place(program.rope.cos, 'RoPE cosines');
    this.#sine = gpu.place(program.rope.sin, 'RoPE sines');
    this.#pool = new KvPool(gpu, program.kv);
    this.#tuning = options.tuning ?? new Map();
    this.info = { backend: 'metal', isa: gpu.name, threads: 1, weightBytes: weightBytesPerToken(program) };
  }

  createSequence(): SequenceId {
    const id = this.#nextSequence++;
    this.#sequences.set(id, { length: 0, blocks: [] });
    return id;
  }

  freeSequence(sequence: SequenceId): void {
    const found = this.#sequences.get(sequence);
    if (found !== undefined) this.#pool.trim(found.blocks, 0);
    this.#sequences.delete(sequence);
  }

  sequenceLength(sequence: SequenceId): number {
    return this.#sequence(sequence).length;
  }

  truncate(sequence: SequenceId, length: number): void {
    const found = this.#sequence(sequence);
    if (!(length >= 0 && length <= found.length)) throw new RangeError(`truncate to ${length} of ${found.length}`);
    found.length = length;
    this.#pool.trim(found.blocks, length);
  }

  fork(sequence: SequenceId, length: number): SequenceId {
    const from = this.#sequence(sequence);
    if (!(length >= 0 && length <= from.length)) throw new RangeError(`fork at ${length} of ${from.length}`);
    const blocks: number[] = [];
    this.#pool.reserve(blocks, length);
    this.#pool.copy(from.blocks, blocks);
    const id = this.createSequence();
    this.#sequences.set(id, { length, blocks });
    return id;
  }

  async step(step: Step): Promise<StepResult> {
    const { vocabSize, tracePoints } = this.#program;
    const traced = step.trace === true;
    const logits = new Float32Array(step.outputRows.length * vocabSize);
    const tritCounts = new Int32Array(traced ? step.tokens.length * tracePoints * 3 : 0);
    await this.#run(step, 0, (part) => {
      const stride = padded(vocabSize);
      const from = new Float32Array(this.#activationMemory(this.#program.logits));
      for (let i = 0; i < part.outputs; i += 1) {
        logits.set(from.subarray(i * stride, i * stride + vocabSize), (part.firstOutput + i) * vocabSize);
      }
      if (traced && tracePoints > 0) {
        const counts = new Int32Array(this.#scratchMemory('trit counts'), 0, part.tokens * tracePoints * 3);
        tritCounts.set(counts, part.firstToken * tracePoints * 3);
      }
    });
    return { logits, tritCounts };
  }

  /**
   * As `step`, but finds the `count` best logits of each output row on the GPU, so that a greedy or top-k step brings
   * back a few numbers instead of the vocabulary. 1 <= count <= 64.
   */
  async stepTop(step: Step, count: number): Promise<TopResult> {
    if (!Number.isInteger(count) || count < 1 || count > Math.min(MAX_TOP, this.#program.vocabSize)) {
      throw new RangeError(`stepTop takes a count of 1 to ${MAX_TOP}, not ${count}`);
    }
    const outputs = step.outputRows.length;
    const result = {
      ids: new Uint32Array(outputs * count),
      logits: new Float32Array(outputs * count),
      logSums: new Float32Array(outputs),
    };
    await this.#run(step, count, (part) => {
      const { firstOutput, outputs: n } = part;
      if (n === 0) return;
      result.ids.set(new Uint32Array(this.#scratchMemory('top ids'), 0, n * count), firstOutput * count);
      result.logits.set(new Float32Array(this.#scratchMemory('top values'), 0, n * count), firstOutput * count);
      result.logSums.set(new Float32Array(this.#scratchMemory('log sums'), 0, n), firstOutput);
    });
    return result;
  }

  /** The dispatches of one decoded token at `position`: what docs/metal.md counts, and the tests look at. */
  dispatchesAt(position: number): readonly Dispatch[] {
    const sequence: Sequence = { length: 0, blocks: [] };
    this.#pool.reserve(sequence.blocks, 1);
    const shape = { tokens: 1, outputs: 1, splits: splitsAt(position), traced: false, top: 0 };
    this.#prepare(shape);
    this.#pool.trim(sequence.blocks, 0);
    return this.#encode(shape);
  }

  [Symbol.dispose](): void {
    if (this.#disposed) return;
    if (this.#running) throw new RangeError('disposed while a step runs');
    this.#disposed = true;
    for (const { buffer, scales } of this.#weights) {
      this.#gpu.release(buffer);
      if (scales !== undefined) this.#gpu.release(scales);
    }
    // The logits stand among the activations, but belong to the scratch buffers.
    const activations = this.#activations.filter((_, id) => id !== this.#program.logits);
    for (const buffer of [this.#cosine, this.#sine, ...activations, ...this.#scratch.values()])
      this.#gpu.release(buffer);
    this.#pool.dispose();
    this.#sequences.clear();
    this.#tapes.clear();
  }

  /**
   * Measures the kernels for every shape of ternary matrix that `tuning` lacks, on the model's own weights, and adds
   * what was fastest. Returns whether anything was added.
   */
  async tune(repeats = 3): Promise<boolean> {
    const shape: Shape = { tokens: 1, outputs: 1, splits: 1, traced: false, top: 0 };
    this.#prepare(shape);
    const byShape = new Map<string, (Run & { run: 'ternary' })[]>();
    for (const run of this.#plans.plain.runs) {
      if (run.run !== 'ternary') continue;
      const key = this.#shapeOf(run);
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
        const tape = this.#gpu.tape(runs.map((run) => this.#ternary(run, shape, choice)));
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

  async #run(step: Step, top: number, finished: (part: Part) => void): Promise<void> {
    if (this.#disposed) throw new RangeError('the executable was disposed');
    if (this.#running) throw new RangeError('one step at a time');
    checkStep(this.#program, step, (sequence) => this.#sequences.get(sequence)?.length);
    this.#running = true;
    const lengths = new Map<Sequence, number>();
    step.sequences.forEach((id, t) => {
      lengths.set(this.#sequence(id), step.positions[t]! + 1);
    });
    try {
      for (const [sequence, length] of lengths) this.#pool.reserve(sequence.blocks, length);
      for (const part of this.#cut(step)) {
        await this.#runPart(step, part, top);
        finished(part);
      }
      // Only a finished step moves the sequences on.
      for (const [sequence, length] of lengths) sequence.length = length;
    } catch (error) {
      for (const sequence of lengths.keys()) this.#pool.trim(sequence.blocks, sequence.length);
      throw error;
    } finally {
      this.#running = false;
    }
  }

  /** Parts small enough for the activations, the logits and the attention's partial sums. */
  *#cut(step: Step): Generator<Part> {
    const tokens = step.tokens.length;
    const { vocabSize } = this.#program;
    const maxOutputs = Math.max(1, Math.floor(MAX_SCRATCH_BYTES / (padded(vocabSize) * 4)));
    let longest = 0;
    for (const position of step.positions) longest = Math.max(longest, position);
    const rowPartials = splitsAt(longest) === 1 ? 0 : splitsAt(longest) * this.#partialBytes();
    const maxRows = Math.min(MAX_ROWS, Math.max(1, Math.floor(MAX_SCRATCH_BYTES / Math.max(1, rowPartials))));
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

  async #runPart(step: Step, part: Part, top: number): Promise<void> {
    const { firstToken, tokens, outputs } = part;
    let longest = 0;
    for (let t = firstToken; t < firstToken + tokens; t += 1) longest = Math.max(longest, step.positions[t]!);
    const shape: Shape = { tokens, outputs, splits: splitsAt(longest), traced: step.trace === true, top };
    this.#prepare(shape);
    this.#writeInputs(step, part);
    const key = `${tokens} ${outputs} ${shape.splits} ${shape.traced} ${top} ${this.#pool.buffer.id}`;
    let tape = this.#tapes.get(key);
    if (tape === undefined) {
      tape = this.#gpu.tape(this.#encode(shape));
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
    const stride = this.#tableStride();
    let row = -1;
    for (let t = 0; t < tokens; t += 1) {
      const id = step.sequences[firstToken + t]!;
      if (t === 0 || id !== step.sequences[firstToken + t - 1]) {
        row += 1;
        table.set(this.#sequence(id).blocks, row * stride);
      }
      places[2 * t] = step.positions[firstToken + t]!;
      places[2 * t + 1] = row;
    }
    const rows = new Uint32Array(this.#scratchMemory('output rows'));
    for (let i = 0; i < outputs; i += 1) rows[i] = step.outputRows[firstOutput + i]! - firstToken;
  }

  #checkFinite(shape: Shape): void {
    const { labels } = this.#planOf(shape);
    const status = new Uint32Array(this.#scratchMemory('status'));
    const rowsOf = this.#quantizedRows(shape);
    for (let index = 0; index < labels.length; index += 1) {
      for (let row = 0; row < rowsOf[index]!; row += 1) {
        if (status[index * this.#rows + row] === 0) continue;
        // The NaN may have reached the padding of rows, which has to be zero.
        for (const { memory } of this.#activations) new Uint8Array(memory!).fill(0);
        throw new NonFiniteError(`${this.#program.name}, ${labels[index]!}`);
      }
    }
  }

  /** Rows of each quantization of the plan: all tokens, or the outputs. */
  #quantizedRows(shape: Shape): number[] {
    const rows: number[] = [];
    for (const run of this.#planOf(shape).runs) {
      if (run.run === 'rows' && run.quantize !== undefined) rows[run.quantize.index] = this.#rowsOf(run.x, shape);
    }
    return rows;
  }

  // ---- buffers

  #prepare(shape: Shape): void {
    const { tokens, outputs, splits, top } = shape;
    this.#scratchBuffer('tokens', tokens * 4);
    this.#scratchBuffer('places', tokens * 8);
    this.#scratchBuffer('output rows', Math.max(1, outputs) * 4);
    this.#scratchBuffer('block table', tokens * this.#tableStride() * 4);
    this.#scratchBuffer('trit counts', tokens * this.#program.tracePoints * 12);
    const partials = splits === 1 ? 0 : tokens * splits * this.#partialBytes();
    this.#scratchBuffer('attention partials', partials);
    this.#scratchBuffer('attention statistics', partials === 0 ? 0 : tokens * splits * this.#headCount() * 8);
    if (top > 0) {
      const chunks = Math.ceil(this.#program.vocabSize / TOP_CHUNK);
      this.#scratchBuffer('top candidates', outputs * chunks * top * 8);
      this.#scratchBuffer('top statistics', outputs * chunks * 8);
      this.#scratchBuffer('top ids', outputs * top * 4);
      this.#scratchBuffer('top values', outputs * top * 4);
      this.#scratchBuffer('log sums', outputs * 4);
    }
    if (tokens > this.#rows) this.#allocateActivations(tokens);
    // Logits are the one wide buffer: as many rows of them as a step asked for, not as it has tokens.
    const logits = this.#scratchBuffer('logits', Math.max(1, outputs) * padded(this.#program.vocabSize) * 4);
    this.#activations[this.#program.logits] = logits;
  }

  #allocateActivations(rows: number): void {
    const { buffers, logits } = this.#program;
    this.#activations.forEach((buffer, id) => {
      if (id !== logits) this.#gpu.release(buffer);
    });
    this.#activations = [];
    this.#tapes.clear();
    const { scales } = this.#plans.traced;
    buffers.forEach(({ name, dtype, width }, id) => {
      if (id === logits) return;
      const bytes = scales.has(id) ? 8 : padded(width) * (dtype === 'f32' ? 4 : 2);
      this.#activations[id] = this.#gpu.allocate(rows * bytes, name);
    });
    this.#rows = rows;
    this.#scratchBuffer('status', Math.max(1, this.#plans.traced.labels.length) * rows * 4);
  }

  /** At least `bytes` of scratch; grows by doubling. */
  #scratchBuffer(name: string, bytes: number): GpuBuffer & { readonly memory: ArrayBuffer } {
    const known = this.#scratch.get(name);
    if (known !== undefined && known.memory.byteLength >= bytes) return known;
    const size = Math.max(bytes, 2 * (known?.memory.byteLength ?? 0));
    const buffer = this.#gpu.allocate(Math.min(size, Math.max(bytes, MAX_SCRATCH_BYTES)), name);
    if (known !== undefined) this.#gpu.release(known);
    this.#scratch.set(name, buffer);
    this.#tapes.clear();
    return buffer;
  }

  #scratchMemory(name: string): ArrayBuffer {
    return this.#scratch.get(name)!.memory;
  }

  #activationMemory(buffer: BufferId): ArrayBuffer {
    return this.#activations[buffer]!.memory!;
  }

  #sequence(id: SequenceId): Sequence {
    const found = this.#sequences.get(id);
    if (found === undefined) throw new RangeError(`sequence ${id} does not exist`);
    return found;
  }

  #tableStride(): number {
    return Math.ceil(this.#program.contextLength / BLOCK_POSITIONS);
  }

  #headCount(): number {
    let heads = 0;
    for (const op of this.#program.ops) if (op.op === 'attention') heads = Math.max(heads, op.heads);
    return heads;
  }

  #partialBytes(): number {
    return this.#headCount() * this.#pool.headStride * 4;
  }

  #planOf({ traced }: Shape): Plan {
    return traced ? this.#plans.traced : this.#plans.plain;
  }

  #rowsOf(buffer: BufferId, shape: Shape): number {
    return this.#program.buffers[buffer]!.rows === 'tokens' ? shape.tokens : shape.outputs;
  }

  #width(buffer: BufferId): number {
    return this.#program.buffers[buffer]!.width;
  }

  #stride(buffer: BufferId): number {
    return padded(this.#width(buffer));
  }

  // ---- dispatches

  #encode(shape: Shape): Dispatch[] {
    const dispatches: Dispatch[] = [];
    for (const run of this.#planOf(shape).runs) dispatches.push(...this.#dispatchesOf(run, shape));
    if (shape.top > 0 && shape.outputs > 0) dispatches.push(...this.#topDispatches(shape));
    return dispatches;
  }

  #dispatchesOf(run: Run, shape: Shape): Dispatch[] {
    switch (run.run) {
      case 'embed':
        return [this.#embed(run, shape)];
      case 'rows':
        return this.#rowsOf(run.x, shape) === 0 ? [] : [this.#rowsDispatch(run, shape)];
      case 'ternary':
        return this.#rowsOf(run.codes, shape) === 0 ? [] : [this.#ternary(run, shape)];
      case 'rope':
        return [this.#rope(run, shape)];
      case 'attention':
        return this.#attention(run, shape);
      case 'select':
        return shape.outputs === 0 ? [] : [this.#select(run, shape)];
      case 'dense':
        return this.#rowsOf(run.x, shape) === 0 ? [] : [this.#dense(run, shape)];
      case 'int8':
        return this.#rowsOf(run.codes, shape) === 0 ? [] : [this.#int8(run, shape)];
      case 'count':
        return [this.#count(run, shape)];
    }
  }

  #embed(run: Run & { run: 'embed' }, { tokens }: Shape): Dispatch {
    const weight = this.#program.weights[run.table]!;
    if (weight.kind !== 'dense') throw wrongKind(weight, 'dense');
    const { buffer, stride } = this.#weights[run.table]!;
    const width = this.#width(run.out);
    const kernel = `embed_${weight.dtype}` as const;
    return dispatch(kernel, [tokens, 1, 1], this.#threads(kernel, padded(width)), {
      table: buffer,
      tokens: this.#scratch.get('tokens')!,
      out: this.#activations[run.out]!,
      a: { width, table_stride: stride, out_stride: padded(width) },
    });
  }

  #select(run: Run & { run: 'select' }, { outputs }: Shape): Dispatch {
    const stride4 = this.#stride(run.x) / 4;
    const kernel = run.y === undefined ? 'select_rows' : 'select_sum';
    const args = {
      x: this.#activations[run.x]!,
      rows: this.#scratch.get('output rows')!,
      out: this.#activations[run.out]!,
      a: { stride4 },
    };
    const threads = this.#threads(kernel, stride4);
    return run.y === undefined
      ? dispatch('select_rows', [outputs, 1, 1], threads, args)
      : dispatch('select_sum', [outputs, 1, 1], threads, { ...args, y: this.#activations[run.y]! });
  }

  #rowsDispatch(run: Run & { run: 'rows' }, shape: Shape): Dispatch {
    const { kernel } = run;
    const rows = this.#rowsOf(run.x, shape);
    const stride4 = this.#stride(run.x) / 4;
    const x = this.#activations[run.x]!;
    const y = run.y === undefined ? x : this.#activations[run.y]!;
    const a: StructValues<'RowArgs'> = {
      stride4,
      width: this.#width(run.x),
      eps: run.norm?.eps ?? 0,
      keep: run.out === undefined ? 0 : 1,
      status_at: (run.quantize?.index ?? 0) * this.#rows,
    };
    const args = {
      x,
      gate: x,
      y,
      up: y,
      // Never touched where `keep` is 0, but every argument of a kernel has to be bound.
      out: run.out === undefined ? x : this.#activations[run.out]!,
      weight: run.norm === undefined ? x : this.#weights[run.norm.weight]!.buffer,
      codes: run.quantize === undefined ? x : this.#activations[run.quantize.codes]!,
      scales: run.quantize === undefined ? x : this.#activations[run.quantize.scale]!,
      status: this.#scratch.get('status')!,
      a,
    };
    return dispatch(kernel, [rows, 1, 1], this.#threads(kernel, stride4), args);
  }

  #shapeOf(run: Run & { run: 'ternary' }): string {
    const matrices = run.matrices.map(({ weight }) => this.#ternaryWeight(weight));
    const quads = matrices.reduce((sum, { rows }) => sum + Math.ceil(rows / 4), 0);
    return shapeKey(quads, padded(matrices[0]!.columns) / 16);
  }

  #ternaryWeight(id: WeightId) {
    const weight = this.#program.weights[id]!;
    if (weight.kind !== 'ternary') throw wrongKind(weight, 'ternary');
    return weight;
  }

  #ternary(run: Run & { run: 'ternary' }, shape: Shape, forced?: TernaryChoice): Dispatch {
    const tokens = this.#rowsOf(run.codes, shape);
    const matrices = run.matrices.map(({ weight, out }) => {
      const { rows, columns, scale } = this.#ternaryWeight(weight);
      return { buffer: this.#weights[weight]!.buffer, rows, columns, scale, quads: Math.ceil(rows / 4), out };
    });
    const groups = this.#stride(run.codes) / 16;
    const quads = matrices.reduce((sum, matrix) => sum + matrix.quads, 0);
    const tuned = forced ?? this.#tuning.get(shapeKey(quads, groups)) ?? defaultChoice(quads);
    let kernel: KernelName & `ternary_${string}` = tuned.kernel;
    let { simdgroups } = tuned;
    let quadsPerTile = kernel === 'ternary_gemv_splitk' ? 1 : QUADS_OF[tuned.kernel] * simdgroups;
    let tokensPerTile = 1;
    if (tokens >= GEMM_FROM) {
      kernel = 'ternary_gemm';
      simdgroups = 4;
      quadsPerTile = 16;
      tokensPerTile = 32;
    } else if (tokens > 1) {
      kernel = tokens === 2 ? 'ternary_gemv_t2' : 'ternary_gemv_t4';
      simdgroups = 4;
      quadsPerTile = 4;
      tokensPerTile = tokens === 2 ? 2 : 4;
    }
    const tiles = matrices.map((matrix) => Math.ceil(matrix.quads / quadsPerTile));
    // An absent matrix has no tiles; its arguments repeat the first one's, because all of them have to be bound.
    const at = (i: number) => matrices[i] ?? { ...matrices[0]!, rows: 0, quads: 0, scale: 0 };
    const out = (i: number) => this.#activations[at(i).out]!;
    return dispatch(
      kernel,
      [tiles.reduce((sum, n) => sum + n, 0), Math.ceil(tokens / tokensPerTile), 1],
      simdgroups * 32,
      {
        w0: at(0).buffer,
        w1: at(1).buffer,
        w2: at(2).buffer,
        codes: this.#activations[run.codes]!,
        scales: this.#activations[run.scale]!,
        out0: out(0),
        out1: out(1),
        out2: out(2),
        a: {
          groups,
          tokens,
          out_stride0: this.#stride(at(0).out),
          out_stride1: this.#stride(at(1).out),
          out_stride2: this.#stride(at(2).out),
          rows0: at(0).rows,
          rows1: at(1).rows,
          rows2: at(2).rows,
          quads0: at(0).quads,
          quads1: at(1).quads,
          quads2: at(2).quads,
          tiles0: tiles[0]!,
          tiles1: tiles[1] ?? 0,
          scale0: at(0).scale,
          scale1: at(1).scale,
          scale2: at(2).scale,
        },
      },
    );
  }

  #cacheArgs(layer: number): StructValues<'CacheArgs'> {
    const { kvHeads, headDim } = this.#program.kv;
    return {
      block_stride: this.#pool.blockStride,
      layer_at: layer * this.#pool.layerStride,
      kv_heads: kvHeads,
      head_dim: headDim,
      head_stride: this.#pool.headStride,
      table_stride: this.#tableStride(),
    };
  }

  #rope(run: Run & { run: 'rope' }, { tokens }: Shape): Dispatch {
    const { q, append, headDim } = run;
    const any = this.#activations[(q?.x ?? append?.k)!]!;
    const kvHeads = append === undefined ? 0 : this.#program.kv.kvHeads;
    const pairs = ((q?.heads ?? 0) + 2 * kvHeads) * (headDim / 2);
    const threads = this.#threads('rope_append', pairs, 256);
    return dispatch('rope_append', [Math.ceil(pairs / threads), tokens, 1], threads, {
      q: q === undefined ? any : this.#activations[q.x]!,
      k: append === undefined ? any : this.#activations[append.k]!,
      v: append === undefined ? any : this.#activations[append.v]!,
      cosine: this.#cosine,
      sine: this.#sine,
      places: this.#scratch.get('places')!,
      table: this.#scratch.get('block table')!,
      cache: this.#pool.buffer,
      a: {
        heads: q?.heads ?? 0,
        k_heads: append?.rotate ?? 0,
        append: append === undefined ? 0 : 1,
        head_dim: headDim,
        q_stride: q === undefined ? 0 : this.#stride(q.x),
        k_stride: append === undefined ? 0 : this.#stride(append.k),
      },
      c: this.#cacheArgs(append?.layer ?? 0),
    });
  }

  #attention(run: Run & { run: 'attention' }, { tokens, splits }: Shape): Dispatch[] {
    const { heads, kvHeads, headDim } = run;
    const groupHeads = heads / kvHeads;
    const wide = headDim > 128;
    const tile = wide ? 1 : groupHeads % 4 === 0 ? 4 : groupHeads % 2 === 0 ? 2 : 1;
    const kernel = wide ? 'attention_wide' : (`attention_h${tile}` as 'attention_h1' | 'attention_h2' | 'attention_h4');
    let lanes = 1;
    while (lanes < 32 && lanes * 4 < headDim) lanes *= 2;
    const a: StructValues<'AttentionArgs'> = {
      group_heads: groupHeads,
      split: ATTENTION_SPLIT,
      splits,
      lanes,
      scale: run.scale,
      q_stride: this.#stride(run.q),
      out_stride: this.#stride(run.out),
    };
    const c = this.#cacheArgs(run.layer);
    const places = this.#scratch.get('places')!;
    const out = this.#activations[run.out]!;
    const partials = this.#scratch.get('attention partials')!;
    const statistics = this.#scratch.get('attention statistics')!;
    const first = dispatch(
      kernel,
      [splits, kvHeads * (groupHeads / tile), tokens],
      this.#threads(kernel, wide ? 128 : 256),
      {
        q: this.#activations[run.q]!,
        cache: this.#pool.buffer,
        places,
        table: this.#scratch.get('block table')!,
        out,
        partials,
        partial_stats: statistics,
        a,
        c,
      },
    );
    if (splits === 1) return [first];
    const merge = dispatch('attention_merge', [heads, tokens, 1], this.#threads('attention_merge', headDim / 4), {
      partials,
      partial_stats: statistics,
      places,
      out,
      a,
      c,
    });
    return [first, merge];
  }

  #dense(run: Run & { run: 'dense' }, shape: Shape): Dispatch {
    const weight = this.#program.weights[run.weight]!;
    if (weight.kind !== 'dense') throw wrongKind(weight, 'dense');
    const { buffer, stride } = this.#weights[run.weight]!;
    const tokens = this.#rowsOf(run.x, shape);
    const one = `dense_${weight.dtype}` as const;
    const kernel = tokens === 1 ? one : (`${one}_t4` as const);
    const threads = this.#threads(kernel, 128);
    const rowsPerGroup = (threads / 32) * 4;
    return dispatch(
      kernel,
      [Math.ceil(weight.rows / rowsPerGroup), tokens === 1 ? 1 : Math.ceil(tokens / 4), 1],
      threads,
      {
        w: buffer,
        x: this.#activations[run.x]!,
        out: this.#activations[run.out]!,
        a: {
          rows: weight.rows,
          groups: stride / (weight.dtype === 'f32' ? 4 : 8),
          tokens,
          x_stride4: this.#stride(run.x) / 4,
          out_stride: this.#stride(run.out),
        },
      },
    );
  }

  #int8(run: Run & { run: 'int8' }, shape: Shape): Dispatch {
    const weight = this.#program.weights[run.weight]!;
    if (weight.kind !== 'int8') throw wrongKind(weight, 'int8');
    const { buffer, scales, stride } = this.#weights[run.weight]!;
    const tokens = this.#rowsOf(run.codes, shape);
    const kernel = tokens === 1 ? 'int8_gemv' : 'int8_gemv_t4';
    const threads = this.#threads(kernel, 128);
    const rowsPerGroup = (threads / 32) * 4;
    return dispatch(
      kernel,
      [Math.ceil(weight.rows / rowsPerGroup), tokens === 1 ? 1 : Math.ceil(tokens / 4), 1],
      threads,
      {
        w: buffer,
        row_scale: scales!,
        codes: this.#activations[run.codes]!,
        scales: this.#activations[run.scale]!,
        out: this.#activations[run.out]!,
        a: {
          rows: weight.rows,
          groups: stride / 16,
          tokens,
          x_stride4: this.#stride(run.codes) / 4,
          out_stride: this.#stride(run.out),
        },
      },
    );
  }

  #count(run: Run & { run: 'count' }, { tokens }: Shape): Dispatch {
    return dispatch('count_trits', [tokens, 1, 1], 32, {
      x: this.#activations[run.x]!,
      counts: this.#scratch.get('trit counts')!,
      a: {
        stride: this.#stride(run.x),
        width: this.#width(run.x),
        counts_at: run.index * 3,
        counts_stride: this.#program.tracePoints * 3,
      },
    });
  }

  #topDispatches({ outputs, top }: Shape): Dispatch[] {
    const { vocabSize, logits } = this.#program;
    const chunks = Math.ceil(vocabSize / TOP_CHUNK);
    const candidates = this.#scratch.get('top candidates')!;
    const statistics = this.#scratch.get('top statistics')!;
    const a = { width: vocabSize, stride: this.#stride(logits), count: top, chunks, chunk: TOP_CHUNK };
    return [
      dispatch('top_chunk', [chunks, outputs, 1], this.#threads('top_chunk', 256), {
        logits: this.#activations[logits]!,
        candidates,
        statistics,
        a,
      }),
      dispatch('top_merge', [1, outputs, 1], this.#threads('top_merge', 256), {
        candidates,
        statistics,
        out_values: this.#scratch.get('top values')!,
        out_ids: this.#scratch.get('top ids')!,
        log_sums: this.#scratch.get('log sums')!,
        a,
      }),
    ];
  }

  /** Whole simdgroups for `wanted` threads, as far as the pipeline goes. */
  #threads(kernel: KernelName, wanted: number, most = 1024): number {
    const limit = Math.min(most, Math.floor(this.#gpu.pipeline(kernel).maxThreads / 32) * 32);
    return Math.min(limit, Math.ceil(wanted / 32) * 32);
  }

  /** Fails at load, not at the first step, where this GPU's pipelines take too few threads for the rows. */
  #checkRows(): void {
    for (const run of [...this.#plans.plain.runs, ...this.#plans.traced.runs]) {
      if (run.run !== 'rows') continue;
      const stride4 = this.#stride(run.x) / 4;
      const held = this.#threads(run.kernel, stride4) * ROW_SLICES;
      if (held < stride4) {
        const what = `rows of ${this.#width(run.x)}, this GPU's ${run.kernel} takes up to ${Math.min(held * 4, LIMITS.rowWidth)}`;
        throw new MetalUnsupportedError(what, this.#program.name);
      }
    }
  }
}

/** ROW_SLICES of rows.metal. */
const ROW_SLICES = 8;

type Part = {
  readonly firstToken: number;
  readonly tokens: number;
  readonly firstOutput: number;
  readonly outputs: number;
};

function splitsAt(position: number): number {
  return Math.floor(position / ATTENTION_SPLIT) + 1;
}

function wrongKind({ name, kind }: { name: string; kind: string }, wanted: string): TypeError {
  return new TypeError(`weight "${name}" is ${kind}, the program uses it as ${wanted}`);
}
