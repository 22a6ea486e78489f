// The field laws of GF(3) on balanced trits.

import { ArgumentError } from '../errors.ts';
import type { Trit } from './trit.ts';

/** The trit congruent to a safe integer modulo 3: 2 is -1, -2 is +1. */
export function toTrit(value: number): Trit {
  const remainder = value % 3;
  // The remainder has the sign of the value; `+ 0` turns a -0 into 0.
  return (remainder === 2 ? -1 : remainder === -2 ? 1 : remainder + 0) as Trit;
}

export function add(a: Trit, b: Trit): Trit {
  return toTrit(a + b);
}

export function subtract(a: Trit, b: Trit): Trit {
  return toTrit(a - b);
}

export function negate(a: Trit): Trit {
  return (0 - a) as Trit;
}

/** Products of balanced trits are balanced trits: no reduction is needed. */
export function multiply(a: Trit, b: Trit): Trit {
  return (a * b + 0) as Trit;
}

/** The trit b with a * b = 1, which is a itself. Throws ArgumentError for 0. */
export function inverse(a: Trit): Trit {
  if (a === 0) throw new ArgumentError({ what: '0 has no inverse in GF(3)', fix: 'pass -1 or 1' });
  return a;
}
