// Trits: the three values of a ternary weight, read as the field GF(3) in its balanced form {-1, 0, +1}.

export type Trit = -1 | 0 | 1;

/** From the least to the greatest; also the order of `minus`, `ergodic`, `plus` fields. */
export const TRITS = [-1, 0, 1] as const satisfies readonly Trit[];

export type Role = 'MINUS' | 'ERGODIC' | 'PLUS';
export const ROLES = ['MINUS', 'ERGODIC', 'PLUS'] as const satisfies readonly Role[];

export type TritSymbol = '-' | 'o' | '+';

export function isTrit(value: unknown): value is Trit {
  return value === -1 || value === 0 || value === 1;
}

/** How traces print a trit. */
export function tritSymbol(trit: Trit): TritSymbol {
  return trit === 0 ? 'o' : trit > 0 ? '+' : '-';
}

/** PLUS generates, ERGODIC coordinates, MINUS validates. */
export function role(trit: Trit): Role {
  return trit === 0 ? 'ERGODIC' : trit > 0 ? 'PLUS' : 'MINUS';
}
