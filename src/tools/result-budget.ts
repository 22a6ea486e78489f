// Results within what a caller can take in. Some clients refuse a result above a number of tokens, and their model then
// sees nothing of it: for them a list is cut to a page, and `next` says which arguments give the rest. Programs have no
// such limit and get everything at once.

/** How many of `items` fit into `budget` characters of JSON; at least one, all without a budget. */
export function fitting(items: readonly unknown[], budget: number | undefined): number {
  if (budget === undefined) return items.length;
  let used = 0;
  for (let i = 0; i < items.length; i++) {
    used += JSON.stringify(items[i]).length + 1;
    if (used > budget) return Math.max(1, i);
  }
  return items.length;
}

/**
 * Characters of a trace's step, of the counts of a deep model's layers in it, and of one token that was likely as well; and
 * of a token without its step, which is told in `output`, `completion` and the text for people.
 */
const CHARACTERS = { step: 150, activations: 1350, alternative: 70, text: 20 } as const;

export type TraceSize = {
  readonly trace: boolean;
  readonly activations: boolean;
  readonly topLogprobs?: number | undefined;
  /** Default 1. */
  readonly texts?: number;
};

/** Tokens of each text that fit. */
export function fittingSteps(
  budget: number | undefined,
  { trace, activations, topLogprobs = 0, texts = 1 }: TraceSize,
): number {
  if (budget === undefined) return Number.POSITIVE_INFINITY;
  const step = CHARACTERS.step + (activations ? CHARACTERS.activations : 0) + topLogprobs * CHARACTERS.alternative;
  return Math.max(1, Math.floor(budget / texts / (trace ? step : CHARACTERS.text)));
}
