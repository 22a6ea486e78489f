// Seeds from outside. JSON numbers silently lose bits above 2^53, so larger seeds must come as text.

import { ArgumentError } from '../errors.ts';

export const MAX_SEED = (1n << 64n) - 1n;

/** One more digit than 2^64-1 has, so that a long text is refused before BigInt works on it. */
const DECIMAL = /^[0-9]{1,21}$/;
const HEX = /^0x[0-9a-fA-F]{1,17}$/;

const ALLOWED =
  'pass an integer from 0 to 9007199254740991 (2^53-1), or text: decimal digits up to "18446744073709551615" (2^64-1) or "0x" and hex digits up to "0xffffffffffffffff", without spaces, sign, point or exponent';

function shown(value: unknown): string {
  if (typeof value === 'string') return JSON.stringify(value.length > 40 ? `${value.slice(0, 40)}…` : value);
  if (typeof value === 'number' || typeof value === 'boolean' || value == null) return String(value);
  if (typeof value === 'bigint') return value.toString().length > 40 ? 'a much larger integer' : `${value}`;
  return Array.isArray(value) ? 'an array' : `a value of type ${typeof value}`;
}

/**
 * An unsigned 64-bit seed from JSON, an argument or the environment: a safe integer, or decimal or `0x` text; a bigint
 * from library callers. `name` is the argument's name for the message.
 * Throws ArgumentError for everything else, a number above 2^53-1 included, because its low bits are already lost.
 */
export function parseSeed(value: unknown, name: string): bigint {
  const refuse = (why: string) => new ArgumentError({ what: `${name} ${why}, got ${shown(value)}`, fix: ALLOWED });
  let seed: bigint;
  if (typeof value === 'bigint') {
    seed = value;
  } else if (typeof value === 'number') {
    if (Number.isInteger(value) && value > Number.MAX_SAFE_INTEGER) {
      throw refuse('as a number above 2^53-1 has already lost digits: pass it as text');
    }
    if (!Number.isSafeInteger(value)) throw refuse('must be an unsigned 64-bit integer');
    seed = BigInt(value);
  } else if (typeof value === 'string' && (DECIMAL.test(value) || HEX.test(value))) {
    seed = BigInt(value);
  } else {
    throw refuse('must be an unsigned 64-bit integer');
  }
  if (seed < 0n || seed > MAX_SEED) throw refuse('must lie between 0 and 2^64-1');
  return seed;
}
