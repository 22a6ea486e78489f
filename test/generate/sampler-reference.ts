// Sampling as src/generate/sampler.ts defines it, written a second time and slowly: every step makes a new list, with
// Math.exp, a sort of the whole vocabulary and BigInt, and shares no code with it.

export type ReferenceOptions = {
  readonly temperature: number;
  readonly topK?: number;
  readonly topP?: number;
  readonly minP?: number;
  readonly repetitionPenalty?: number;
  readonly presencePenalty?: number;
  readonly frequencyPenalty?: number;
  readonly logitBias?: readonly (readonly [number, number])[];
};

/** Logits after bias and penalties. `prompt` and `text` are ids. */
export function referenceScores(
  logits: readonly number[],
  options: ReferenceOptions,
  prompt: readonly number[],
  text: readonly number[],
): number[] {
  const { logitBias = [], repetitionPenalty = 1, presencePenalty = 0, frequencyPenalty = 0 } = options;
  return logits.map((logit, id) => {
    let score = logit + logitBias.filter(([biased]) => biased === id).reduce((sum, [, bias]) => sum + bias, 0);
    if ([...prompt, ...text].includes(id)) score = score > 0 ? score / repetitionPenalty : score * repetitionPenalty;
    const count = text.filter((one) => one === id).length;
    return score - frequencyPenalty * count - (count > 0 ? presencePenalty : 0);
  });
}

/** What may be drawn: ids with their probabilities, in the order in which a draw runs over them. */
export function referenceDistribution(scores: readonly number[], options: ReferenceOptions): [number, number][] {
  const { temperature, topK = 0, topP = 1, minP = 0 } = options;
  const largest = Math.max(...scores);
  const all = scores.map((score, id) => [id, Math.exp((score - largest) / temperature)] as [number, number]);
  const isCut = (topK > 0 && topK < scores.length) || topP < 1 || minP > 0;
  let kept = isCut ? all.toSorted(([a], [b]) => scores[b]! - scores[a]! || a - b) : all;
  if (topK > 0) kept = kept.slice(0, topK);
  const mass = kept.reduce((sum, [, weight]) => sum + weight, 0);
  if (topP < 1) {
    let held = 0;
    kept = kept.filter(([, weight], i) => {
      const isNeeded = i === 0 || held < topP * mass;
      held += weight;
      return isNeeded;
    });
  }
  kept = kept.filter(([, weight]) => weight >= minP);
  const total = kept.reduce((sum, [, weight]) => sum + weight, 0);
  return kept.map(([id, weight]) => [id, weight / total]);
}

/** The draw of a place, in [0, 1): the next output of splitmix64 begun at seed + place * gamma, its first 53 bits. */
export function referenceUniform(seed: bigint, place: number): number {
  const MASK = (1n << 64n) - 1n;
  let z = (seed + (BigInt(place) + 1n) * 0x9e3779b97f4a7c15n) & MASK;
  z = ((z ^ (z >> 30n)) * 0xbf58476d1ce4e5b9n) & MASK;
  z = ((z ^ (z >> 27n)) * 0x94d049bb133111ebn) & MASK;
  return Number((z ^ (z >> 31n)) >> 11n) / 2 ** 53;
}

/** The token that u draws; undefined where rounding could decide between two. */
export function referenceDraw(distribution: readonly (readonly [number, number])[], u: number): number | undefined {
  let passed = 0;
  for (const [id, share] of distribution) {
    passed += share;
    if (Math.abs(passed - u) < 1e-9) return undefined;
    if (passed > u) return id;
  }
  return undefined;
}
