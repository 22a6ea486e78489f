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

/** Characters of a trace's step, without and with the counts of a deep model's layers. */
const STEP_CHARACTERS = { plain: 150, activations: 1500 } as const;

/** Tokens of a trace that fit. */
export function fittingSteps(budget: number | undefined, { activations }: { activations: boolean }): number {
  if (budget === undefined) return Number.POSITIVE_INFINITY;
  return Math.max(1, Math.floor(budget / (activations ? STEP_CHARACTERS.activations : STEP_CHARACTERS.plain)));
}
