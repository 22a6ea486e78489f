// A triad is balanced when its trits sum to 0 modulo 3. For any open set of trits exactly one trit completes it.

import { toTrit } from '../gf3/field.ts';
import { type Gf3Residue, gf3Residue, isConserved, tritSum } from '../gf3/sums.ts';
import type { Trit } from '../gf3/trit.ts';

/** The trit that brings the sum to 0 modulo 3; 0 when it is there already. */
export function completingTrit(trits: readonly Trit[]): Trit {
  return toTrit(-tritSum(trits));
}

export type TriadBalance = {
  readonly sum: number;
  readonly residue: Gf3Residue;
  readonly conserved: boolean;
  readonly completingTrit: Trit;
};

/** Sum, residue and completing trit of any number of trits. */
export function balanceOf(trits: readonly Trit[]): TriadBalance {
  const sum = tritSum(trits);
  return { sum, residue: gf3Residue(sum), conserved: isConserved(sum), completingTrit: completingTrit(trits) };
}
