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
import { checkStep, weightBytesPerToken } from '../validate.ts';
import * as ops from './ops.ts';

export const jsBackend: Backend = {
  name: 'js',
  unavailable: async () => undefined,
  load: async (program, options) => new JsExecutable(program, options),
};

type LayerCache = { keys: Float32Array; values: Float32Array };
type Sequence = { length: number; capacity: number; layers: LayerCache[] };

const FIRST_CAPACITY = 64;

class JsExecutable implements Executable {
  readonly info: ExecutableInfo;
  readonly #program: Program;
  readonly #dense = new Map<Weight, ops.DenseRows>();
  readonly #grouped = new Map<Weight, ops.GroupedRows>();
  readonly #sequences = new Map<SequenceId, Sequence>();
  readonly #kvWidth: number;
  #nextSequence = 0;
  #buffers: (Float32Array | Int8Array | Int16Array)[] = [];
  #bufferRows = 0;
  #scores = new Float32Array(FIRST_CAPACITY);
  readonly #row: Float32Array;
  readonly #codes: Uint8Array;

  constructor(program: Program, options: LoadOptions) {
    if (options.signal?.aborted) throw new CancelledError('loading was cancelled');
    this.#program = program;
    this.#kvWidth = program.kv.kvHeads * program.kv.headDim;
    let widest = 0;
    for (const weight of program.weights) {
      if (weight.kind === 'dense') this.#dense.set(weight, denseRowsOf(weight));
      else if (weight.kind === 'grouped') this.#grouped.set(weight, groupedRowsOf(weight));
      else continue;
      widest = Math.max(widest, weight.columns);
    }
    this.#row = new Float32Array(widest);
    this.#codes = new Uint8Array(widest);
    this.info = { backend: 'js', threads: 1, weightBytes: weightBytesPerToken(program) };
  }

  createSequence(): SequenceId {
    const id = this.#nextSequence++;
    this.#sequences.set(id, { length: 0, capacity: 0, layers: [] });
    return id;
  }

  freeSequence(sequence: SequenceId): void {
    this.#sequences.delete(sequence);
  }

  sequenceLength(sequence: SequenceId): number {
    return this.#sequence(sequence).length;
  }

  truncate(sequence: SequenceId, length: number): void {
    const found = this.#sequence(sequence);
    if (!(length >= 0 && length <= found.length)) throw new RangeError(`truncate to ${length} of ${found.length}`);
    found.length = length;
  }

  fork(sequence: SequenceId, length: number): SequenceId {
    const from = this.#sequence(sequence);
    if (!(length >= 0 && length <= from.length)) throw new RangeError(`fork at ${length} of ${from.length}`);
    const id = this.createSequence();
    const to = this.#sequence(id);
    this.#reserve(to, length);
    to.layers.forEach((cache, layer) => {
      cache.keys.set(from.layers[layer]!.keys.subarray(0, length * this.#kvWidth));
      cache.values.set(from.layers[layer]!.values.subarray(0, length * this.#kvWidth));
    });
    to.length = length;
    return id;
  }

  async step(step: Step): Promise<StepResult> {
    const program = this.#program;
    checkStep(program, step, (sequence) => this.#sequences.get(sequence)?.length);
    const T = step.tokens.length;
    this.#prepareBuffers(T);
    const newLengths = new Map<Sequence, number>();
    for (let t = 0; t < T; t += 1) {
      newLengths.set(this.#sequence(step.sequences[t]!), step.positions[t]! + 1);
    }
    for (const [sequence, length] of newLengths) this.#reserve(sequence, length);

    const traced = step.trace === true;
    const tritCounts = new Int32Array(traced ? T * program.tracePoints * 3 : 0);
    for (const op of program.ops) {
      if (op.op === 'countTrits' && !traced) continue;
      this.#run(op, step, tritCounts);
    }
    // Only a finished step moves the sequences on: rows written past a length do not exist.
    for (const [sequence, length] of newLengths) sequence.length = length;
    const logits = this.#f32(program.logits).slice(0, step.outputRows.length * program.vocabSize);
    return { logits, tritCounts };
  }

  [Symbol.dispose](): void {
    this.#sequences.clear();
    this.#buffers = [];
  }

  #run(op: Op, step: Step, tritCounts: Int32Array): void {
    const program = this.#program;
    const tokens = step.tokens.length;
    const outputs = step.outputRows.length;
    const rowsOf = (buffer: number) => (program.buffers[buffer]!.rows === 'tokens' ? tokens : outputs);
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
        const { cos, sin } = program.rope;
        ops.rope(this.#f32(op.x), step.positions, cos, sin, tokens, op.heads, op.headDim);
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
        const q = this.#f32(op.q);
        const out = this.#f32(op.out);
        for (let t = 0; t < tokens; t += 1) {
          const { keys, values } = this.#sequence(step.sequences[t]!).layers[op.layer]!;
          const count = step.positions[t]! + 1;
          if (this.#scores.length < count) this.#scores = new Float32Array(2 * count);
          const at = t * width;
          ops.attentionRow(q, at, keys, values, count, heads, kvHeads, headDim, scale, this.#scores, out, at);
        }
        break;
      }
      case 'gatedActivation': {
        const n = rowsOf(op.out) * widthOf(op.out);
        const apply = op.fn === 'relu2' ? ops.relu2Gate : ops.siluGate;
        apply(this.#f32(op.gate), this.#f32(op.up), n, this.#f32(op.out));
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
      case 'countTrits':
        ops.countTrits(this.#f32(op.x), tokens, widthOf(op.x), tritCounts, program.tracePoints * 3, op.index * 3);
    }
  }

  #sequence(id: SequenceId): Sequence {
    const found = this.#sequences.get(id);
    if (found === undefined) throw new RangeError(`sequence ${id} does not exist`);
    return found;
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
    const arrays = { f32: Float32Array, i8: Int8Array, i16: Int16Array };
    this.#buffers = this.#program.buffers.map(({ dtype, width }) => new arrays[dtype](rows * width));
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

  #groupedOf(id: number): ops.GroupedRows {
    const weight = this.#program.weights[id]!;
    const rows = this.#grouped.get(weight);
    if (rows === undefined) throw wrongKind(weight, 'grouped');
    return rows;
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

function groupedRowsOf({ bytes, columns, group, scaleType: type, scales }: GroupedWeight): ops.GroupedRows {
  const values = type === 'f32' ? { type, values: floatsOf(scales) } : { type, values: halvesOf(scales) };
  return { bytes, columns, group, scales: values };
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
