// What a sampler mostly needs of a row of logits, found where the logits are: the largest of them, and the sum that turns
// a logit into a probability. What is here is the specification; the backends' own ways give the same bits.
//
// EXACTNESS. `mass` adds the weights expF32(logit - largest), each rounded to a multiple of 2^-32, half to even. Such sums
// are exact below 2^21, so their order is free.

import type { Step, TopLogits } from './backend.ts';
import { expF32 } from './js/math.ts';

/** Adding it to a double in [0, 1] rounds that to a multiple of 2^-32. */
const ONE = 2 ** 20;

/** Of logits (O, V); 1 <= top <= min(MAX_TOP, V). */
export function topLogits(logits: Float32Array, rows: number, top: number): TopLogits {
  const found = emptyTop(rows, top);
  const vocabSize = rows === 0 ? 0 : logits.length / rows;
  for (let row = 0; row < rows; row += 1) {
    const own = logits.subarray(row * vocabSize, (row + 1) * vocabSize);
    const values = found.logits.subarray(row * top, (row + 1) * top);
    findLargest(own, found.ids.subarray(row * top, (row + 1) * top), values);
    found.mass[row] = massOf(own, values[0]!);
  }
  return found;
}

/** Room for what is found. */
export function emptyTop(rows: number, top: number): TopLogits {
  return {
    ids: new Int32Array(rows * top),
    logits: new Float32Array(rows * top),
    mass: new Float64Array(top > 0 ? rows : 0),
  };
}

/** Sum of e^(logit - largest) over logits (V,). */
export function massOf(logits: Float32Array, largest: number): number {
  let mass = 0;
  for (let id = 0; id < logits.length; id += 1) {
    mass += expF32(Math.fround(logits[id]! - largest)) + ONE - ONE;
  }
  return mass;
}

function findLargest(logits: Float32Array, ids: Int32Array, values: Float32Array): void {
  const top = ids.length;
  let held = 0;
  for (let id = 0; id < logits.length; id += 1) {
    const value = logits[id]!;
    if (held === top && !(value > values[top - 1]!)) continue;
    let at = held < top ? held++ : top - 1;
    // Behind its equals, whose ids are lower.
    for (; at > 0 && value > values[at - 1]!; at -= 1) {
      values[at] = values[at - 1]!;
      ids[at] = ids[at - 1]!;
    }
    values[at] = value;
    ids[at] = id;
  }
}

/** What a backend that has a step's logits (O, V) gives back of them. */
export function asAsked(step: Step, logits: Float32Array): { readonly logits: Float32Array; readonly top: TopLogits } {
  const top = step.top ?? 0;
  return {
    logits: step.withoutLogits === true ? new Float32Array(0) : logits,
    top: top === 0 ? emptyTop(0, 0) : topLogits(logits, step.outputRows.length, top),
  };
}
