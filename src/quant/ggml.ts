// The element types of GGUF by name: which hold trits, and any of them as float32.

import { bf16ToF32 } from './bf16.ts';
import { elementsOf } from './bytes.ts';
import { NotTernaryError, type PackedPlace, PackedSizeError } from './errors.ts';
import { f16ToF32 } from './f16.ts';
import { type I2sLayout, unpackI2s } from './i2s.ts';
import { decodeQ2, unpackQ2 } from './q2.ts';
import { decodeQ4 } from './q4.ts';
import { decodeQ4k } from './q4k.ts';
import { decodeQ6k } from './q6k.ts';
import { decodeQ8 } from './q8.ts';
import { scaleOfBlocks, type TernaryScale } from './ternary-scale.ts';
import { unpackTq1 } from './tq1.ts';
import { unpackTq2 } from './tq2.ts';

/** Types whose elements are trits under scales. */
export const GGML_TERNARY_TYPES = ['TQ1_0', 'TQ2_0', 'I2_S', 'Q2_0'] as const;
export type GgmlTernaryType = (typeof GGML_TERNARY_TYPES)[number];

/** Types that `decodeGgml` turns into float32. */
export const GGML_FLOAT_TYPES = ['F32', 'F16', 'BF16', 'Q8_0', 'Q6_K', 'Q4_0', 'Q4_K'] as const;
export type GgmlFloatType = (typeof GGML_FLOAT_TYPES)[number];

export function isGgmlTernary(type: string): type is GgmlTernaryType {
  return (GGML_TERNARY_TYPES as readonly string[]).includes(type);
}

export function isGgmlFloat(type: string): type is GgmlFloatType {
  return (GGML_FLOAT_TYPES as readonly string[]).includes(type);
}

export type TernaryMatrix = { readonly trits: Int8Array<ArrayBuffer>; readonly scale: TernaryScale };

/** Trits [rows, columns] of a whole tensor and their scale. */
export function unpackGgml(
  type: GgmlTernaryType,
  bytes: Uint8Array,
  rows: number,
  columns: number,
  options: { readonly at?: PackedPlace; readonly i2sLayout?: I2sLayout } = {},
): TernaryMatrix {
  const { at, i2sLayout = 'L128' } = options;
  if (type === 'I2_S') {
    const { trits, scale } = unpackI2s(bytes, rows, columns, {
      layout: i2sLayout,
      ...(at === undefined ? {} : { at }),
    });
    return { trits, scale: { kind: 'tensor', value: scale } };
  }
  const unpack = { TQ1_0: unpackTq1, TQ2_0: unpackTq2, Q2_0: unpackQ2 }[type];
  const { trits, scales } = unpack(bytes, rows * columns, at);
  return { trits, scale: scaleOfBlocks(scales, trits.length / scales.length) };
}

/** The one scale of a matrix; throws for matrices that have several. */
export function singleScale(scale: TernaryScale, name: string): number {
  if (scale.kind === 'tensor') return scale.value;
  throw new NotTernaryError({
    what: `tensor "${name}" has ${scale.values.length} scales (${scale.kind}), one for the whole matrix is needed here`,
    fix: 'this engine runs BitNet models, which have one scale a matrix; `analyze` and `viz` read this file',
  });
}

/** Types of blocks whose elements `decodeBlocks` writes. */
const DECODERS = { Q8_0: decodeQ8, Q6_K: decodeQ6k, Q4_0: decodeQ4, Q4_K: decodeQ4k } as const;
export type GgmlBlockFloatType = keyof typeof DECODERS;

export function isGgmlBlockFloat(type: string): type is GgmlBlockFloatType {
  return Object.hasOwn(DECODERS, type);
}

/** As `decodeGgml`, into `values`, which is returned. */
export function decodeBlocks(
  type: GgmlBlockFloatType,
  bytes: Uint8Array,
  at: PackedPlace | undefined,
  values: Float32Array,
): Float32Array {
  return DECODERS[type](bytes, values.length, at, values);
}

/** `count` elements as float32; I2_S and TQ types are included (trit times scale). */
export function decodeGgml(
  type: GgmlFloatType | GgmlTernaryType,
  bytes: Uint8Array,
  count: number,
  at?: PackedPlace,
): Float32Array {
  switch (type) {
    case 'F32':
      return elementsOf(checked(bytes, count, 4, type, at), Float32Array);
    case 'F16':
      return f16ToF32(checked(bytes, count, 2, type, at));
    case 'BF16':
      return bf16ToF32(checked(bytes, count, 2, type, at));
    case 'Q8_0':
    case 'Q6_K':
    case 'Q4_0':
    case 'Q4_K':
      return DECODERS[type](bytes, count, at);
    case 'Q2_0':
      return decodeQ2(bytes, count, at);
    case 'I2_S': {
      const { trits, scale } = unpackI2s(bytes, 1, count, at === undefined ? {} : { at });
      return Float32Array.from(trits, (trit) => trit * scale);
    }
    default: {
      const { trits, scales } = (type === 'TQ1_0' ? unpackTq1 : unpackTq2)(bytes, count, at);
      const size = trits.length / scales.length;
      return Float32Array.from(trits, (trit, i) => trit * scales[Math.floor(i / size)]!);
    }
  }
}

function checked(
  bytes: Uint8Array,
  count: number,
  size: number,
  layout: string,
  at: PackedPlace | undefined,
): Uint8Array {
  if (bytes.byteLength === count * size) return bytes;
  throw new PackedSizeError({
    ...(at === undefined ? {} : { at }),
    layout,
    shape: [count],
    expectedBytes: count * size,
    actualBytes: bytes.byteLength,
  });
}
