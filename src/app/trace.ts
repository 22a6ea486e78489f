// A generation's result, as far as it is shown: the JSON of `generate_with_trace` and of `infer --json`.

import type { Trit } from '../gf3/trit.ts';

export type Counts = { readonly minus: number; readonly ergodic: number; readonly plus: number };

export type Alternative = { readonly token: string; readonly token_id?: number; readonly logprob: number };

export type TraceStep = {
  readonly step: number;
  readonly token: string;
  readonly token_id?: number;
  readonly logprob?: number | null;
  readonly color: string;
  readonly trit: Trit;
  readonly activations?: readonly Counts[];
  /** The likeliest tokens at this place, the likeliest first. */
  readonly top_logprobs?: readonly Alternative[];
};

export type Trace = {
  readonly model: string;
  readonly output: string;
  readonly completion: string;
  readonly finish_reason: string;
  readonly seed: string;
  readonly trit_sum: number;
  readonly gf3_residue: number;
  readonly gf3_conserved: boolean;
  readonly trace: readonly TraceStep[];
};

/** What the model said of a token; a number that JSON could not hold is not told. */
export function toldLogprob({ logprob }: { readonly logprob?: number | null | undefined }): number | undefined {
  return typeof logprob === 'number' && Number.isFinite(logprob) ? logprob : undefined;
}

/** What was written before the first token of the trace; a completion may leave some of those out (thoughts). */
export function promptOf({ output, completion, trace }: Trace): string {
  const written = trace.map(({ token }) => token).join('');
  return output.slice(0, output.length - (output.endsWith(written) ? written : completion).length);
}

/** The sum of trits after each step. */
export function runningSums(trace: readonly TraceStep[]): number[] {
  let sum = 0;
  return trace.map(({ trit }) => {
    sum += trit;
    return sum;
  });
}
