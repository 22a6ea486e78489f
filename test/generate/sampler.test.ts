import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { chooseFromTop, chooseToken, TokenHistory, topIndices, topNeeded } from '../../src/generate/sampler.ts';
import { logitRow } from './helpers.ts';
import { referenceDistribution, referenceDraw, referenceScores, referenceUniform } from './sampler-reference.ts';

const greedy = { temperature: 0, topK: 0, topP: 1, sampleSeed: 0n };
const logits = Float32Array.of(1, 3, 2, 3, -5, 0);

describe('greedy', () => {
  test('takes the largest, the lower id on a tie', () => expect(chooseToken(logits, 0, greedy).token).toBe(1));

  test('logprob is the log softmax', () => {
    const total = [...logits].reduce((sum, value) => sum + Math.exp(value), 0);
    expect(chooseToken(logits, 0, greedy).logprob).toBeCloseTo(3 - Math.log(total), 6);
  });

  test.each([Number.NaN, Number.POSITIVE_INFINITY])('refuses %f', (bad) => {
    expect(() => chooseToken(Float32Array.of(0, bad, 1), 0, greedy)).toThrow(/NaN or infinity/);
    expect(() => chooseFromTop(logitRow(Float32Array.of(0, bad, 1)).top, 0, greedy)).toThrow(/NaN or infinity/);
  });
});

describe('sampling', () => {
  const draws = (options: Partial<typeof greedy>, n = 4000) => {
    const counts = new Array<number>(logits.length).fill(0);
    for (let step = 0; step < n; step += 1) {
      counts[chooseToken(logits, step, { ...greedy, temperature: 1, ...options }).token]! += 1;
    }
    return counts.map((count) => count / n);
  };
  const softmax = (temperature: number, keep: readonly number[]) => {
    const weights = [...logits].map((value, id) => (keep.includes(id) ? Math.exp(value / temperature) : 0));
    const total = weights.reduce((sum, weight) => sum + weight, 0);
    return weights.map((weight) => weight / total);
  };
  const all = [0, 1, 2, 3, 4, 5];

  test.each([
    ['temperature 1', {}, softmax(1, all)],
    ['temperature 2', { temperature: 2 }, softmax(2, all)],
    ['top-k 2', { topK: 2 }, softmax(1, [1, 3])],
    ['top-k 3', { topK: 3 }, softmax(1, [1, 3, 2])],
    // 3 and 3 hold 0.75 of the mass, with 2 it is 0.89.
    ['top-p 0.7', { topP: 0.7 }, softmax(1, [1, 3])],
    ['top-p 0.8', { topP: 0.8 }, softmax(1, [1, 2, 3])],
    ['top-p of nearly nothing', { topP: 1e-9 }, softmax(1, [1])],
    ['top-k 2 with top-p 0.4 of what is left', { topK: 2, topP: 0.4 }, softmax(1, [1])],
  ])('%s draws its distribution', (_, options, wanted) => {
    draws(options).forEach((share, id) => {
      expect(Math.abs(share - wanted[id]!)).toBeLessThan(wanted[id] === 0 ? 1e-12 : 0.03);
    });
  });

  test('a draw depends on the seed and the step only', () => {
    const options = { ...greedy, temperature: 1, sampleSeed: 9n };
    const series = Array.from({ length: 50 }, (_, step) => chooseToken(logits, step, options).token);
    expect(Array.from({ length: 50 }, (_, step) => chooseToken(logits, step, options).token)).toEqual(series);
    const other = Array.from(
      { length: 50 },
      (_, step) => chooseToken(logits, step, { ...options, sampleSeed: 10n }).token,
    );
    expect(other).not.toEqual(series);
  });
});

test('top-p draws from the shortest front of the sorted tokens that holds it, and from all of that front', () => {
  const logit = fc.oneof(fc.integer({ min: -6, max: 0 }), fc.double({ min: -40, max: 0, noNaN: true }));
  fc.assert(
    fc.property(
      fc.array(logit, { minLength: 1, maxLength: 12 }),
      fc.constantFrom(0.3, 1, 4),
      fc.double({ min: 0.01, max: 0.99, noNaN: true }),
      (values, temperature, topP) => {
        const many = Float32Array.from(values);
        const weights = [...many].map((value) => Math.exp((value - Math.max(...many)) / temperature));
        const enough = topP * weights.reduce((a, b) => a + b);
        const nucleus: number[] = [];
        let mass = 0;
        for (const id of weights.map((_, id) => id).sort((a, b) => many[b]! - many[a]! || a - b)) {
          // A sum that is equal but for rounding may go either way.
          if (Math.abs(mass - enough) < 1e-9) return;
          if (mass > enough) break;
          nucleus.push(id);
          mass += weights[id]!;
        }
        const options = { ...greedy, temperature, topP };
        const drawn = new Set(Array.from({ length: 300 }, (_, step) => chooseToken(many, step, options).token));
        for (const id of drawn) expect(nucleus).toContain(id);
        for (const id of nucleus) if (weights[id]! > 0.05 * mass) expect([...drawn]).toContain(id);
      },
    ),
  );
});

test('topIndices is the front of a stable sort', () => {
  fc.assert(
    fc.property(fc.array(fc.integer({ min: -4, max: 4 }), { minLength: 1, maxLength: 60 }), fc.nat(60), (values, k) => {
      const count = Math.min(Math.max(1, k), values.length);
      const sorted = values.map((_, id) => id).sort((a, b) => values[b]! - values[a]! || a - b);
      expect(topIndices(Float32Array.from(values), count)).toEqual(sorted.slice(0, count));
    }),
  );
});

describe('against a second, slow implementation', () => {
  const SIZE = 12;
  const logit = fc.oneof(fc.integer({ min: -6, max: 6 }), fc.double({ min: -30, max: 30, noNaN: true }));
  const id = fc.nat(SIZE - 1);
  const optionsOf = fc.record(
    {
      temperature: fc.constantFrom(0.25, 1, 3),
      topK: fc.nat(SIZE + 2),
      topP: fc.double({ min: 0.01, max: 1, noNaN: true }),
      minP: fc.oneof(fc.constant(0), fc.double({ min: 0, max: 1, noNaN: true })),
      repetitionPenalty: fc.constantFrom(1, 1.3, 0.7, 5),
      presencePenalty: fc.constantFrom(0, 0.5, -1.5, 2),
      frequencyPenalty: fc.constantFrom(0, 0.4, -2, 1.1),
      logitBias: fc.uniqueArray(fc.tuple(id, fc.double({ min: -100, max: 100, noNaN: true })), {
        selector: ([biased]) => biased,
        maxLength: 4,
      }),
    },
    { requiredKeys: ['temperature'] },
  );
  const logitsOf = fc.array(logit, { minLength: SIZE, maxLength: SIZE }).map((list) => [...Float32Array.from(list)]);
  const ids = fc.array(id, { maxLength: 6 });

  test('every draw is the token that the definition says, at its own log-probability', () => {
    let compared = 0;
    fc.assert(
      fc.property(
        logitsOf,
        optionsOf,
        ids,
        ids,
        fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
        (list, options, prompt, text, seed) => {
          const scores = referenceScores(list, options, prompt, text);
          // Where the front of top-p ends within rounding of a token's border, either is right.
          const near = [-1e-9, 1e-9].map((more) =>
            JSON.stringify(
              referenceDistribution(scores, {
                ...options,
                ...(options.topP !== undefined && options.topP < 1 && { topP: options.topP + more }),
                ...(options.minP && { minP: options.minP + more }),
              }).map(([one]) => one),
            ),
          );
          if (near[0] !== near[1]) return;
          const distribution = referenceDistribution(scores, options);
          const history = new TokenHistory([...prompt, ...text], prompt.length);
          const total = list.reduce((sum, value) => sum + Math.exp(value), 0);
          for (let step = 0; step < 8; step += 1) {
            const wanted = referenceDraw(distribution, referenceUniform(seed, step));
            const all = { topK: 0, topP: 1, ...options, sampleSeed: seed };
            const { token, logprob } = chooseToken(Float32Array.from(list), step, all, history);
            if (wanted !== undefined) {
              expect(token).toBe(wanted);
              compared += 1;
            }
            expect(logprob).toBeCloseTo(list[token]! - Math.log(total), 6);
          }
        },
      ),
    );
    expect(compared).toBeGreaterThan(100);
  });

  test('greedy takes the largest of the adjusted logits', () => {
    fc.assert(
      fc.property(logitsOf, optionsOf, ids, ids, (list, options, prompt, text) => {
        const scores = referenceScores(list, options, prompt, text);
        const largest = Math.max(...scores);
        const history = new TokenHistory(prompt, prompt.length);
        for (const one of text) history.add(one);
        const asked = { ...greedy, ...options, temperature: 0 };
        const { token } = chooseToken(Float32Array.from(list), 0, asked, history);
        expect(scores[token]).toBeCloseTo(largest, 9);
      }),
    );
  });
});

describe('from the largest logits alone', () => {
  test('the same token and numbers as from all of them', () => {
    const row = fc
      .array(fc.oneof(fc.integer({ min: -3, max: 3 }), fc.double({ min: -30, max: 30, noNaN: true })), {
        minLength: 70,
        maxLength: 90,
      })
      .map((list) => Float32Array.from(list));
    const asked = fc.record({
      temperature: fc.constantFrom(0, 0.25, 1, 3),
      topK: fc.integer({ min: 1, max: 64 }),
      topP: fc.oneof(fc.constant(1), fc.double({ min: 0.01, max: 1, noNaN: true })),
      minP: fc.oneof(fc.constant(0), fc.double({ min: 0, max: 1, noNaN: true })),
      topLogprobs: fc.nat(20),
      sampleSeed: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
    });
    fc.assert(
      fc.property(row, asked, fc.nat(40), fc.nat(5), (list, options, step, more) => {
        const needed = topNeeded(options, list.length)!;
        const { top } = logitRow(list, Math.min(64, needed + more));
        expect(chooseFromTop(top, step, options)).toEqual(chooseToken(list, step, options));
      }),
    );
  });

  test.each<[string, Parameters<typeof topNeeded>[0], number, number | undefined]>([
    ['greedy', greedy, 50, 1],
    ['greedy with alternatives', { ...greedy, topLogprobs: 7 }, 50, 7],
    ['more alternatives than tokens', { ...greedy, topLogprobs: 20 }, 6, 6],
    ['top-k', { ...greedy, temperature: 1, topK: 40 }, 50, 40],
    ['top-k, of greedy no matter', { ...greedy, topK: 40 }, 50, 1],
    ['top-k of all tokens', { ...greedy, temperature: 1, topK: 50 }, 50, undefined],
    ['a large top-k', { ...greedy, temperature: 1, topK: 65 }, 500, undefined],
    ['a draw from all', { ...greedy, temperature: 1 }, 50, undefined],
    ['a bias', { ...greedy, logitBias: [[3, 1]] }, 50, undefined],
    ['a penalty', { ...greedy, repetitionPenalty: 1.1 }, 50, undefined],
  ])('%s', (_, options, vocabSize, needed) => expect(topNeeded(options, vocabSize)).toBe(needed));
});

describe('by hand', () => {
  const six = Float32Array.of(1, 3, 2, 3, -5, 0);

  test('a bias decides between equals, and one of -100 bans', () => {
    expect(chooseToken(six, 0, { ...greedy, logitBias: [[3, 0.5]] }).token).toBe(3);
    const banned = {
      ...greedy,
      logitBias: [
        [1, -100],
        [3, -100],
      ] as const,
    };
    expect(chooseToken(six, 0, banned).token).toBe(2);
    const drawn = { ...banned, temperature: 5 };
    for (let step = 0; step < 200; step += 1) expect([0, 2, 4, 5]).toContain(chooseToken(six, step, drawn).token);
  });

  test('a repetition penalty of 2 halves 3 to 1.5 and doubles -5 to -10', () => {
    const history = new TokenHistory([1, 3, 4], 3);
    expect(chooseToken(six, 0, { ...greedy, repetitionPenalty: 2 }, history).token).toBe(2);
    // -10 against -5 of no other: what is below 0 sinks, too.
    const low = Float32Array.of(-1, -1.5);
    expect(chooseToken(low, 0, { ...greedy, repetitionPenalty: 2 }, new TokenHistory([0], 1)).token).toBe(1);
  });

  test('presence counts once and frequency each time, both of the text only', () => {
    const inPrompt = new TokenHistory([1, 1, 1], 3);
    expect(chooseToken(six, 0, { ...greedy, presencePenalty: 2, frequencyPenalty: 2 }, inPrompt).token).toBe(1);
    const twice = new TokenHistory([1, 1, 3], 0);
    // 3 - 0.4 * 2 against 3 - 0.4.
    expect(chooseToken(six, 0, { ...greedy, frequencyPenalty: 0.4 }, twice).token).toBe(3);
    expect(chooseToken(six, 0, { ...greedy, presencePenalty: 0.4 }, twice).token).toBe(1);
    expect(chooseToken(six, 0, { ...greedy, presencePenalty: 1.5 }, twice).token).toBe(2);
  });

  test('min-p of 0.3 keeps e^-1 and not e^-2', () => {
    const drawn = new Set(
      Array.from({ length: 500 }, (_, step) => chooseToken(six, step, { ...greedy, temperature: 1, minP: 0.3 }).token),
    );
    expect([...drawn].sort()).toEqual([1, 2, 3]);
    // Just below and just above e^-1, over the whole vocabulary and within top-k.
    const kept = (minP: number, topK = 0) => {
      const options = { ...greedy, temperature: 1, minP, topK };
      return new Set(Array.from({ length: 300 }, (_, step) => chooseToken(six, step, options).token)).has(2);
    };
    expect([kept(0.367), kept(0.368), kept(0.367, 4), kept(0.368, 4)]).toEqual([true, false, true, false]);
  });

  test('the likeliest are told under the untempered, unbiased distribution', () => {
    const { top, token } = chooseToken(six, 0, { ...greedy, logitBias: [[4, 50]], topLogprobs: 3 });
    expect(token).toBe(4);
    const total = Math.log([...six].reduce((sum, value) => sum + Math.exp(value), 0));
    expect(top!.map((one) => one.token)).toEqual([1, 3, 2]);
    expect(top!.map((one) => one.logprob)[2]).toBeCloseTo(2 - total, 6);
    expect(chooseToken(six, 0, { ...greedy, topLogprobs: 20 }).top).toHaveLength(6);
    expect(chooseToken(six, 0, greedy)).not.toHaveProperty('top');
  });
});
