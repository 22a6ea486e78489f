// The embedding table (V, C) and its gradient: rows copied out by token, gradients added back in the order of the batch.

/** out (T, C). */
export function embeddingForward(
  table: Float32Array,
  tokens: Int32Array,
  T: number,
  C: number,
  out: Float32Array,
): void {
  for (let t = 0; t < T; t += 1) out.set(table.subarray(tokens[t]! * C, tokens[t]! * C + C), t * C);
}

/** Adds to dTable (V, C). */
export function embeddingBackward(
  dOut: Float32Array,
  tokens: Int32Array,
  T: number,
  C: number,
  dTable: Float32Array,
): void {
  for (let t = 0; t < T; t += 1) {
    const row = tokens[t]! * C;
    for (let c = 0; c < C; c += 1) dTable[row + c] = dTable[row + c]! + dOut[t * C + c]!;
  }
}
