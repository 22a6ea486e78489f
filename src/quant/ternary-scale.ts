// Where the scale of a ternary matrix changes. Always multiplied: w = scale * trit.

export type TernaryScale =
  /** One for the matrix. */
  | { readonly kind: 'tensor'; readonly value: number }
  /** Rows cut into `values.length` equal slices (as many as rows: one scale a row). */
  | { readonly kind: 'rowSlices'; readonly values: Float32Array }
  /** Columns cut into equal slices. No single output scale can stand for these: a kernel needs a sum per slice. */
  | { readonly kind: 'columnSlices'; readonly values: Float32Array }
  /** Each row cut into groups of `size` columns; values (rows, columns / size). */
  | { readonly kind: 'groups'; readonly size: number; readonly values: Float32Array };

/**
 * Scales of blocks of `size` columns as one scale for the matrix when all blocks agree, else as groups. Blocks of
 * scale 0 hold only zeros and agree with anything; a matrix of nothing else gets the scale 1.
 */
export function scaleOfBlocks(values: Float32Array, size: number): TernaryScale {
  let common = 0;
  for (let i = 0; i < values.length; i++) {
    const value = values[i]!;
    if (value === 0 || value === common) continue;
    if (common !== 0) return { kind: 'groups', size, values };
    common = value;
  }
  return { kind: 'tensor', value: common === 0 ? 1 : common };
}
