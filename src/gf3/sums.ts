// Sums of trits and what is conserved: a collection is conserved when its plain sum is 0 modulo 3.

export type Gf3Residue = 0 | 1 | 2;

/** The plain integer sum, not reduced. */
export function tritSum(trits: ArrayLike<number>): number {
  let sum = 0;
  for (let i = 0; i < trits.length; i++) sum += trits[i]!;
  return sum;
}

/** A safe integer modulo 3, never negative. */
export function gf3Residue(sum: number): Gf3Residue {
  return (((sum % 3) + 3) % 3) as Gf3Residue;
}

export function isConserved(sum: number): boolean {
  return sum % 3 === 0;
}
