// From logits to the next token. All of it runs in double on float32 logits, so equal logits give equal tokens, and a
// draw depends only on the sample seed and the token's place: no state to save, and a draft token can be checked.
//
// In this order, as transformers and vLLM have it:
//   1. logit bias        l += bias(id)
//   2. repetition        l = l > 0 ? l / r : l * r      for every token of prompt and text   (arXiv:1909.05858 section 4.1)
//   3. frequency         l -= f * count(id)             of the text only, as in OpenAI's API
//   4. presence          l -= p if count(id) > 0        of the text only
//   5. temperature 0: the largest l. Else weights e^((l - largest) / temperature), of which stay
//   6. top-k             the k likeliest
//   7. top-p             of those, the fewest likeliest that hold this share of their mass
//   8. min-p             of those, the tokens with at least this share of the likeliest one's weight
//   9. the draw.
// The probabilities that are told are the model's own: of the logits before step 1. Where the largest logits are enough to
// choose from, no others are needed (`topNeeded`, `chooseFromTop`): the same token and the same numbers.

import { MAX_TOP, NonFiniteError } from '../engine/backend.ts';
import { massOf } from '../engine/top-logits.ts';
import { GAMMA, splitmix64 } from '../random/splitmix64.ts';
import { expOfNegative } from './exp.ts';

export type SamplingOptions = {
  /** 0 is greedy: the largest logit, the lower id on a tie. */
  readonly temperature: number;
  /** Keep the k likeliest; 0 keeps all. */
  readonly topK: number;
  /** Keep the smallest set of likeliest tokens whose probability reaches this; 1 keeps all. */
  readonly topP: number;
  readonly sampleSeed: bigint;
  /** Keep tokens at least this share as likely as the likeliest; 0 (default) keeps all. */
  readonly minP?: number | undefined;
  /** Above 0; 1 (default) changes nothing. */
  readonly repetitionPenalty?: number | undefined;
  readonly frequencyPenalty?: number | undefined;
  readonly presencePenalty?: number | undefined;
  /** Ids of the vocabulary, each once, with what is added to their logits. */
  readonly logitBias?: readonly (readonly [id: number, bias: number])[] | undefined;
  /** Tell so many of the likeliest tokens as well; 0 (default) none. */
  readonly topLogprobs?: number | undefined;
};

export type Likely = {
  readonly token: number;
  readonly logprob: number;
};

export type Choice = {
  readonly token: number;
  /** ln p(token) of the untempered distribution over the whole vocabulary. */
  readonly logprob: number;
  /** With `topLogprobs`: the likeliest of that distribution, the likeliest first. */
  readonly top?: readonly Likely[];
};

/** Tokens of a text, as far as penalties ask for them. */
export class TokenHistory {
  /** Of prompt and text. */
  readonly seen: Set<number>;
  /** How often each stands in the text. */
  readonly counts = new Map<number, number>();

  /** The first `promptLength` of `tokens` are the prompt. */
  constructor(tokens: readonly number[], promptLength: number) {
    this.seen = new Set(tokens);
    for (let i = promptLength; i < tokens.length; i += 1) this.#count(tokens[i]!);
  }

  /** The text goes on with this token. */
  add(token: number): void {
    this.seen.add(token);
    this.#count(token);
  }

  #count(token: number): void {
    this.counts.set(token, (this.counts.get(token) ?? 0) + 1);
  }
}

/** Whether penalties need to know what was written before. */
export function asksHistory({ repetitionPenalty = 1, frequencyPenalty = 0, presencePenalty = 0 }: SamplingOptions) {
  return repetitionPenalty !== 1 || frequencyPenalty !== 0 || presencePenalty !== 0;
}

/** What a step gives of one row. */
export type LogitRow = {
  /** (V,) a view, valid during the call; empty where nobody asked for it. */
  readonly logits: Float32Array;
  readonly top: Top;
};

/** The largest logits of a row; see `TopLogits` of the engine. */
export type Top = {
  readonly ids: ArrayLike<number>;
  readonly logits: ArrayLike<number>;
  readonly mass: number;
};

/** How many of the largest logits (V,) `chooseFromTop` needs; undefined where it takes all logits to choose. */
export function topNeeded(options: SamplingOptions, vocabSize: number): number | undefined {
  const { temperature, topK, topLogprobs = 0, logitBias = [] } = options;
  if (logitBias.length > 0 || asksHistory(options)) return undefined;
  if (temperature > 0 && (topK === 0 || topK >= vocabSize)) return undefined;
  const needed = Math.min(Math.max(1, temperature > 0 ? topK : 1, topLogprobs), vocabSize);
  return needed <= MAX_TOP ? needed : undefined;
}

/** As `chooseToken`, from at least `topNeeded` of the largest logits. */
export function chooseFromTop(top: Top, step: number, options: SamplingOptions): Choice {
  const { temperature, topK, topLogprobs = 0 } = options;
  const largest = top.logits[0]!;
  checkFinite(top.mass, largest);
  const candidates = Array.from({ length: topK }, (_, i) => i);
  const at = temperature === 0 ? 0 : drawFront(candidates, top.logits, largest, options, step);
  const logOfMass = Math.log(top.mass);
  const logprobAt = (i: number) => top.logits[i]! - largest - logOfMass;
  return {
    token: top.ids[at]!,
    logprob: logprobAt(at),
    ...(topLogprobs > 0 && {
      top: Array.from({ length: Math.min(topLogprobs, top.ids.length) }, (_, i) => ({
        token: top.ids[i]!,
        logprob: logprobAt(i),
      })),
    }),
  };
}

/**
 * Chooses the token of place `step` (from 0) from logits (V,). `history`: what penalties count; `mass`: where it is known.
 * Throws `NonFiniteError` if a logit is NaN or infinity.
 */
export function chooseToken(
  logits: Float32Array,
  step: number,
  options: SamplingOptions,
  history?: TokenHistory,
  mass?: number,
): Choice {
  const best = largestOf(logits);
  const largest = logits[best]!;
  const known = mass ?? massOf(logits, largest);
  checkFinite(known, largest);
  const scores = adjusted(logits, options, history);
  const favorite = scores === logits ? best : largestOf(scores);
  const { temperature } = options;
  const weights = () => weigh(scores, scores[favorite]!, temperature);
  const token = temperature === 0 ? favorite : sample(scores, scores[favorite]!, weights, step, options);
  return told(logits, { token, largest, mass: known, topLogprobs: options.topLogprobs ?? 0 });
}

/** The index of the largest; the lowest such. */
function largestOf(values: ArrayLike<number>): number {
  let best = 0;
  for (let i = 1; i < values.length; i += 1) if (values[i]! > values[best]!) best = i;
  return best;
}

type Scores = Float32Array | Float64Array;

/** Steps 1 to 4: the logits themselves where nothing is asked for. `ids`: whose they are, ascending, where not of all. */
function adjusted(
  logits: Float32Array,
  options: SamplingOptions,
  history: TokenHistory | undefined,
  ids?: Int32Array,
): Scores {
  const { logitBias = [], repetitionPenalty = 1, frequencyPenalty = 0, presencePenalty = 0 } = options;
  if (logitBias.length === 0 && !asksHistory(options)) return logits;
  const scores = Float64Array.from(logits);
  const placeOf = (id: number) => (ids === undefined ? id : placeIn(ids, id));
  for (const [id, bias] of logitBias) if (placeOf(id) >= 0) scores[placeOf(id)]! += bias;
  if (history === undefined) return scores;
  if (repetitionPenalty !== 1) {
    for (const id of history.seen) {
      const at = placeOf(id);
      if (at < 0) continue;
      const score = scores[at]!;
      scores[at] = score > 0 ? score / repetitionPenalty : score * repetitionPenalty;
    }
  }
  for (const [id, count] of history.counts) {
    const at = placeOf(id);
    if (at >= 0) scores[at]! -= frequencyPenalty * count + presencePenalty;
  }
  return scores;
}

/** e^((logit - largest) / temperature) of every token, and their sum. */
type Weights = { readonly of: Float64Array; readonly mass: number };

/** Kept between tokens: a vocabulary is a megabyte of weights. Good until the next call. */
let scratch = new Float64Array(0);

function weigh(logits: Scores, largest: number, temperature: number): Weights {
  if (scratch.length < logits.length) scratch = new Float64Array(logits.length);
  const of = scratch;
  let mass = 0;
  for (let id = 0; id < logits.length; id += 1) {
    const weight = expOfNegative((logits[id]! - largest) / temperature);
    of[id] = weight;
    mass += weight;
  }
  return { of, mass };
}

/**
 * `weigh`: the weights of the scores at the temperature asked for, beside `largest`. `size`: how many tokens the vocabulary
 * has, where only some of them are there.
 */
function sample(
  scores: Scores,
  largest: number,
  weights: () => Weights,
  step: number,
  options: SamplingOptions,
  size = scores.length,
): number {
  const { topK, topP, minP = 0 } = options;
  if (topK > 0 && topK < size) {
    return drawFront(topIndices(scores, Math.min(topK, scores.length)), scores, largest, options, step);
  }
  const u = uniform(options.sampleSeed, step);
  const all = weights();
  if (minP > 0) {
    const candidates: number[] = [];
    for (let id = 0; id < scores.length; id += 1) if (all.of[id]! >= minP) candidates.push(id);
    candidates.sort((a, b) => scores[b]! - scores[a]! || a - b);
    const kept = candidates.map((id) => all.of[id]!);
    return candidates[pickInFront(kept, topP < 1 ? topP * all.mass : Infinity, minP, u)]!;
  }
  if (topP >= 1) return pick(all.of, scores.length, u * all.mass);
  return pickFromNucleus(scores, largest, all, options, u);
}

/** Draws one of `candidates`, places of `scores`, the largest first: steps 5 to 9 with top-k. */
function drawFront(
  candidates: readonly number[],
  scores: ArrayLike<number>,
  largest: number,
  { temperature, topP, minP = 0, sampleSeed }: SamplingOptions,
  step: number,
): number {
  const weights = candidates.map((at) => expOfNegative((scores[at]! - largest) / temperature));
  const sum = weights.reduce((a, b) => a + b);
  return candidates[pickInFront(weights, topP < 1 ? topP * sum : Infinity, minP, uniform(sampleSeed, step))]!;
}

/** Draws from the first weights, largest first, that hold `enough` and are at least `minP` of the first, which is 1. */
function pickInFront(weights: readonly number[], enough: number, minP: number, u: number): number {
  const least = weights.findIndex((weight) => weight < minP);
  const { count, mass } = front(least < 0 ? weights : weights.slice(0, least), enough);
  return pick(weights, count, u * mass);
}

/**
 * A choice among some tokens, as `chooseToken` makes it of logits that are -Infinity for all others; what is told of it is
 * of all. Reads no more than it has to: one that leaves few tokens takes less time than a choice among all. Good until the
 * next choice of any kind.
 */
export class ChoiceAmong {
  readonly #logits: Float32Array;
  readonly #options: SamplingOptions;
  readonly #largest: number;
  readonly #mass: number;
  /** Ascending; undefined where the scores are those of all, and -Infinity for what is left out. */
  readonly #ids: Int32Array | undefined;
  readonly #scores: Scores;
  /** At the temperature, beside a score that was the largest. */
  #weights: (Weights & { readonly beside: number }) | undefined;

  /** `mask`: bits by token id, `count` of them; `mass`: of the logits, where it is known. Throws as `chooseToken`. */
  constructor(
    logits: Float32Array,
    mask: Uint32Array,
    count: number,
    options: SamplingOptions,
    history: TokenHistory | undefined,
    mass?: number,
  ) {
    this.#logits = logits;
    this.#options = options;
    this.#largest = logits[largestOf(logits)]!;
    this.#mass = mass ?? massOf(logits, this.#largest);
    checkFinite(this.#mass, this.#largest);
    if (2 * count < logits.length) {
      const ids = new Int32Array(count);
      let at = 0;
      for (let word = 0; word < mask.length; word += 1) {
        for (let bits = mask[word]!; bits !== 0; bits &= bits - 1)
          ids[at++] = (word << 5) + 31 - Math.clz32(bits & -bits);
      }
      const some = new Float32Array(count);
      for (let i = 0; i < count; i += 1) some[i] = logits[ids[i]!]!;
      this.#ids = ids;
      this.#scores = adjusted(some, options, history, ids);
      return;
    }
    const scores = adjusted(logits, options, history);
    this.#scores = scores === logits ? logits.slice() : scores;
    const all = options.temperature === 1 && scores === logits ? weigh(logits, this.#largest, 1) : undefined;
    let left = all?.mass ?? 0;
    for (let word = 0; word < mask.length; word += 1) {
      for (let bits = ~mask[word]!; bits !== 0; bits &= bits - 1) {
        const id = (word << 5) + 31 - Math.clz32(bits & -bits);
        if (id >= logits.length) break;
        this.#scores[id] = Number.NEGATIVE_INFINITY;
        if (all === undefined) continue;
        left -= all.of[id]!;
        all.of[id] = 0;
      }
    }
    if (all !== undefined && left > ENOUGH * all.mass) {
      this.#weights = { of: all.of, mass: sumOf(all.of, logits.length), beside: this.#largest };
    }
  }

  /** The token of place `step`; undefined where none has a probability. */
  pick(step: number): number | undefined {
    const scores = this.#scores;
    const best = largestOf(scores);
    const largest = scores[best];
    if (largest === undefined || largest === Number.NEGATIVE_INFINITY) return undefined;
    const { temperature, minP = 0 } = this.#options;
    if (temperature === 0) return this.#idOf(best);
    // What min-p keeps is beside the largest that is left.
    if (minP > 0 && this.#weights?.beside !== largest) this.#weights = undefined;
    const weights = () => {
      this.#weights ??= { ...weigh(scores, largest, temperature), beside: largest };
      return this.#weights;
    };
    const beside = this.#weights?.beside ?? largest;
    return this.#idOf(sample(scores, beside, weights, step, this.#options, this.#logits.length));
  }

  /** Leaves a token out. */
  leaveOut(token: number): void {
    const at = this.#ids === undefined ? token : placeIn(this.#ids, token);
    if (at < 0) return;
    this.#scores[at] = Number.NEGATIVE_INFINITY;
    if (this.#weights === undefined) return;
    const { of, mass: before, beside } = this.#weights;
    of[at] = 0;
    const mass = sumOf(of, this.#scores.length);
    this.#weights = mass > ENOUGH * before ? { of, mass, beside } : undefined;
  }

  /** What is told of a token, whichever. */
  tell(token: number): Choice {
    const { topLogprobs = 0 } = this.#options;
    return told(this.#logits, { token, largest: this.#largest, mass: this.#mass, topLogprobs });
  }

  #idOf(at: number): number {
    return this.#ids === undefined ? at : this.#ids[at]!;
  }
}

/** Of the mass that weights had: with less left, what is unlikely is weighed again, beside what is likely now. */
const ENOUGH = 1e-3;

function sumOf(values: Float64Array, count: number): number {
  let sum = 0;
  for (let i = 0; i < count; i += 1) sum += values[i]!;
  return sum;
}

/** The place of a value in an ascending list; -1 where it is not there. */
function placeIn(list: Int32Array, value: number): number {
  let [low, high] = [0, list.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (list[middle]! < value) low = middle + 1;
    else high = middle;
  }
  return list[low] === value ? low : -1;
}

/** How finely likelihoods are told apart before any are sorted: by factors of e^(1/32), down to e^-32 of the largest. */
const SHELVES = 1024;
const SHELVES_PER_E = 32;
const shelfMass = new Float64Array(SHELVES);
let shelfOf = new Uint16Array(0);

/**
 * Draws from the likeliest tokens that together hold `topP` of the mass, in their order, without sorting V: tokens are
 * put on shelves by likelihood, and only the shelf where the nucleus ends and the one where the draw falls are sorted.
 */
function pickFromNucleus(
  logits: Scores,
  largest: number,
  { of, mass }: Weights,
  { temperature, topP }: SamplingOptions,
  u: number,
): number {
  if (shelfOf.length < logits.length) shelfOf = new Uint16Array(logits.length);
  const shelves = shelfOf;
  shelfMass.fill(0);
  let last = 0;
  for (let id = 0; id < logits.length; id += 1) {
    const shelf = Math.min(SHELVES - 1, Math.floor(((largest - logits[id]!) / temperature) * SHELVES_PER_E));
    shelves[id] = shelf;
    shelfMass[shelf]! += of[id]!;
    if (shelf > last && of[id]! > 0) last = shelf;
  }
  /** The shelf on which the running sum reaches `target`: what is before it, and its tokens in order. */
  const reach = (target: number) => {
    let before = 0;
    let shelf = 0;
    while (shelf < last && before + shelfMass[shelf]! < target) before += shelfMass[shelf++]!;
    const ids: number[] = [];
    for (let id = 0; id < logits.length; id += 1) if (shelves[id] === shelf) ids.push(id);
    ids.sort((a, b) => logits[b]! - logits[a]! || a - b);
    return { before, ids, weights: ids.map((id) => of[id]!) };
  };
  const end = reach(topP * mass);
  const kept = front(end.weights, topP * mass - end.before);
  const target = u * (end.before + kept.mass);
  const drawn = target < end.before ? reach(target) : end;
  const count = drawn === end ? kept.count : drawn.ids.length;
  return drawn.ids[pick(drawn.weights, count, target - drawn.before)]!;
}

/** What is told of a token that was chosen in another way than from these logits (V,). Throws as `chooseToken`. */
export function tellToken(logits: Float32Array, token: number, topLogprobs = 0, mass?: number): Choice {
  const largest = logits[largestOf(logits)]!;
  const known = mass ?? massOf(logits, largest);
  checkFinite(known, largest);
  return told(logits, { token, largest, mass: known, topLogprobs });
}

function checkFinite(mass: number, largest: number): void {
  if (!Number.isFinite(mass) || !Number.isFinite(largest)) throw new NonFiniteError('output logits');
}

type Told = { readonly token: number; readonly largest: number; readonly mass: number; readonly topLogprobs: number };

function told(logits: Float32Array, { token, largest, mass, topLogprobs }: Told): Choice {
  const logprobOf = (id: number) => logits[id]! - largest - Math.log(mass);
  const top = () => topIndices(logits, Math.min(topLogprobs, logits.length));
  return {
    token,
    logprob: logprobOf(token),
    ...(topLogprobs > 0 && { top: top().map((id) => ({ token: id, logprob: logprobOf(id) })) }),
  };
}

/** Uniform in [0, 1) with 53 bits: draw `step` of the seed's splitmix64 stream. */
function uniform(seed: bigint, step: number): number {
  return Number(splitmix64(seed + BigInt(step) * GAMMA) >> 11n) / 2 ** 53;
}

/** How many of the first weights hold `enough`, and what they hold: at least one, all if all of them do not. */
function front(weights: readonly number[], enough: number) {
  let mass = weights[0]!;
  let count = 1;
  while (count < weights.length && mass < enough) mass += weights[count++]!;
  return { count, mass };
}

/** The place among `count` weights where their running sum passes `target`. */
function pick(weights: ArrayLike<number>, count: number, target: number): number {
  let passed = 0;
  let last = 0;
  for (let i = 0; i < count; i += 1) {
    const weight = weights[i]!;
    if (weight === 0) continue;
    passed += weight;
    last = i;
    if (passed > target) return i;
  }
  // Rounding may leave the target a hair above the sum.
  return last;
}

/** Ids of the `count` largest logits, largest first, lower id first on ties. A binary heap keeps the smallest on top. */
export function topIndices(logits: Scores, count: number): number[] {
  const heap: number[] = [];
  /** True if a should leave the heap before b. */
  const worse = (a: number, b: number) => logits[a]! < logits[b]! || (logits[a] === logits[b] && a > b);
  const siftDown = () => {
    let at = 0;
    for (;;) {
      let smallest = at;
      for (const child of [2 * at + 1, 2 * at + 2]) {
        if (child < heap.length && worse(heap[child]!, heap[smallest]!)) smallest = child;
      }
      if (smallest === at) return;
      [heap[at], heap[smallest]] = [heap[smallest]!, heap[at]!];
      at = smallest;
    }
  };
  for (let id = 0; id < count; id += 1) {
    let at = heap.push(id) - 1;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (!worse(heap[at]!, heap[parent]!)) break;
      [heap[at], heap[parent]] = [heap[parent]!, heap[at]!];
      at = parent;
    }
  }
  // Of equal logits the lower id, which is in the heap, stays.
  let least = logits[heap[0]!]!;
  for (let id = count; id < logits.length; id += 1) {
    if (!(logits[id]! > least)) continue;
    heap[0] = id;
    siftDown();
    least = logits[heap[0]]!;
  }
  return heap.sort((a, b) => (worse(a, b) ? 1 : -1));
}
