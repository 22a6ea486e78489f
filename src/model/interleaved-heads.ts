// Rows of q and k in files of architecture "llama", whose heads lie as neighbouring RoPE pairs.

/**
 * Where files of architecture "llama" hold a row: those of each head lie as (0, D/2, 1, D/2 + 1, ...), neighbouring RoPE
 * pairs, where we have halves (0, 1, ..., D/2, ...).
 */
export function interleavedRow(headDim: number): (row: number) => number {
  const half = headDim / 2;
  return (row) => {
    const inHead = row % headDim;
    return row - inHead + 2 * (inHead % half) + (inHead >= half ? 1 : 0);
  };
}

/** Rows moved to their `interleavedRow`: what files of architecture "llama" hold of q and k. */
export function interleavedHeads(trits: Int8Array, rows: number, columns: number, heads: number): Int8Array {
  const place = interleavedRow(rows / heads);
  const out = new Int8Array(trits.length);
  for (let row = 0; row < rows; row += 1) {
    out.set(trits.subarray(row * columns, (row + 1) * columns), place(row) * columns);
  }
  return out;
}

/** A matrix whose row r is row `sourceRow(r)` of `values`. */
export function rowsMoved<T extends Float32Array | Int8Array>(
  values: T,
  rows: number,
  columns: number,
  sourceRow: (row: number) => number,
): T {
  const out = values.slice() as T;
  for (let row = 0; row < rows; row += 1) {
    const from = sourceRow(row) * columns;
    out.set(values.subarray(from, from + columns), row * columns);
  }
  return out;
}
