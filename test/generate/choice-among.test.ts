// A choice among some tokens against the plain way: logits that are -Infinity for all others.

import { expect, test } from 'vitest';
import { NonFiniteError } from '../../src/engine/backend.ts';
import { ChoiceAmong, chooseToken, type SamplingOptions, TokenHistory } from '../../src/generate/sampler.ts';
import { drawFrom } from './structure/random-schemas.ts';

const V = 1003;

function maskOf(ids: readonly number[]): Uint32Array {
  const mask = new Uint32Array(Math.ceil(V / 32));
  for (const id of ids) mask[id >> 5]! |= 1 << (id & 31);
  return mask;
}

const KINDS: readonly Partial<SamplingOptions>[] = [
  { temperature: 0 },
  { temperature: 1 },
  { temperature: 0.6 },
  { temperature: 1, topK: 40 },
  { temperature: 1.4, topK: 2000, topP: 0.8 },
  { temperature: 1, topP: 0.9 },
  { temperature: 0.8, topP: 0.95, minP: 0.05 },
  { temperature: 1, minP: 0.2 },
  { temperature: 1, topK: 30, topP: 0.9, minP: 0.1 },
  { temperature: 1, repetitionPenalty: 1.3, presencePenalty: 0.5, frequencyPenalty: 0.2 },
  {
    temperature: 0,
    logitBias: [
      [3, 40],
      [500, -40],
      [1002, 7],
    ],
    repetitionPenalty: 0.8,
  },
];

test.each(KINDS)('%j', (kind) => {
  const options: SamplingOptions = { temperature: 1, topK: 0, topP: 1, sampleSeed: 5n, ...kind };
  const draw = drawFrom(11);
  const history = new TokenHistory([1, 2, 3, 3, 700, 701, 1002], 2);
  for (const share of [0.003, 0.1, 0.45, 0.55, 0.95, 1]) {
    for (let round = 0; round < 12; round++) {
      // Now and then all that is likely is left out.
      const isUnlikely = round % 3 === 0;
      const logits = Float32Array.from(
        { length: V },
        (_, id) => (8 * draw.below(1000)) / 1000 + (isUnlikely && id % 7 === 0 ? 60 : 0),
      );
      const ids = Array.from({ length: V }, (_, id) => id).filter(
        (id) => draw.chance(share) && !(isUnlikely && id % 7 === 0),
      );
      const masked = new Float32Array(V).fill(Number.NEGATIVE_INFINITY);
      for (const id of ids) masked[id] = logits[id]!;
      const wanted = ids.slice(0, 6).map(() => {
        const { token } = chooseToken(masked, round, options, history);
        masked[token] = Number.NEGATIVE_INFINITY;
        return token;
      });
      const among = new ChoiceAmong(logits, maskOf(ids), ids.length, options, history);
      for (const token of wanted) {
        expect(among.pick(round)).toBe(token);
        among.leaveOut(token);
      }
      expect(among.tell(9)).toEqual({ token: 9, logprob: expect.closeTo(logprobOf(logits, 9), 6) });
    }
  }
});

function logprobOf(logits: Float32Array, id: number): number {
  const largest = Math.max(...logits);
  return logits[id]! - largest - Math.log(logits.reduce((sum, logit) => sum + Math.exp(logit - largest), 0));
}

test('nothing is left, and logits that are no numbers', () => {
  const logits = new Float32Array(V);
  const options: SamplingOptions = { temperature: 1, topK: 0, topP: 1, sampleSeed: 5n };
  expect(new ChoiceAmong(logits, maskOf([]), 0, options, undefined).pick(0)).toBeUndefined();
  const one = new ChoiceAmong(logits, maskOf([7]), 1, options, undefined);
  expect(one.pick(0)).toBe(7);
  one.leaveOut(8);
  expect(one.pick(0)).toBe(7);
  one.leaveOut(7);
  expect(one.pick(0)).toBeUndefined();
  logits[5] = Number.NaN;
  expect(() => new ChoiceAmong(logits, maskOf([7]), 1, options, undefined)).toThrow(NonFiniteError);
});
