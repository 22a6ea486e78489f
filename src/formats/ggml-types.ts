// The element types of GGUF files: id, name, elements and bytes of a block. `tensor` types are sized as a whole.

import { elementCount } from '../tensor/tensor-view.ts';

export type GgmlType = {
  readonly id: number;
  readonly name: string;
  /** Elements in a block; the innermost dimension is a multiple of it. */
  readonly blockElements: number;
  readonly blockBytes: number;
};

const type = (id: number, name: string, blockElements: number, blockBytes: number): GgmlType => ({
  id,
  name,
  blockElements,
  blockBytes,
});

/** Types whose size is that of their blocks. Source: ggml of llama.cpp b10256 and gguf-py 0.19. */
const BLOCK_TYPES: readonly GgmlType[] = [
  type(0, 'F32', 1, 4),
  type(1, 'F16', 1, 2),
  type(2, 'Q4_0', 32, 18),
  type(3, 'Q4_1', 32, 20),
  type(6, 'Q5_0', 32, 22),
  type(7, 'Q5_1', 32, 24),
  type(8, 'Q8_0', 32, 34),
  type(9, 'Q8_1', 32, 40),
  type(10, 'Q2_K', 256, 84),
  type(11, 'Q3_K', 256, 110),
  type(12, 'Q4_K', 256, 144),
  type(13, 'Q5_K', 256, 176),
  type(14, 'Q6_K', 256, 210),
  type(15, 'Q8_K', 256, 292),
  type(16, 'IQ2_XXS', 256, 66),
  type(17, 'IQ2_XS', 256, 74),
  type(18, 'IQ3_XXS', 256, 98),
  type(19, 'IQ1_S', 256, 50),
  type(20, 'IQ4_NL', 32, 18),
  type(21, 'IQ3_S', 256, 110),
  type(22, 'IQ2_S', 256, 82),
  type(23, 'IQ4_XS', 256, 136),
  type(24, 'I8', 1, 1),
  type(25, 'I16', 1, 2),
  type(26, 'I32', 1, 4),
  type(27, 'I64', 1, 8),
  type(28, 'F64', 1, 8),
  type(29, 'IQ1_M', 256, 56),
  type(30, 'BF16', 1, 2),
  type(34, 'TQ1_0', 256, 54),
  type(35, 'TQ2_0', 256, 66),
  type(39, 'MXFP4', 32, 17),
  type(40, 'NVFP4', 64, 36),
  type(41, 'Q1_0', 128, 18),
  type(42, 'Q2_0', 64, 18),
  // PrismML's, for its Ternary Bonsai models.
  type(142, 'PQ2_0', 128, 34),
  type(143, 'PTQ1_0', 128, 28),
];

/**
 * What PrismML wrote as type 42 until mid 2026: blocks of 128. Which of the two a file holds, its tensor table tells
 * (`q2-group.ts`).
 */
export const Q2_0_G128: GgmlType = type(42, 'Q2_0_G128', 128, 34);

/**
 * Types of bitnet.cpp's fork, sized by the whole tensor: packed trits, then 32 bytes that begin with an f32 scale.
 * Upstream removed ids 36 to 38 and gave 39 to MXFP4, so these mean what we say only because upstream refuses them.
 */
const TENSOR_TYPES: readonly GgmlType[] = [type(36, 'I2_S', 128, 32), type(38, 'TL1', 4, 1), type(39, 'TL2', 1, 0)];

const BY_ID: ReadonlyMap<number, GgmlType> = new Map(
  [...TENSOR_TYPES.filter((t) => t.name !== 'TL2'), ...BLOCK_TYPES].map((t) => [t.id, t]),
);
const BY_NAME: ReadonlyMap<string, GgmlType> = new Map(
  [...TENSOR_TYPES, ...BLOCK_TYPES, Q2_0_G128].map((t) => [t.name, t]),
);

/** Why some ids, once or elsewhere in use, are refused. */
export const REFUSED_TYPES: ReadonlyMap<number, string> = new Map([
  [4, 'Q4_2, removed from ggml'],
  [5, 'Q4_3, removed from ggml'],
  [31, 'Q4_0_4_4, removed from ggml (or I2_S of a pre-release of bitnet.cpp: convert it with a current one)'],
  [32, 'Q4_0_4_8, removed from ggml'],
  [33, 'Q4_0_8_8, removed from ggml'],
  [37, 'I8_S of bitnet.cpp, which is for activations only'],
  [134, 'IQ1_BN of ik_llama.cpp'],
  [135, 'IQ2_BN of ik_llama.cpp'],
]);

/** The type of an id; `architecture` tells TL2 of bitnet.cpp from MXFP4, which share id 39. */
export function ggmlTypeOfId(id: number, architecture: string | undefined): GgmlType | undefined {
  if (id === 39 && architecture?.startsWith('bitnet')) return BY_NAME.get('TL2');
  return BY_ID.get(id);
}

export function ggmlTypeOfName(name: string): GgmlType | undefined {
  return BY_NAME.get(name);
}

export function ggmlTypeNames(): string[] {
  return [...BY_NAME.keys()];
}

/** Bytes of the 32 behind the packed trits of I2_S and TL1: an f32 scale and padding. */
const TENSOR_TAIL = 32;

/**
 * Bytes of a tensor of `shape` (innermost last), or a sentence that says why the type cannot hold it. The caller has
 * checked that the number of elements is a safe integer.
 */
export function ggmlByteLength(type: GgmlType, shape: readonly number[]): number | string {
  const count = elementCount(shape);
  const inner = shape.at(-1) ?? 1;
  if (type.name === 'I2_S' || type.name === 'TL1') {
    // The stream is flat: blocks run across rows, so only the total counts.
    if (count % type.blockElements !== 0) return `${count} elements are no multiple of ${type.blockElements}`;
    return count / 4 + TENSOR_TAIL;
  }
  if (type.name === 'TL2') {
    if (shape.length !== 2 || inner < 256) return 'only matrices with at least 256 columns are possible';
    // Integer divisions in this order, as bitnet.cpp writes it.
    const triples = Math.floor((Math.floor(((inner - 256) * shape[0]!) / 3) * 5) / 8);
    return Math.ceil((triples + (256 * shape[0]!) / 4) / 32) * 32 + TENSOR_TAIL;
  }
  if (inner % type.blockElements !== 0) return `rows of ${inner} elements are no multiple of ${type.blockElements}`;
  return (count / type.blockElements) * type.blockBytes;
}
