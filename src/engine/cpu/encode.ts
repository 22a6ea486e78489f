// A recorded program as the flat words and byte arrays that kernels/include/engine.h reads. Nothing is copied: the
// blobs are the program's own arrays.

import type { Op, Program, RopeSpec, Weight } from '../program.ts';

export type EncodedProgram = {
  readonly words: Int32Array;
  readonly blobs: readonly (Uint8Array | Int8Array | Float32Array)[];
};

const MAGIC = 0x62313538;
const HEADER_WORDS = 14;
const BUFFER_WORDS = 3;
const WEIGHT_WORDS = 8;
const OP_WORDS = 8;

/** Element types by their numbers in native code. */
export const DENSE_CODE = { f32: 0, f16: 1, bf16: 2 } as const;

const floatBits = new Float32Array(1);
const floatWord = new Int32Array(floatBits.buffer);

function bitsOf(value: number): number {
  floatBits[0] = value;
  return floatWord[0]!;
}

/** `tables`: those of RoPE, if not all of them are to be computed now. */
export function encodeProgram(program: Program, tables: Pick<RopeSpec, 'cos' | 'sin'> = program.rope): EncodedProgram {
  const { buffers, weights, ops, kv, rope } = program;
  const blobs: (Uint8Array | Int8Array | Float32Array)[] = [];
  const blob = (bytes: Uint8Array | Int8Array | Float32Array) => blobs.push(bytes) - 1;

  const weightWords = weights.map((weight) => wordsOfWeight(weight, blob));
  const words = [
    MAGIC,
    buffers.length,
    weights.length,
    ops.length,
    kv.layers,
    kv.kvHeads,
    kv.headDim,
    rope.headDim,
    program.contextLength,
    program.vocabSize,
    program.logits,
    program.tracePoints,
    blob(tables.cos),
    blob(tables.sin),
  ];
  const out = new Int32Array(
    HEADER_WORDS + buffers.length * BUFFER_WORDS + weights.length * WEIGHT_WORDS + ops.length * OP_WORDS,
  );
  out.set(words);
  let at = HEADER_WORDS;
  for (const { dtype, rows, width } of buffers) {
    out.set([dtype === 'f32' ? 0 : 1, rows === 'tokens' ? 0 : 1, width], at);
    at += BUFFER_WORDS;
  }
  for (const one of weightWords) {
    out.set(one, at);
    at += WEIGHT_WORDS;
  }
  for (const op of ops) {
    out.set(wordsOfOp(op), at);
    at += OP_WORDS;
  }
  return { words: out, blobs };
}

/** kind, rows, columns, dtype, blob, scale bits, blob of row scales. */
function wordsOfWeight(weight: Weight, blob: (bytes: Uint8Array | Int8Array | Float32Array) => number): number[] {
  switch (weight.kind) {
    case 'ternary':
      return [0, weight.rows, weight.columns, 0, blob(weight.bytes), bitsOf(weight.scale), 0];
    case 'dense':
      return [1, weight.rows, weight.columns, DENSE_CODE[weight.dtype], blob(weight.bytes), 0, 0];
    case 'int8':
      return [2, weight.rows, weight.columns, 0, blob(weight.codes), 0, blob(weight.rowScale)];
    case 'vector':
      return [3, 1, weight.values.length, 0, blob(weight.values), 0, 0];
  }
}

function wordsOfOp(op: Op): number[] {
  switch (op.op) {
    case 'embed':
      return [0, op.table, op.out];
    case 'rmsNorm':
      return [1, op.x, op.weight, bitsOf(op.eps), op.out];
    case 'quantize':
      return [2, op.x, op.codes, op.scale];
    case 'ternaryMatmul':
      return [3, op.codes, op.scale, op.weight, op.out];
    case 'rope':
      return [4, op.x, op.heads, op.headDim];
    case 'kvAppend':
      return [5, op.layer, op.k, op.v];
    case 'attention':
      return [6, op.layer, op.q, op.out, op.heads, op.kvHeads, op.headDim, bitsOf(op.scale)];
    case 'gatedActivation':
      return [7, op.fn === 'relu2' ? 0 : 1, op.gate, op.up, op.out];
    case 'add':
      return [8, op.x, op.y];
    case 'selectOutputs':
      return [9, op.x, op.out];
    case 'denseMatmul':
      return [10, op.x, op.weight, op.out];
    case 'int8Matmul':
      return [11, op.codes, op.scale, op.weight, op.out];
    case 'countTrits':
      return [12, op.x, op.index];
  }
}
