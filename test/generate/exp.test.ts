import fc from 'fast-check';
import { expect, test } from 'vitest';
import { expOfNegative } from '../../src/generate/exp.ts';

test('is e^x to fifteen digits', () => {
  const x = fc.oneof(
    fc.double({ min: -690, max: 0, noNaN: true }),
    fc.double({ min: -30, max: 0, noNaN: true }),
    // At and beside the steps of its table.
    fc.tuple(fc.integer({ min: -60_000, max: 0 }), fc.constantFrom(-1e-15, 0, 1e-15)).map(([step, off]) => {
      return Math.min(0, (step * Math.LN2) / 64 + off);
    }),
  );
  fc.assert(
    fc.property(x, (value) => {
      const wanted = Math.exp(value);
      expect(Math.abs(expOfNegative(value) - wanted) / wanted).toBeLessThan(4e-15);
    }),
    { numRuns: 5000 },
  );
});

test.each([
  [0, 1],
  [-0, 1],
  [-700, 0],
  [Number.NEGATIVE_INFINITY, 0],
  [Number.NaN, Number.NaN],
])('of %f is %f', (x, wanted) => expect(expOfNegative(x)).toBe(wanted));
