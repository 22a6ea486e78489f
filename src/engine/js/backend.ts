// The reference backend: interprets the recorded program, operation by operation, in plain JavaScript. It is always
// there, needs nothing, and defines what every other backend must compute.

import { CancelledError } from '../../errors.ts';
import {
  type Backend,
  type Executable,
  type ExecutableInfo,
  type LoadOptions,
  NonFiniteError,
  type SequenceId,
  type Step,
  type StepResult,
} from '../backend.ts';
import type { DenseWeight, GroupedWeight, Op, Program, Weight } from '../program.ts';
import { checkRewind } from '../rewind.ts';
import { asAsked } from '../top-logits.ts';
import { checkStep, weightBytesPerToken } from '../validate.ts';
import * as hybrid from './hybrid-ops.ts';
import * as ops from './ops.ts';

export const jsBackend: Backend = {
  name: 'js',
  unavailable: async () => undefined,
  load: async (program, options) => new JsExecutable(program, options),
};

type LayerCache = { keys: Float32Array; values: Float32Array };
type Sequence = { length: number; capacity: number; layers: LayerCache[]; recurrent: Float32Array[] };
type Elements = Float32Array | Int8Array | Int16Array | Int32Array;
/** Rows [from, to) of a step, of one sequence. */
type Run = { readonly sequence: Sequence; readonly from: number; readonly to: number };

const FIRST_CAPACITY = 64;

const GATES = { relu2: ops.relu2Gate, silu: ops.siluGate, sigmoid: ops.sigmoidGate } as const;

class JsExecutable implements Executable {
  readonly info: ExecutableInfo;
  readonly #program: Program;
  readonly #dense = new Map<Weight, ops.DenseRows>();
  /** One for each expert. */
  readonly #grouped = new Map<Weight, readonly ops.GroupedRows[]>();
  readonly #sequences = new Map<SequenceId, Sequence>();
  readonly #kvWidth: number;
  #nextSequence = 0;
  #buffers: Elements[] = [];
  #bufferRows = 0;
  #scores = new Float32Array(FIRST_CAPACITY);
  readonly #row: Float32Array;
  /** One head of attention's values. */
  readonly #block: Float32Array;
  #runs: readonly Run[] = [];
  readonly #codes: Uint8Array;

  constructor(program: Program, options: LoadOptions) {
    if (options.signal?.aborted) throw new CancelledError('loading was cancelled');
    this.#program = program;
    this.#kvWidth = program.kv.kvHeads * program.kv.headDim;
    let widest = 0;
    for (const weight of program.weights) {
      if (weight.kind === 'dense') this.#dense.set(weight, denseRowsOf(weight));
      else if (weight.kind === 'grouped') this.#grouped.set(weight, expertsOf(weight));
      else continue;
      widest = Math.max(widest, weight.columns);
    }
    this.#row = new Float32Array(widest);
    this.#block = new Float32Array(program.kv.headDim);
    this.#codes = new Uint8Array(widest);
    this.info = { backend: 'js', threads: 1, weightBytes: weightBytesPerToken(program) };
  }

  createSequence(): SequenceId {
    const id = this.#nextSequence++;
    this.#sequences.set(id, { length: 0, capacity: 0, layers: [], recurrent: this.#zeroStates() });
    return id;
  }

  freeSequence(sequence: SequenceId): void {
    this.#sequences.delete(sequence);
  }

  sequenceLength(sequence: SequenceId): number {
    return this.#sequence(sequence).length;
  }

  rewindLimit(sequence: SequenceId): number {
    const { length, recurrent } = this.#sequence(sequence);
    return recurrent.length === 0 ? 0 : length;
  }

  truncate(sequence: SequenceId, length: number): void {
    const found = this.#sequence(sequence);
    checkRewind(this, 'truncate to', sequence, length);
    found.length = length;
    if (length === 0) found.recurrent = this.#zeroStates();
  }

  fork(sequence: SequenceId, length: number): SequenceId {
    const from = this.#sequence(sequence);
    checkRewind(this, 'fork at', sequence, length);
    const id = this.createSequence();
    const to = this.#sequence(id);
    this.#reserve(to, length);
    to.layers.forEach((cache, layer) => {
      cache.keys.set(from.layers[layer]!.keys.subarray(0, length * this.#kvWidth));
      cache.values.set(from.layers[layer]!.values.subarray(0, length * this.#kvWidth));
    });
    if (length > 0) to.recurrent = from.recurrent.map((state) => state.slice());
    to.length = length;
    return id;
  }

  async step(step: Step): Promise<StepResult> {
    const program = this.#program;
    checkStep(program, step, (sequence) => this.#sequences.get(sequence)?.length);
    const T = step.tokens.length;
    this.#prepareBuffers(T);
    this.#runs = this.#runsOf(step);
    for (const { sequence, from, to } of this.#runs) this.#reserve(sequence, sequence.length + to - from);

    const traced = step.trace === true;
    const tritCounts = new Int32Array(traced ? T * program.tracePoints * 3 : 0);
    try {
      for (const op of program.ops) {
        if (op.op === 'countTrits' && !traced) continue;
        this.#run(op, step, tritCounts);
      }
    } catch (cause) {
      this.#emptyRecurrent();
      throw cause;
    }
    // Only a finished step moves the sequences on: rows written past a length do not exist.
    for (const { sequence, from, to } of this.#runs) sequence.length += to - from;
    const logits = this.#f32(program.logits).slice(0, step.outputRows.length * program.vocabSize);
    return { ...asAsked(step, logits), tritCounts };
  }

  [Symbol.dispose](): void {
    this.#sequences.clear();
    this.#buffers = [];
  }

  #run(op: Op, step: Step, tritCounts: Int32Array): void {
    const program = this.#program;
    const tokens = step.tokens.length;
    const outputs = step.outputRows.length;
    const counts = { tokens, outputs, choices: tokens * (program.choices ?? 0) };
    const rowsOf = (buffer: number) => counts[program.buffers[buffer]!.rows];
    const widthOf = (buffer: number) => program.buffers[buffer]!.width;
    switch (op.op) {
      case 'embed': {
        const width = widthOf(op.out);
        const table = this.#denseOf(op.table);
        for (let t = 0; t < tokens; t += 1) ops.denseRow(table, step.tokens[t]!, width, this.#f32(op.out), t * width);
        break;
      }
      case 'embedGrouped': {
        const width = widthOf(op.out);
        const table = this.#groupedOf(op.table);
        for (let t = 0; t < tokens; t += 1) {
          ops.groupedRow(table, step.tokens[t]!, this.#codes, this.#f32(op.out), t * width);
        }
        break;
      }
      case 'rmsNormHeads': {
        const { heads, headDim } = op;
        const T = rowsOf(op.x);
        ops.rmsNormHeads(this.#f32(op.x), this.#vector(op.weight), op.eps, T, heads, headDim, this.#f32(op.out));
        break;
      }
      case 'quantize16': {
        const rows = rowsOf(op.x);
        const bad = ops.quantizeRows16(this.#f32(op.x), rows, widthOf(op.x), this.#i16(op.codes), this.#f32(op.scale));
        if (bad >= 0) throw new NonFiniteError(`${program.name}, ${op.label}`);
        break;
      }
      case 'groupedMatmul': {
        const { rows } = program.weights[op.weight] as GroupedWeight;
        const table = this.#groupedOf(op.weight);
        const T = rowsOf(op.out);
        const out = this.#f32(op.out);
        ops.groupedMatmul(table, this.#i16(op.codes), this.#f32(op.scale), T, rows, this.#codes, out);
        break;
      }
      case 'rmsNorm':
        ops.rmsNorm(this.#f32(op.x), this.#vector(op.weight), op.eps, rowsOf(op.x), widthOf(op.x), this.#f32(op.out));
        break;
      case 'quantize': {
        const rows = rowsOf(op.x);
        const bad = ops.quantizeRows(this.#f32(op.x), rows, widthOf(op.x), this.#i8(op.codes), this.#f32(op.scale));
        if (bad >= 0) throw new NonFiniteError(`${program.name}, ${op.label}`);
        break;
      }
      case 'ternaryMatmul': {
        const weight = program.weights[op.weight]!;
        if (weight.kind !== 'ternary') throw wrongKind(weight, 'ternary');
        const { bytes, scale, rows, columns } = weight;
        const T = rowsOf(op.out);
        ops.ternaryMatmul(bytes, scale, this.#i8(op.codes), this.#f32(op.scale), T, rows, columns, this.#f32(op.out));
        break;
      }
      case 'rope': {
        const { cos, sin, rotaryDim } = program.rope;
        ops.rope(this.#f32(op.x), step.positions, cos, sin, tokens, op.heads, op.headDim, rotaryDim);
        break;
      }
      case 'kvAppend': {
        const width = this.#kvWidth;
        const k = this.#f32(op.k);
        const v = this.#f32(op.v);
        for (let t = 0; t < tokens; t += 1) {
          const cache = this.#sequence(step.sequences[t]!).layers[op.layer]!;
          cache.keys.set(k.subarray(t * width, t * width + width), step.positions[t]! * width);
          cache.values.set(v.subarray(t * width, t * width + width), step.positions[t]! * width);
        }
        break;
      }
      case 'attention': {
        const { heads, kvHeads, headDim, scale } = op;
        const width = heads * headDim;
        const window = program.kv.windows?.[op.layer] ?? 0;
        const q = this.#f32(op.q);
        const out = this.#f32(op.out);
        for (let t = 0; t < tokens; t += 1) {
          const { keys, values } = this.#sequence(step.sequences[t]!).layers[op.layer]!;
          const end = step.positions[t]! + 1;
          const first = window === 0 ? 0 : Math.max(0, end - window);
          if (this.#scores.length < end - first) this.#scores = new Float32Array(2 * (end - first));
          const [at, scores, block] = [t * width, this.#scores, this.#block];
          ops.attentionRow(q, at, keys, values, first, end, heads, kvHeads, headDim, scale, scores, block, out, at);
        }
        break;
      }
      case 'gatedActivation': {
        const n = rowsOf(op.out) * widthOf(op.out);
        const [gate, up, out] = [this.#f32(op.gate), this.#f32(op.up), this.#f32(op.out)];
        if (op.fn === 'clampedSilu') ops.clampedSiluGate(gate, up, Math.fround(op.limit ?? Infinity), n, out);
        else GATES[op.fn](gate, up, n, out);
        break;
      }
      case 'add':
        ops.addInPlace(this.#f32(op.x), this.#f32(op.y), rowsOf(op.x) * widthOf(op.x));
        break;
      case 'selectOutputs': {
        const width = widthOf(op.x);
        const x = this.#f32(op.x);
        const out = this.#f32(op.out);
        step.outputRows.forEach((t, i) => {
          out.set(x.subarray(t * width, t * width + width), i * width);
        });
        break;
      }
      case 'denseMatmul': {
        const C = widthOf(op.x);
        const R = widthOf(op.out);
        ops.denseMatmul(this.#f32(op.x), this.#denseOf(op.weight), rowsOf(op.x), R, C, this.#row, this.#f32(op.out));
        break;
      }
      case 'int8Matmul': {
        const weight = program.weights[op.weight]!;
        if (weight.kind !== 'int8') throw wrongKind(weight, 'int8');
        const { codes, rowScale, rows, columns } = weight;
        const T = rowsOf(op.out);
        ops.int8Matmul(this.#i8(op.codes), this.#f32(op.scale), codes, rowScale, T, rows, columns, this.#f32(op.out));
        break;
      }
      case 'hadamard': {
        const { block, keyHeads, headDim, direction } = op;
        const [rows, width] = [rowsOf(op.x), widthOf(op.x)];
        const [x, signs, out] = [this.#f32(op.x), this.#vector(op.signs), this.#f32(op.out)];
        const move = keyHeads > 0 ? { keyHeads, headDim } : undefined;
        if (direction === 'forward') hybrid.rotateForward(x, signs, block, move, rows, width, out);
        else hybrid.rotateBack(x, signs, block, rows, width, out);
        break;
      }
      case 'splitHeads':
        hybrid.splitHeads(
          this.#f32(op.x),
          rowsOf(op.x),
          op.heads,
          op.headDim,
          this.#f32(op.first),
          this.#f32(op.second),
        );
        break;
      case 'causalConv': {
        const [x, weight, out] = [this.#f32(op.x), this.#vector(op.weight), this.#f32(op.out)];
        for (const { sequence, from, to } of this.#runs) {
          hybrid.causalConv(x, from, to, widthOf(op.x), weight, op.taps, sequence.recurrent[op.state]!, out);
        }
        break;
      }
      case 'l2NormHeads': {
        const { offset, heads, headDim } = op;
        const [eps, scale] = [Math.fround(op.eps), Math.fround(op.scale)];
        hybrid.l2NormHeads(this.#f32(op.x), rowsOf(op.x), widthOf(op.x), offset, heads, headDim, eps, scale);
        break;
      }
      case 'gatedDelta': {
        const [x, beta, alpha, out] = [this.#f32(op.x), this.#f32(op.beta), this.#f32(op.alpha), this.#f32(op.out)];
        const [decay, bias] = [this.#vector(op.decay), this.#vector(op.bias)];
        for (const { sequence, from, to } of this.#runs) {
          hybrid.gatedDelta(x, from, to, beta, alpha, decay, bias, op, sequence.recurrent[op.state]!, out);
        }
        break;
      }
      case 'routeExperts': {
        const [x, experts, weights] = [this.#f32(op.x), this.#i32(op.experts), this.#f32(op.weights)];
        const bad = hybrid.routeExperts(
          x,
          tokens,
          widthOf(op.x),
          program.choices ?? 0,
          Math.fround(op.least),
          experts,
          weights,
        );
        if (bad >= 0) throw new NonFiniteError(`${program.name}, ${op.label}`);
        break;
      }
      case 'expertMatmul': {
        const choices = program.choices ?? 0;
        const { rows, columns } = program.weights[op.weight] as GroupedWeight;
        const [codes, scale, experts] = [this.#i16(op.codes), this.#f32(op.scale), this.#i32(op.experts)];
        const out = this.#f32(op.out);
        const perChoice = program.buffers[op.codes]!.rows === 'choices';
        for (let i = 0; i < tokens * choices; i += 1) {
          const row = perChoice ? i : Math.floor(i / choices);
          const table = this.#expertsOf(op.weight)[experts[i]!]!;
          ops.groupedMatmul(
            table,
            codes.subarray(row * columns, (row + 1) * columns),
            scale.subarray(row, row + 1),
            1,
            rows,
            this.#codes,
            out.subarray(i * rows, (i + 1) * rows),
          );
        }
        break;
      }
      case 'addExperts': {
        const [x, y, weights] = [this.#f32(op.x), this.#f32(op.y), this.#f32(op.weights)];
        hybrid.addExperts(x, y, weights, tokens, program.choices ?? 0, widthOf(op.x));
        break;
      }
      case 'countTrits':
        ops.countTrits(this.#f32(op.x), tokens, widthOf(op.x), tritCounts, program.tracePoints * 3, op.index * 3);
    }
  }

  #sequence(id: SequenceId): Sequence {
    const found = this.#sequences.get(id);
    if (found === undefined) throw new RangeError(`sequence ${id} does not exist`);
    return found;
  }

  #zeroStates(): Float32Array[] {
    return (this.#program.recurrent ?? []).map(({ width }) => new Float32Array(width));
  }

  /** What a failed step wrote over cannot be had back. */
  #emptyRecurrent(): void {
    for (const { sequence } of this.#runs) {
      if (sequence.recurrent.length === 0) continue;
      sequence.length = 0;
      sequence.recurrent = this.#zeroStates();
    }
  }

  #runsOf({ sequences }: Step): Run[] {
    const runs: Run[] = [];
    for (let from = 0, to = 0; from < sequences.length; from = to) {
      while (to < sequences.length && sequences[to] === sequences[from]) to += 1;
      runs.push({ sequence: this.#sequence(sequences[from]!), from, to });
    }
    return runs;
  }

  /** Room for `length` positions; grows by doubling, so that a long generation copies its cache few times. */
  #reserve(sequence: Sequence, length: number): void {
    if (length <= sequence.capacity) return;
    const wanted = Math.max(FIRST_CAPACITY, 2 * sequence.capacity, length);
    const capacity = Math.min(wanted, this.#program.contextLength);
    const grow = (old: Float32Array | undefined) => {
      const grown = new Float32Array(capacity * this.#kvWidth);
      if (old !== undefined) grown.set(old);
      return grown;
    };
    const layers = Array.from({ length: this.#program.kv.layers }, (_, layer) => ({
      keys: grow(sequence.layers[layer]?.keys),
      values: grow(sequence.layers[layer]?.values),
    }));
    sequence.layers = layers;
    sequence.capacity = capacity;
  }

  #prepareBuffers(rows: number): void {
    if (rows <= this.#bufferRows) return;
    const arrays = { f32: Float32Array, i8: Int8Array, i16: Int16Array, i32: Int32Array };
    const counts = { tokens: rows, outputs: rows, choices: rows * (this.#program.choices ?? 0) };
    this.#buffers = this.#program.buffers.map(
      ({ dtype, width, rows: counted }) => new arrays[dtype](counts[counted] * width),
    );
    this.#bufferRows = rows;
  }

  #f32(buffer: number): Float32Array {
    return this.#buffers[buffer] as Float32Array;
  }

  #i8(buffer: number): Int8Array {
    return this.#buffers[buffer] as Int8Array;
  }

  #i16(buffer: number): Int16Array {
    return this.#buffers[buffer] as Int16Array;
  }

  #i32(buffer: number): Int32Array {
    return this.#buffers[buffer] as Int32Array;
  }

  #groupedOf(id: number): ops.GroupedRows {
    return this.#expertsOf(id)[0]!;
  }

  #expertsOf(id: number): readonly ops.GroupedRows[] {
    const weight = this.#program.weights[id]!;
    const experts = this.#grouped.get(weight);
    if (experts === undefined) throw wrongKind(weight, 'grouped');
    return experts;
  }

  #vector(id: number): Float32Array {
    const weight = this.#program.weights[id]!;
    if (weight.kind !== 'vector') throw wrongKind(weight, 'vector');
    return weight.values;
  }

  #denseOf(id: number): ops.DenseRows {
    const weight = this.#program.weights[id]!;
    const rows = this.#dense.get(weight);
    if (rows === undefined) throw wrongKind(weight, 'dense');
    return rows;
  }
}

function wrongKind(weight: Weight, wanted: string): TypeError {
  return new TypeError(`weight "${weight.name}" is ${weight.kind}, the program uses it as ${wanted}`);
}

function denseRowsOf({ dtype, bytes }: DenseWeight): ops.DenseRows {
  return dtype === 'f32' ? { dtype, values: floatsOf(bytes) } : { dtype, values: halvesOf(bytes) };
}

function expertsOf({ bytes, columns, group, scaleType, scales, experts = 1 }: GroupedWeight): ops.GroupedRows[] {
  const part = (all: Uint8Array, expert: number) => {
    const size = all.byteLength / experts;
    return all.subarray(expert * size, (expert + 1) * size);
  };
  return Array.from({ length: experts }, (_, expert) => {
    const own = part(scales, expert);
    return {
      bytes: part(bytes, expert),
      columns,
      group,
      scales: scaleType === 'f32' ? { type: 'f32', values: floatsOf(own) } : { type: 'f16', values: halvesOf(own) },
    };
  });
}

/** Views the bytes as elements; copies only when they are not aligned. */
function floatsOf(bytes: Uint8Array): Float32Array {
  const { buffer, byteOffset, byteLength } = bytes.byteOffset % 4 === 0 ? bytes : bytes.slice();
  return new Float32Array(buffer, byteOffset, byteLength / 4);
}

function halvesOf(bytes: Uint8Array): Uint16Array {
  const { buffer, byteOffset, byteLength } = bytes.byteOffset % 2 === 0 ? bytes : bytes.slice();
  return new Uint16Array(buffer, byteOffset, byteLength / 2);
}
