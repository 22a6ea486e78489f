// A recorded program as the flat words and byte arrays that kernels/include/engine.h reads. Nothing is copied: the
// blobs are the program's own arrays.

import type { Op, Program, RopeSpec, Weight } from '../program.ts';
import {
  BUFFER_CODES,
  BUFFER_WORDS,
  DENSE_CODES,
  type FieldKind,
  HEADER_WORDS,
  OPERATION_NAMES,
  OPERATIONS,
  ROW_CODES,
  WEIGHT_CODES,
} from './operations.ts';

export type Blob = Uint8Array | Int8Array | Float32Array;

export type EncodedProgram = {
  readonly words: Int32Array;
  readonly blobs: readonly Blob[];
};

const MAGIC = 0x62313539;

const floatBits = new Float32Array(1);
const floatWord = new Int32Array(floatBits.buffer);

function bitsOf(value: number): number {
  floatBits[0] = value;
  return floatWord[0]!;
}

/** `tables`: those of RoPE, if not all of them are to be computed now. */
export function encodeProgram(program: Program, tables: Pick<RopeSpec, 'cos' | 'sin'> = program.rope): EncodedProgram {
  const { buffers, weights, ops, kv, rope, recurrent = [], choices = 0 } = program;
  const blobs: Blob[] = [];
  const blob = (bytes: Blob) => blobs.push(bytes) - 1;
  const weightWords = weights.flatMap((weight) => wordsOfWeight(weight, blob));
  const operationWords = ops.flatMap(wordsOfOp);
  const header = [
    MAGIC,
    buffers.length,
    weights.length,
    ops.length,
    operationWords.length,
    kv.layers,
    kv.kvHeads,
    kv.headDim,
    rope.rotaryDim,
    program.contextLength,
    program.vocabSize,
    program.logits,
    program.tracePoints,
    blob(tables.cos),
    blob(tables.sin),
    recurrent.length,
    choices,
  ];
  const windows = kv.windows ?? new Array<number>(kv.layers).fill(0);
  const tail = [...windows, ...recurrent.map(({ width }) => width)];
  const words = new Int32Array(
    HEADER_WORDS + buffers.length * BUFFER_WORDS + weightWords.length + operationWords.length + tail.length,
  );
  words.set(header);
  let at = HEADER_WORDS;
  for (const { dtype, rows, width, group = 0 } of buffers) {
    words.set([BUFFER_CODES[dtype], ROW_CODES[rows], width, group], at);
    at += BUFFER_WORDS;
  }
  words.set(weightWords, at);
  words.set(operationWords, at + weightWords.length);
  words.set(tail, at + weightWords.length + operationWords.length);
  return { words, blobs };
}

/** kind, rows, columns, element type, blob, scale bits, blob of scales, group, experts. */
function wordsOfWeight(weight: Weight, blob: (bytes: Blob) => number): number[] {
  const kind = WEIGHT_CODES[weight.kind];
  switch (weight.kind) {
    case 'ternary':
      return [kind, weight.rows, weight.columns, 0, blob(weight.bytes), bitsOf(weight.scale), 0, 0, 1];
    case 'dense':
      return [kind, weight.rows, weight.columns, DENSE_CODES[weight.dtype], blob(weight.bytes), 0, 0, 0, 1];
    case 'int8':
      return [kind, weight.rows, weight.columns, 0, blob(weight.codes), 0, blob(weight.rowScale), 0, 1];
    case 'vector':
      return [kind, 1, weight.values.length, 0, blob(weight.values), 0, 0, 0, 1];
    case 'grouped': {
      const { rows, columns, bytes, scaleType, scales, group, experts = 1 } = weight;
      return [kind, rows, columns, DENSE_CODES[scaleType], blob(bytes), 0, blob(scales), group, experts];
    }
  }
}

function wordsOfOp(op: Op): number[] {
  const fields = Object.entries(OPERATIONS[op.op]) as [string, FieldKind][];
  const values = op as unknown as Readonly<Record<string, number | string | undefined>>;
  const word = ([name, kind]: [string, FieldKind]): number => {
    const value = values[name] ?? 0;
    if (typeof kind === 'object') return kind.indexOf(value as string);
    return kind === 'float' ? bitsOf(value as number) : (value as number);
  };
  return [OPERATION_NAMES.indexOf(op.op), ...fields.map(word)];
}
