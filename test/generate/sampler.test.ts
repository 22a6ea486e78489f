import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { chooseToken, topIndices } from '../../src/generate/sampler.ts';

const greedy = { temperature: 0, topK: 0, topP: 1, sampleSeed: 0n };
const logits = Float32Array.of(1, 3, 2, 3, -5, 0);

describe('greedy', () => {
  test('takes the largest, the lower id on a tie', () => expect(chooseToken(logits, 0, greedy).token).toBe(1));

  test('logprob is the log softmax', () => {
    const total = [...logits].reduce((sum, value) => sum + Math.exp(value), 0);
    expect(chooseToken(logits, 0, greedy).logprob).toBeCloseTo(3 - Math.log(total), 12);
  });

  test.each([Number.NaN, Number.POSITIVE_INFINITY])('refuses %f', (bad) => {
    expect(() => chooseToken(Float32Array.of(0, bad, 1), 0, greedy)).toThrow(/NaN or infinity/);
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
