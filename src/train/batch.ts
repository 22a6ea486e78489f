// What one step learns from: several token sequences laid end to end, each seen alone by attention. No padding.

import { ArgumentError } from '../errors.ts';
import { NO_TARGET } from './ops/cross-entropy.ts';

export type Sequence = {
  /** Inputs; at least one. */
  readonly tokens: ArrayLike<number>;
  /** The token to predict at each input, or NO_TARGET. */
  readonly targets: ArrayLike<number>;
};

export type Batch = {
  /** (T,) */
  readonly tokens: Int32Array;
  /** (T,) */
  readonly targets: Int32Array;
  /** (S + 1,) first row of each sequence, then T. */
  readonly starts: Int32Array;
  /** (T,) position in its sequence. */
  readonly positions: Int32Array;
  /** Rows with a target. */
  readonly targetCount: number;
};

/**
 * A sequence that learns every token from those before it: inputs are all but the last, targets all but the first.
 * Throws ArgumentError for a number that is no id in any vocabulary; as an int32 it might look like one that is.
 */
export function nextTokenSequence(ids: ArrayLike<number>): Sequence {
  const all = Int32Array.from(ids);
  const bad = all.findIndex((id, i) => id !== ids[i] || id < 0);
  if (bad >= 0) {
    throw new ArgumentError({
      what: `token id ${ids[bad]} is not in the vocabulary of any model`,
      where: `position ${bad} of the sequence`,
      fix: "use the model's own tokenizer",
    });
  }
  return { tokens: all.subarray(0, -1), targets: all.subarray(1) };
}

export function makeBatch(sequences: readonly Sequence[]): Batch {
  const starts = new Int32Array(sequences.length + 1);
  sequences.forEach(({ tokens }, i) => {
    starts[i + 1] = starts[i]! + tokens.length;
  });
  const T = starts[sequences.length]!;
  const tokens = new Int32Array(T);
  const targets = new Int32Array(T);
  const positions = new Int32Array(T);
  sequences.forEach((sequence, i) => {
    tokens.set(sequence.tokens, starts[i]!);
    targets.set(sequence.targets, starts[i]!);
    for (let t = starts[i]!; t < starts[i + 1]!; t += 1) positions[t] = t - starts[i]!;
  });
  let targetCount = 0;
  for (const target of targets) if (target !== NO_TARGET) targetCount += 1;
  return { tokens, targets, starts, positions, targetCount };
}

/** Cuts a batch between sequences into parts of at most `rows` rows (a longer sequence is a part of its own). */
export function splitBatch(batch: Batch, rows: number): Batch[] {
  const parts: Batch[] = [];
  let first = 0;
  for (let i = 0; i < batch.starts.length - 1; i += 1) {
    const next = batch.starts[i + 2];
    if (next !== undefined && next - batch.starts[first]! <= rows) continue;
    const from = batch.starts[first]!;
    const to = batch.starts[i + 1]!;
    const targets = batch.targets.subarray(from, to);
    parts.push({
      tokens: batch.tokens.subarray(from, to),
      targets,
      starts: batch.starts.subarray(first, i + 2).map((start) => start - from),
      positions: batch.positions.subarray(from, to),
      targetCount: targets.reduce((count, target) => count + (target === NO_TARGET ? 0 : 1), 0),
    });
    first = i + 1;
  }
  return parts;
}

/** Throws ArgumentError for a batch that the model cannot take. */
export function checkBatch(batch: Batch, limits: { readonly vocabSize: number; readonly context: number }): void {
  const { vocabSize, context } = limits;
  for (const ids of [batch.tokens, batch.targets]) {
    const bad = ids.findIndex((id) => id >= vocabSize || id < NO_TARGET || (ids === batch.tokens && id < 0));
    if (bad >= 0) {
      throw new ArgumentError({
        what: `token id ${ids[bad]} is not in the vocabulary of ${vocabSize}`,
        where: `row ${bad} of the batch`,
        fix: "use the model's own tokenizer",
      });
    }
  }
  for (let i = 0; i + 1 < batch.starts.length; i += 1) {
    const length = batch.starts[i + 1]! - batch.starts[i]!;
    if (length < 1 || length > context) {
      throw new ArgumentError({
        what: `sequence ${i} of the batch has ${length} tokens to read, the model takes 1 to ${context}`,
        fix: 'cut long texts, drop empty ones',
      });
    }
  }
  if (batch.targetCount === 0) {
    throw new ArgumentError({
      what: 'the batch has nothing to predict',
      fix: 'give at least one text of two tokens or more',
    });
  }
}
