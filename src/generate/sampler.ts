// From logits to the next token. All of it runs in double on float32 logits, so equal logits give equal tokens, and a
// draw depends only on the sample seed and the token's place: no state to save, and a draft token can be checked.

import { NonFiniteError } from '../engine/backend.ts';
import { GAMMA, splitmix64 } from '../random/splitmix64.ts';

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
  let total = 0;
  for (let i = 0; i < logits.length; i += 1) total += Math.exp(logits[i]! - largest);
  if (!Number.isFinite(total) || !Number.isFinite(largest)) throw new NonFiniteError('output logits');

  const token = options.temperature === 0 ? best : sample(logits, largest, step, options);
  return { token, logprob: logits[token]! - largest - Math.log(total) };
}

function sample(logits: Float32Array, largest: number, step: number, options: SamplingOptions): number {
  const weightOf = (id: number) => Math.exp((logits[id]! - largest) / options.temperature);
  const u = uniform(options.sampleSeed, step);
  const limited = options.topK > 0 && options.topK < logits.length;
  if (!limited && options.topP >= 1) {
    let mass = 0;
    for (let id = 0; id < logits.length; id += 1) mass += weightOf(id);
    return pick(logits.length, (i) => i, weightOf, u * mass);
  }

  const candidates = limited ? topIndices(logits, options.topK) : nucleusCandidates(logits, weightOf, options.topP);
  let mass = 0;
  for (const id of candidates) mass += weightOf(id);
  if (options.topP < 1) {
    const whole = limited ? mass : totalMass(logits, weightOf);
    let kept = 0;
    let count = 0;
    while (count < candidates.length && kept < options.topP * whole) kept += weightOf(candidates[count++]!);
    candidates.length = Math.max(1, count);
    mass = kept;
  }
  return pick(candidates.length, (i) => candidates[i]!, weightOf, u * mass);
}

/** Uniform in [0, 1) with 53 bits: draw `step` of the seed's splitmix64 stream. */
function uniform(seed: bigint, step: number): number {
  return Number(splitmix64(seed + BigInt(step) * GAMMA) >> 11n) / 2 ** 53;
}

function pick(count: number, idAt: (i: number) => number, weightOf: (id: number) => number, target: number): number {
  let passed = 0;
  let last = idAt(0);
  for (let i = 0; i < count; i += 1) {
    const id = idAt(i);
    const weight = weightOf(id);
    if (weight === 0) continue;
    passed += weight;
    last = id;
    if (passed > target) return id;
  }
  // Rounding may leave the target a hair above the sum.
  return last;
}

function totalMass(logits: Float32Array, weightOf: (id: number) => number): number {
  let mass = 0;
  for (let id = 0; id < logits.length; id += 1) mass += weightOf(id);
  return mass;
}

/** Enough of the likeliest ids, in order, to hold `topP` of the mass: doubled until they do, so that V is not sorted. */
function nucleusCandidates(logits: Float32Array, weightOf: (id: number) => number, topP: number): number[] {
  const whole = totalMass(logits, weightOf);
  for (let count = 64; ; count *= 4) {
    const candidates = topIndices(logits, Math.min(count, logits.length));
    let mass = 0;
    for (const id of candidates) mass += weightOf(id);
    if (mass >= topP * whole || candidates.length === logits.length) return candidates;
  }
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
  for (let id = 0; id < logits.length; id += 1) {
    if (heap.length < count) {
      let at = heap.push(id) - 1;
      while (at > 0) {
        const parent = (at - 1) >> 1;
        if (!worse(heap[at]!, heap[parent]!)) break;
        [heap[at], heap[parent]] = [heap[parent]!, heap[at]!];
        at = parent;
      }
    } else if (worse(heap[0]!, id)) {
      heap[0] = id;
      siftDown();
    }
  }
  return heap.sort((a, b) => (worse(a, b) ? 1 : -1));
}
