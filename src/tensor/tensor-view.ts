// A tensor as it lies in a file: name, dtype, shape, bytes. No arithmetic here.

/** Element types we read; names as in safetensors. */
export const DTYPES = {
  BOOL: 1,
  U8: 1,
  I8: 1,
  F16: 2,
  BF16: 2,
  U32: 4,
  I32: 4,
  F32: 4,
  I64: 8,
  F64: 8,
} as const;

export type Dtype = keyof typeof DTYPES;

/**
 * How the trits of a matrix lie in its bytes. Formats keep the file's layout; a backend repacks once at load.
 *
 * - `rowquad`  uint8 [ceil(R/4), C]: byte [r, c] holds rows r, r+Q, r+2Q, r+3Q (Q = ceil(R/4)) of column c, lowest
 *              bits first, as code trit + 1. This is what Hugging Face's packed BitNet checkpoints hold
 *              (specified in `src/quant/rowquad.ts`, with a tested byte).
 */
export type TritLayout = 'rowquad';

export type TensorView = {
  readonly name: string;
  readonly dtype: Dtype;
  /** Row-major. */
  readonly shape: readonly number[];
  /** Little endian, contiguous; may be unaligned for its dtype: copy before making a wider typed array. */
  readonly bytes: Uint8Array;
};

/** Number of elements of a shape; 1 for a scalar. */
export function elementCount(shape: readonly number[]): number {
  return shape.reduce((product, size) => product * size, 1);
}
