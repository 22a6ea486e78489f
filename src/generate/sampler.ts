// From logits to the next token. All of it runs in double on float32 logits, so equal logits give equal tokens, and a
// draw depends only on the sample seed and the token's place: no state to save, and a draft token can be checked.

import { NonFiniteError } from '../engine/backend.ts';
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
};

export type Choice = {
  readonly token: number;
  /** ln p(token) of the untempered distribution over the whole vocabulary. */
  readonly logprob: number;
};

/** Chooses the token of place `step` (from 0) from logits (V,). Throws `NonFiniteError` if a logit is not finite. */
export function chooseToken(logits: Float32Array, step: number, options: SamplingOptions): Choice {
  let best = 0;
  for (let i = 1; i < logits.length; i += 1) if (logits[i]! > logits[best]!) best = i;
  const largest = logits[best]!;
  const all = weigh(logits, largest, 1);
  if (!Number.isFinite(all.mass) || !Number.isFinite(largest)) throw new NonFiniteError('output logits');

  const token = options.temperature === 0 ? best : sample(logits, largest, all, step, options);
  return { token, logprob: logits[token]! - largest - Math.log(all.mass) };
}

/** e^((logit - largest) / temperature) of every token, and their sum. */
type Weights = { readonly of: Float64Array; readonly mass: number };

/** Kept between tokens: a vocabulary is a megabyte of weights. Good until the next call. */
let scratch = new Float64Array(0);

function weigh(logits: Float32Array, largest: number, temperature: number): Weights {
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

/** `all`: the weights at temperature 1. */
function sample(logits: Float32Array, largest: number, all: Weights, step: number, options: SamplingOptions): number {
  const { temperature, topK, topP } = options;
  const u = uniform(options.sampleSeed, step);
  if (topK > 0 && topK < logits.length) {
    const candidates = topIndices(logits, topK);
    const weights = candidates.map((id) => expOfNegative((logits[id]! - largest) / temperature));
    const sum = weights.reduce((a, b) => a + b);
    const { count, mass } = front(weights, topP < 1 ? topP * sum : Infinity);
    return candidates[pick(weights, count, u * mass)]!;
  }
  const weights = temperature === 1 ? all : weigh(logits, largest, temperature);
  if (topP >= 1) return pick(weights.of, logits.length, u * weights.mass);
  return pickFromNucleus(logits, largest, weights, options, u);
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
  logits: Float32Array,
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

/** ln p(token) of the untempered distribution over the whole vocabulary; logits (V,). */
export function logprobOf(logits: Float32Array, token: number): number {
  let largest = logits[0]!;
  for (let id = 1; id < logits.length; id += 1) if (logits[id]! > largest) largest = logits[id]!;
  const { mass } = weigh(logits, largest, 1);
  if (!Number.isFinite(mass) || !Number.isFinite(largest)) throw new NonFiniteError('output logits');
  return logits[token]! - largest - Math.log(mass);
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
export function topIndices(logits: Float32Array, count: number): number[] {
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
