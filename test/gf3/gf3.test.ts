import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { ArgumentError } from '../../src/errors.ts';
import { add, inverse, multiply, negate, subtract, toTrit } from '../../src/gf3/field.ts';
import { gf3Residue, isConserved, tritSum } from '../../src/gf3/sums.ts';
import { isTrit, role, TRITS, tritSymbol } from '../../src/gf3/trit.ts';
import { addVectors, dotVectors, scaleVector, subtractVectors } from '../../src/gf3/vectors.ts';

const pairs = TRITS.flatMap((a) => TRITS.map((b) => [a, b] as const));
const triples = pairs.flatMap(([a, b]) => TRITS.map((c) => [a, b, c] as const));
const residue = (value: number) => ((value % 3) + 3) % 3;

describe('field laws (every case, there are few)', () => {
  test('results are trits, never -0, and congruent to the integer result', () => {
    for (const [a, b] of pairs) {
      const cases = [
        [add(a, b), a + b],
        [subtract(a, b), a - b],
        [multiply(a, b), a * b],
        [negate(a), -a],
      ] as const;
      for (const [result, integer] of cases) {
        expect(TRITS).toContain(result);
        expect(Object.is(result, -0)).toBe(false);
        expect(residue(result)).toBe(residue(integer));
      }
    }
  });

  test('addition and multiplication commute, associate, distribute', () => {
    for (const [a, b, c] of triples) {
      expect(add(a, b)).toBe(add(b, a));
      expect(multiply(a, b)).toBe(multiply(b, a));
      expect(add(add(a, b), c)).toBe(add(a, add(b, c)));
      expect(multiply(multiply(a, b), c)).toBe(multiply(a, multiply(b, c)));
      expect(multiply(a, add(b, c))).toBe(add(multiply(a, b), multiply(a, c)));
    }
  });

  test('identities and inverses', () => {
    for (const a of TRITS) {
      expect(add(a, 0)).toBe(a);
      expect(multiply(a, 1)).toBe(a);
      expect(add(a, negate(a))).toBe(0);
      expect(add(add(a, a), a)).toBe(0); // characteristic 3
      if (a !== 0) expect(multiply(a, inverse(a))).toBe(1);
    }
    expect(() => inverse(0)).toThrow(ArgumentError);
  });

  test('toTrit reduces any safe integer', () => {
    fc.assert(
      fc.property(fc.maxSafeInteger(), (value) => {
        const trit = toTrit(value);
        expect(isTrit(trit)).toBe(true);
        expect(Object.is(trit, -0)).toBe(false);
        expect(residue(trit)).toBe(residue(value));
      }),
    );
  });
});

describe('sums', () => {
  test('pins', () => {
    expect(tritSum([-1, -1, -1, 1, 0])).toBe(-2);
    expect(tritSum(Int8Array.of(1, 1, 0))).toBe(2);
    expect(tritSum([])).toBe(0);
    expect([-4, -3, -2, -1, 0, 1, 2, 3].map(gf3Residue)).toEqual([2, 0, 1, 2, 0, 1, 2, 0]);
    expect(Object.is(gf3Residue(-3), 0)).toBe(true);
    expect([-3, -2, 0, 1, 6].map(isConserved)).toEqual([true, false, true, false, true]);
  });

  test('the residue of a sum is the sum in the field', () => {
    fc.assert(
      fc.property(fc.array(fc.constantFrom(...TRITS)), (trits) => {
        expect(toTrit(tritSum(trits))).toBe(trits.reduce<-1 | 0 | 1>(add, 0));
      }),
    );
  });
});

describe('vectors', () => {
  const vectors = fc
    .array(fc.tuple(fc.constantFrom(...TRITS), fc.constantFrom(...TRITS)))
    .map((rows) => [Int8Array.from(rows, ([a]) => a), Int8Array.from(rows, ([, b]) => b)] as const);

  test('equal the field element by element; a difference added back restores', () => {
    fc.assert(
      fc.property(vectors, fc.constantFrom(...TRITS), ([a, b], factor) => {
        const sum = addVectors(a, b, new Int8Array(a.length));
        const difference = subtractVectors(a, b, new Int8Array(a.length));
        const scaled = scaleVector(a, factor, new Int8Array(a.length));
        let dot = 0;
        for (let i = 0; i < a.length; i++) {
          const [x, y] = [a[i] as -1, b[i] as -1];
          expect(sum[i]).toBe(add(x, y));
          expect(difference[i]).toBe(subtract(x, y));
          expect(scaled[i]).toBe(multiply(x, factor));
          dot += x * y;
        }
        expect(dotVectors(a, b)).toBe(toTrit(dot));
        expect(addVectors(difference, b, difference)).toEqual(a);
      }),
    );
  });

  test('refuse unequal lengths', () => {
    expect(() => addVectors(new Int8Array(2), new Int8Array(3), new Int8Array(2))).toThrow(ArgumentError);
    expect(() => dotVectors(new Int8Array(2), new Int8Array(3))).toThrow('2 and 3');
  });
});

test('symbols and roles', () => {
  expect(TRITS.map(tritSymbol)).toEqual(['-', 'o', '+']);
  expect(TRITS.map(role)).toEqual(['MINUS', 'ERGODIC', 'PLUS']);
  expect([2, 0.5, '1', null, Number.NaN].some(isTrit)).toBe(false);
});
