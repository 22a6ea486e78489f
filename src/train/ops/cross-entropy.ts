// Next-token cross-entropy over logits (T, V) and its gradient.
//
//   loss_t = ln(sum_j e_j) - (l[target] - max),  e_j = exp(l_j - max)
//   dl_j = (e_j / sum e - [j = target]) * gradScale
// Rows whose target is NO_TARGET count for nothing.

import { expF32, laneSum } from '../../engine/js/math.ts';

const fround = Math.fround;

/** A row that predicts nothing: the end of a sequence, or a prompt whose tokens are not to be learned. */
export const NO_TARGET = -1;

/**
 * Replaces logits (T, V) by their gradient, or leaves e_j behind when gradScale is 0. `sums` (T,) gets sum e and
 * `margins` (T,) l[target] - max; both are 0 where there is no target. The logarithm is the caller's (`rowLoss`), so
 * that every implementation takes the same one.
 */
export function crossEntropyInPlace(
  logits: Float32Array,
  targets: Int32Array,
  gradScale: number,
  T: number,
  V: number,
  sums: Float32Array,
  margins: Float32Array,
): void {
  for (let t = 0; t < T; t += 1) {
    const row = logits.subarray(t * V, t * V + V);
    const target = targets[t]!;
    if (target === NO_TARGET) {
      row.fill(0);
      sums[t] = 0;
      margins[t] = 0;
      continue;
    }
    let largest = -Infinity;
    for (let j = 0; j < V; j += 1) largest = Math.max(largest, row[j]!);
    margins[t] = row[target]! - largest;
    for (let j = 0; j < V; j += 1) row[j] = expF32(fround(row[j]! - largest));
    const sum = laneSum(row, 0, V);
    sums[t] = sum;
    if (gradScale === 0) continue;
    for (let j = 0; j < V; j += 1) {
      const p = fround(row[j]! / sum);
      row[j] = (j === target ? fround(p - 1) : p) * gradScale;
    }
  }
}

/** Loss of a row in nats, from what `crossEntropyInPlace` left. */
export function rowLoss(sum: number, margin: number): number {
  return Math.log(sum) - margin;
}
