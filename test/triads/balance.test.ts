import fc from 'fast-check';
import { expect, test } from 'vitest';
import { isConserved, tritSum } from '../../src/gf3/sums.ts';
import { TRITS } from '../../src/gf3/trit.ts';
import { balanceOf, completingTrit } from '../../src/triads/balance.ts';

test('pins', () => {
  expect(balanceOf([1, -1, 0])).toEqual({ sum: 0, residue: 0, conserved: true, completingTrit: 0 });
  expect(balanceOf([1, 1])).toEqual({ sum: 2, residue: 2, conserved: false, completingTrit: 1 });
  expect(balanceOf([-1])).toEqual({ sum: -1, residue: 2, conserved: false, completingTrit: 1 });
  expect(balanceOf([])).toEqual({ sum: 0, residue: 0, conserved: true, completingTrit: 0 });
});

test('exactly one trit completes any set, and completingTrit is it', () => {
  fc.assert(
    fc.property(fc.array(fc.constantFrom(...TRITS)), (trits) => {
      const completing = TRITS.filter((trit) => isConserved(tritSum([...trits, trit])));
      expect(completing).toEqual([completingTrit(trits)]);
    }),
  );
});
