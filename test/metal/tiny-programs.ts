// Programs of one or a few operations: an embedding table whose rows are the data, the operations, and the result as
// "logits", so that every backend runs them through its public interface.

import type { Executable, StepResult } from '../../src/engine/backend.ts';
import { jsBackend } from '../../src/engine/js/backend.ts';
import type {
  BufferId,
  BufferSpec,
  DenseWeight,
  GroupedWeight,
  Int8Weight,
  KvSpec,
  Op,
  Program,
  RecurrentSpec,
  TernaryWeight,
  VectorWeight,
  Weight,
} from '../../src/engine/program.ts';
import { ropeTables } from '../../src/model/rope.ts';

/** Uniform in [-1, 1), from a seed. */
export function randomFloats(seed: number): () => number {
  let state = (seed * 2654435761 + 12345) >>> 0;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) / 2 ** 31 - 1;
  };
}

export const ROWS_OF_DATA = 40;

export class ProgramBuilder {
  readonly buffers: BufferSpec[] = [];
  readonly weights: Weight[] = [];
  readonly ops: Op[] = [];
  readonly random: () => number;
  readonly recurrent: RecurrentSpec[] = [];
  kv: KvSpec = { layers: 1, kvHeads: 1, headDim: 4 };
  contextLength = 64;
  /** Elements of a head that turn; all of them where absent. */
  rotaryDim: number | undefined;
  choices = 0;

  constructor(seed: number) {
    this.random = randomFloats(seed);
  }

  buffer(
    name: string,
    width: number,
    dtype: BufferSpec['dtype'] = 'f32',
    rows: BufferSpec['rows'] = 'tokens',
    group?: number,
  ): BufferId {
    return this.buffers.push({ name, dtype, rows, width, group }) - 1;
  }

  weight(weight: Weight): number {
    return this.weights.push(weight) - 1;
  }

  floats(length: number, scale = 1): Float32Array {
    return Float32Array.from({ length }, () => scale * this.random());
  }

  vector(name: string, length: number): VectorWeight {
    return { kind: 'vector', name, values: this.floats(length).map((v) => 1 + 0.5 * v) };
  }

  /** Each +1 or -1. */
  signs(length: number): VectorWeight {
    return { kind: 'vector', name: 'signs', values: this.floats(length).map((v) => (v < 0 ? -1 : 1)) };
  }

  /** A recurrent state of `width` floats; its index. */
  state(width: number): number {
    return this.recurrent.push({ name: `state ${this.recurrent.length}`, width }) - 1;
  }

  ternary(name: string, rows: number, columns: number): TernaryWeight {
    const bytes = new Uint8Array(Math.ceil(rows / 4) * columns);
    for (let i = 0; i < bytes.length; i += 1) {
      // Fields past the last row hold any code at all, 3 too: nothing may read them.
      const q = Math.floor(i / columns);
      for (let k = 0; k < 4; k += 1) {
        const used = q + k * Math.ceil(rows / 4) < rows;
        bytes[i] = bytes[i]! | ((used ? Math.min(2, Math.floor((this.random() + 1) * 1.5)) : 3) << (2 * k));
      }
    }
    return {
      kind: 'ternary',
      name,
      rows,
      columns,
      layout: 'rowquad',
      bytes,
      scale: Math.fround(0.5 + 0.3 * this.random()),
    };
  }

  /** Every code, +2 too; scales of both signs and a few zeros. */
  grouped(
    name: string,
    rows: number,
    columns: number,
    group: number,
    scaleType: GroupedWeight['scaleType'] = 'f16',
  ): GroupedWeight {
    const panels = Math.ceil(rows / 64);
    const blocks = Math.ceil(columns / 4);
    const bytes = new Uint8Array(panels * blocks * 64).fill(0b01010101);
    for (let r = 0; r < rows; r += 1) {
      const shift = 2 * ((r % 64) >> 4);
      for (let c = 0; c < columns; c += 1) {
        const at = (Math.floor(r / 64) * blocks + (c >> 2)) * 64 + 4 * (r & 15) + (c & 3);
        const code = Math.min(3, Math.floor((this.random() + 1) * 2));
        bytes[at] = (bytes[at]! & ~(3 << shift)) | (code << shift);
      }
    }
    const groups = columns / group;
    const count = panels * groups * 64;
    const isRow = (i: number) => Math.floor(i / (groups * 64)) * 64 + (i % 64) < rows;
    const floats = Float32Array.from({ length: count }, (_, i) => {
      const scale = 0.05 * this.random();
      return isRow(i) && i % 37 !== 5 ? scale : 0;
    });
    if (scaleType === 'f32') {
      return {
        kind: 'grouped',
        name,
        rows,
        columns,
        group,
        layout: 'panel64',
        bytes,
        scaleType,
        scales: new Uint8Array(floats.buffer),
      };
    }
    // Halves of magnitude 2^-8 to 2^-4, and a subnormal now and then.
    const halves = Uint16Array.from(new Uint32Array(floats.buffer), (bits, i) => {
      if (floats[i] === 0) return 0;
      const exponent = bits % 11 === 0 ? 0 : 7 + (bits % 5);
      return ((bits >>> 16) & 0x8000) | (exponent << 10) | (bits & 1023);
    });
    return {
      kind: 'grouped',
      name,
      rows,
      columns,
      group,
      layout: 'panel64',
      bytes,
      scaleType,
      scales: new Uint8Array(halves.buffer),
    };
  }

  dense(name: string, rows: number, columns: number, dtype: DenseWeight['dtype'], scale = 1): DenseWeight {
    const floats = this.floats(rows * columns, scale);
    if (dtype === 'f32') return { kind: 'dense', name, rows, columns, dtype, bytes: new Uint8Array(floats.buffer) };
    const words = new Uint16Array(floats.length);
    const bits = new Uint32Array(floats.buffer);
    for (let i = 0; i < words.length; i += 1) {
      // Truncated to bfloat16; as a half: any finite pattern will do.
      words[i] = dtype === 'bf16' ? bits[i]! >>> 16 : (bits[i]! & 0x83ff) | (((bits[i]! % 5) + 12) << 10);
    }
    return { kind: 'dense', name, rows, columns, dtype, bytes: new Uint8Array(words.buffer) };
  }

  int8(name: string, rows: number, columns: number): Int8Weight {
    const codes = Int8Array.from({ length: rows * columns }, () => Math.round(127 * this.random()));
    return { kind: 'int8', name, rows, columns, codes, rowScale: this.floats(rows).map((v) => 0.02 + 0.01 * v) };
  }

  /** x = ROWS_OF_DATA rows of data, chosen by token id. */
  data(width: number, dtype: DenseWeight['dtype'] = 'f32', scale = 1): BufferId {
    const x = this.buffer('data', width);
    this.ops.push({ op: 'embed', table: this.weight(this.dense('data', ROWS_OF_DATA, width, dtype, scale)), out: x });
    return x;
  }

  /** Matrices of `experts` experts, as `grouped` makes one. */
  experts(
    name: string,
    experts: number,
    rows: number,
    columns: number,
    group: number,
    scaleType: GroupedWeight['scaleType'] = 'f16',
  ): GroupedWeight {
    const all = Array.from({ length: experts }, () => this.grouped(name, rows, columns, group, scaleType));
    const joined = (part: 'bytes' | 'scales') => new Uint8Array(Buffer.concat(all.map((one) => one[part])));
    return { ...all[0]!, experts, bytes: joined('bytes'), scales: joined('scales') };
  }

  /** The program whose logits are `result` (f32), which has token rows or output rows. */
  finish(result: BufferId, tracePoints = 0): Program {
    const { rows, width } = this.buffers[result]!;
    let logits = result;
    if (rows === 'tokens') {
      logits = this.buffer('result', width, 'f32', 'outputs');
      this.ops.push({ op: 'selectOutputs', x: result, out: logits });
    }
    const { kv, contextLength, recurrent, choices, rotaryDim = kv.headDim } = this;
    return {
      name: 'tiny',
      buffers: this.buffers,
      weights: this.weights,
      ops: this.ops,
      kv,
      rope: { rotaryDim, ...ropeTables(10000, rotaryDim, contextLength) },
      recurrent,
      choices,
      contextLength,
      vocabSize: width,
      logits,
      tracePoints,
    };
  }
}

/** Token ids that both the data and the vocabulary (the result's width) have. */
export function someTokens(count: number, vocabSize: number, seed: number): number[] {
  const random = randomFloats(seed);
  const most = Math.min(ROWS_OF_DATA, vocabSize);
  return Array.from({ length: count }, () => Math.floor(((random() + 1) / 2) * most));
}

/** One step of one sequence, all rows wanted. */
export async function feed(
  executable: Executable,
  sequence: number,
  tokens: readonly number[],
  options: { trace?: boolean; outputRows?: readonly number[] } = {},
): Promise<StepResult> {
  const at = executable.sequenceLength(sequence);
  return executable.step({
    tokens: Int32Array.from(tokens),
    sequences: new Int32Array(tokens.length).fill(sequence),
    positions: Int32Array.from(tokens, (_, i) => at + i),
    outputRows: Int32Array.from(options.outputRows ?? tokens.map((_, i) => i)),
    ...(options.trace === undefined ? {} : { trace: options.trace }),
  });
}

/** The same steps on both; results in pairs. */
export async function runBoth(
  load: (program: Program) => Executable,
  program: Program,
  steps: readonly (readonly number[])[],
  options: { trace?: boolean } = {},
): Promise<{ expected: StepResult; actual: StepResult }[]> {
  using reference = await jsBackend.load(program, {});
  using executable = load(program);
  const a = reference.createSequence();
  const b = executable.createSequence();
  const results: { expected: StepResult; actual: StepResult }[] = [];
  for (const tokens of steps) {
    results.push({
      expected: await feed(reference, a, tokens, options),
      actual: await feed(executable, b, tokens, options),
    });
  }
  return results;
}

/** Largest difference as a share of the largest expected value; NaN counts as infinite. */
export function relativeError(expected: ArrayLike<number>, actual: ArrayLike<number>): number {
  let largest = 0;
  let worst = expected.length === actual.length ? 0 : Infinity;
  for (let i = 0; i < expected.length; i += 1) {
    largest = Math.max(largest, Math.abs(expected[i]!));
    const error = Math.abs(expected[i]! - actual[i]!);
    if (!(error <= worst)) worst = Number.isNaN(error) ? Infinity : error;
  }
  return worst === 0 ? 0 : worst / largest;
}
