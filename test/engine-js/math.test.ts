import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { expF32, laneDot, laneSum, rintF32 } from '../../src/engine/js/math.ts';

describe('rintF32', () => {
  test.each([
    [0.5, 0],
    [1.5, 2],
    [2.5, 2],
    [-0.5, -0],
    [-1.5, -2],
    [-2.5, -2],
    [126.5, 126],
    [0.49999997, 0],
  ])('%f rounds to %f', (x, wanted) => {
    expect(rintF32(x) + 0).toBe(wanted + 0);
  });
});

describe('expF32', () => {
  test('pins', () => {
    expect(expF32(0)).toBe(1);
    expect(expF32(Number.NEGATIVE_INFINITY)).toBe(0);
    expect(expF32(Number.POSITIVE_INFINITY)).toBe(Number.POSITIVE_INFINITY);
    expect(expF32(89)).toBe(Number.POSITIVE_INFINITY);
    expect(expF32(-88)).toBe(0);
    expect(expF32(Number.NaN)).toBeNaN();
  });

  test('within two units in the last place', () => {
    fc.assert(
      fc.property(fc.float({ min: -87, max: Math.fround(88.5), noNaN: true }), (x) => {
        const exact = Math.exp(x);
        expect(Math.abs(expF32(x) - exact)).toBeLessThanOrEqual(2 * 2 ** -24 * exact);
      }),
      { numRuns: 5000 },
    );
  });
});

describe('lane sums', () => {
  test('the order of additions is lanes of 16, then halves', () => {
    // 2^24 + 1 is not a float32: whichever pair is added first shows in the result.
    const x = new Float32Array(32);
    x[0] = 2 ** 24;
    x[16] = 1; // the same lane as x[0]: lost
    x[1] = 1; // lane 1, joins lane 0 last: lost too
    x[9] = 1; // lane 9 joins lane 1 first, so lanes 1 and 9 arrive as 2: kept
    expect(laneSum(x, 0, 32)).toBe(2 ** 24 + 2);
    expect(laneDot(x, 0, new Float32Array(32).fill(1), 0, 32)).toBe(2 ** 24 + 2);
  });

  test('a length that is no multiple of 16 fills the first lanes', () => {
    const x = Float32Array.from({ length: 21 }, (_, i) => i + 1);
    expect(laneSum(x, 0, 21)).toBe(231);
    expect(laneSum(x, 3, 5)).toBe(4 + 5 + 6 + 7 + 8);
  });
});
