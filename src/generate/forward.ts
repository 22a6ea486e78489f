// Logits of given tokens, without choosing any: what `eval` and `verify` need.

import { CancelledError } from '../errors.ts';
import type { LogitsModel } from './engine.ts';
import { expOfNegative } from './exp.ts';

export type ForwardOptions = {
  /** Tokens of one step; results do not depend on it. */
  readonly chunk?: number;
  readonly signal?: AbortSignal;
  readonly onChunk?: (done: number, total: number) => void;
};

const DEFAULT_CHUNK = 64;

/**
 * Runs tokens (T,) through a fresh sequence and gives each chunk's logits (rows, V) to `use`, in order. The whole
 * (T, V) is never in memory unless the caller keeps it.
 */
export async function forwardTokens(
  executable: LogitsModel,
  tokens: ArrayLike<number>,
  use: (logits: Float32Array, firstToken: number, rows: number) => void,
  { chunk = DEFAULT_CHUNK, signal, onChunk }: ForwardOptions = {},
): Promise<void> {
  const sequence = executable.createSequence();
  try {
    for (let from = 0; from < tokens.length; from += chunk) {
      if (signal?.aborted) throw new CancelledError();
      const rows = Math.min(chunk, tokens.length - from);
      const { logits } = await executable.step({
        tokens: Int32Array.from({ length: rows }, (_, i) => tokens[from + i]!),
        sequences: new Int32Array(rows).fill(sequence),
        positions: Int32Array.from({ length: rows }, (_, i) => from + i),
        outputRows: Int32Array.from({ length: rows }, (_, i) => i),
      });
      use(logits, from, rows);
      onChunk?.(from + rows, tokens.length);
    }
  } finally {
    executable.freeSequence(sequence);
  }
}

/** All logits (T, V) of tokens (T,). */
export async function allLogits(
  executable: LogitsModel,
  tokens: ArrayLike<number>,
  vocabSize: number,
  options: ForwardOptions = {},
): Promise<Float32Array> {
  const all = new Float32Array(tokens.length * vocabSize);
  await forwardTokens(executable, tokens, (logits, first) => all.set(logits, first * vocabSize), options);
  return all;
}

/** -ln p(token) under one row of logits, in double. */
export function negativeLogLikelihood(logits: Float32Array, token: number): number {
  let largest = Number.NEGATIVE_INFINITY;
  for (let i = 0; i < logits.length; i += 1) largest = Math.max(largest, logits[i]!);
  let total = 0;
  for (let i = 0; i < logits.length; i += 1) total += expOfNegative(logits[i]! - largest);
  return Math.log(total) + largest - logits[token]!;
}
