// The one table of operations as compiled backends read them: code, and fields in the order of their words. The encoder
// (encode.ts) and the C++ header (kernels/include/operations.h, written by scripts/operations-header.mjs) both come from
// it; what each operation computes stands in engine/program.ts.

import type { Op } from '../program.ts';

/** `buffer`, `weight`: an index into the program's lists. A list of names is an enumeration, by position. */
export type FieldKind = 'buffer' | 'weight' | 'int' | 'float' | readonly string[];

/** Fields that travel: all but the name and what only messages need. */
type FieldsOf<O> = Exclude<keyof O, 'op' | 'label'>;

type OperationTable = {
  readonly [Name in Op['op']]: { readonly [Field in FieldsOf<Extract<Op, { op: Name }>>]: FieldKind };
};

/** In the order of their codes, from 0; fields in the order of their words. */
export const OPERATIONS = {
  embed: { table: 'weight', out: 'buffer' },
  rmsNorm: { x: 'buffer', weight: 'weight', eps: 'float', out: 'buffer' },
  quantize: { x: 'buffer', codes: 'buffer', scale: 'buffer' },
  ternaryMatmul: { codes: 'buffer', scale: 'buffer', weight: 'weight', out: 'buffer' },
  rope: { x: 'buffer', heads: 'int', headDim: 'int' },
  kvAppend: { layer: 'int', k: 'buffer', v: 'buffer' },
  attention: {
    layer: 'int',
    q: 'buffer',
    out: 'buffer',
    heads: 'int',
    kvHeads: 'int',
    headDim: 'int',
    scale: 'float',
  },
  gatedActivation: {
    fn: ['relu2', 'silu', 'sigmoid', 'clampedSilu'],
    limit: 'float',
    gate: 'buffer',
    up: 'buffer',
    out: 'buffer',
  },
  add: { x: 'buffer', y: 'buffer' },
  selectOutputs: { x: 'buffer', out: 'buffer' },
  denseMatmul: { x: 'buffer', weight: 'weight', out: 'buffer' },
  int8Matmul: { codes: 'buffer', scale: 'buffer', weight: 'weight', out: 'buffer' },
  countTrits: { x: 'buffer', index: 'int' },
  embedGrouped: { table: 'weight', out: 'buffer' },
  rmsNormHeads: { x: 'buffer', weight: 'weight', eps: 'float', heads: 'int', headDim: 'int', out: 'buffer' },
  quantize16: { x: 'buffer', codes: 'buffer', scale: 'buffer' },
  groupedMatmul: { codes: 'buffer', scale: 'buffer', weight: 'weight', out: 'buffer' },
  hadamard: {
    x: 'buffer',
    signs: 'weight',
    block: 'int',
    direction: ['forward', 'inverse'],
    keyHeads: 'int',
    headDim: 'int',
    out: 'buffer',
  },
  splitHeads: { x: 'buffer', first: 'buffer', second: 'buffer', heads: 'int', headDim: 'int' },
  causalConv: { state: 'int', x: 'buffer', weight: 'weight', taps: 'int', out: 'buffer' },
  l2NormHeads: { x: 'buffer', offset: 'int', heads: 'int', headDim: 'int', eps: 'float', scale: 'float' },
  gatedDelta: {
    state: 'int',
    x: 'buffer',
    beta: 'buffer',
    alpha: 'buffer',
    decay: 'weight',
    bias: 'weight',
    keyHeads: 'int',
    valueHeads: 'int',
    headDim: 'int',
    order: ['tiled', 'grouped'],
    out: 'buffer',
  },
  routeExperts: { x: 'buffer', experts: 'buffer', weights: 'buffer', least: 'float' },
  expertMatmul: { codes: 'buffer', scale: 'buffer', weight: 'weight', experts: 'buffer', out: 'buffer' },
  addExperts: { x: 'buffer', y: 'buffer', weights: 'buffer' },
} as const satisfies OperationTable;

export type OperationName = keyof typeof OPERATIONS;

export const OPERATION_NAMES = Object.keys(OPERATIONS) as readonly OperationName[];

/** Kinds of weights, buffers and elements by their numbers in compiled code. */
export const WEIGHT_CODES = { ternary: 0, dense: 1, int8: 2, vector: 3, grouped: 4 } as const;
export const BUFFER_CODES = { f32: 0, i8: 1, i16: 2, i32: 3 } as const;
export const DENSE_CODES = { f32: 0, f16: 1, bf16: 2 } as const;
export const ROW_CODES = { tokens: 0, outputs: 1, choices: 2 } as const;
/** dtype, rows, width, group. */
export const BUFFER_WORDS = 4;
/** kind, rows, columns, element type, blob, scale bits, blob of scales, group, experts. */
export const WEIGHT_WORDS = 9;
/** See `encodeProgram`. After the operations: the window of each layer, then the width of each recurrent state. */
export const HEADER_WORDS = 17;

const snake = (name: string) => name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
const pascal = (name: string) => name[0]!.toUpperCase() + name.slice(1);

/** The C++ header for this table. */
export function operationsHeader(): string {
  const entries = Object.entries(OPERATIONS) as [string, Readonly<Record<string, FieldKind>>][];
  const lines = (text: (name: string, fields: Readonly<Record<string, FieldKind>>, code: number) => string) =>
    entries.map(([name, fields], code) => text(name, fields, code)).join('\n');
  const codes = (table: Readonly<Record<string, number>>) =>
    Object.entries(table)
      .map(([name, code]) => `${name} = ${code}`)
      .join(', ');
  const structOf = (name: string, fields: Readonly<Record<string, FieldKind>>) => {
    const members = Object.entries(fields).map(([field, kind]) => {
      const note = typeof kind === 'object' ? `  // ${kind.map((value, i) => `${i} ${value}`).join(', ')}` : '';
      return `  ${kind === 'float' ? 'float' : 'int32_t'} ${snake(field)};${note}`;
    });
    const kind = `  static constexpr OpKind kind = OpKind::${snake(name)};`;
    return `struct ${pascal(name)} {\n${kind}\n${members.join('\n')}\n};`;
  };
  const letter = (kind: FieldKind) =>
    kind === 'buffer' ? 'b' : kind === 'weight' ? 'w' : kind === 'float' ? 'f' : 'i';
  const shape = (name: string, fields: Readonly<Record<string, FieldKind>>) =>
    `    {"${name}", ${Object.keys(fields).length}, "${Object.values(fields).map(letter).join('')}"},`;
  return `// Written by scripts/operations-header.mjs from src/engine/recorded/operations.ts; a test fails where they differ.
// The operations of a recorded program: code, then one word for each field. Floats travel as their bits.
#pragma once

#include <stdint.h>

namespace bitnet {

constexpr int32_t kHeaderWords = ${HEADER_WORDS};
constexpr int32_t kBufferWords = ${BUFFER_WORDS};
constexpr int32_t kWeightWords = ${WEIGHT_WORDS};

enum class WeightKind : int32_t { ${codes(WEIGHT_CODES)} };
enum class BufferType : int32_t { ${codes(BUFFER_CODES)} };

enum class OpKind : int32_t {
${lines((name, _, code) => `  ${snake(name)} = ${code},`)}
};
constexpr int32_t kOpKinds = ${entries.length};

struct OpShape {
  const char* name;
  int32_t words;
  const char* fields;  // b buffer, w weight, i integer, f float
};
constexpr OpShape kOpShapes[kOpKinds] = {
${lines(shape)}
};

namespace op {
${lines(structOf)}
}  // namespace op

}  // namespace bitnet
`;
}
