// Numbers as Python writes them. Its integers are bigints here, its floats numbers.

import { JinjaError, typeError } from './jinja-error.ts';

/** Integers beyond this are refused; Python itself writes out at most 4,300 digits. */
const MAX_INTEGER_BITS = 4096;

export function checkedInteger(value: bigint): bigint {
  if (BigInt.asIntN(MAX_INTEGER_BITS, value) === value) return value;
  throw new JinjaError('limit', `it makes an integer of more than ${MAX_INTEGER_BITS} bits`);
}

/** float.__repr__: the shortest digits that read back, with an exponent below 1e-4 and from 1e16 on. */
export function floatRepr(value: number): string {
  if (Number.isNaN(value)) return 'nan';
  if (!Number.isFinite(value)) return value > 0 ? 'inf' : '-inf';
  if (value === 0) return Object.is(value, -0) ? '-0.0' : '0.0';
  const [mantissa, power] = value.toExponential().split('e') as [string, string];
  const exponent = Number(power);
  if (exponent < -4 || exponent >= 16) {
    return `${mantissa}e${exponent < 0 ? '-' : '+'}${String(Math.abs(exponent)).padStart(2, '0')}`;
  }
  if (exponent < 0) {
    const digits = mantissa.replace(/[-.]/g, '');
    return `${value < 0 ? '-' : ''}0.${'0'.repeat(-exponent - 1)}${digits}`;
  }
  const plain = String(value);
  return plain.includes('.') ? plain : `${plain}.0`;
}

/** `digits` after the point, ties to even, from the exact value: '%.1f' % 0.25 is 0.2. */
export function fixedPoint(value: number, digits: number): string {
  if (!Number.isFinite(value)) return floatRepr(value);
  if (Math.abs(value) >= 1e21) return digits === 0 ? String(BigInt(value)) : `${BigInt(value)}.${'0'.repeat(digits)}`;
  const rounded = value.toFixed(digits);
  // toFixed takes the larger of two equally near; a value half-way between has exactly one digit more, a 5.
  const exact = value.toFixed(100);
  const point = exact.indexOf('.');
  if (!/^50*$/.test(exact.slice(point + 1 + digits))) return withSign(value, rounded);
  const lower = digits === 0 ? exact.slice(0, point) : exact.slice(0, point + 1 + digits);
  return withSign(value, Number(lower.at(-1)) % 2 === 0 ? lower : rounded);
}

/** -0.0 and what rounds to it keep their sign in Python. */
function withSign(value: number, text: string): string {
  return (value < 0 || Object.is(value, -0)) && !text.startsWith('-') ? `-${text}` : text;
}

/** A float without its fraction as an integer. */
export function integerOf(value: number): bigint {
  if (Number.isNaN(value)) throw typeError('cannot convert float NaN to integer');
  if (!Number.isFinite(value)) throw typeError('cannot convert float infinity to integer');
  return BigInt(Math.trunc(value));
}

/** int(text, base): undefined for what is no integer. */
export function parseInteger(text: string, base: number): bigint | undefined {
  const found = /^([-+]?)(?:0([xXoObB])_?)?([0-9A-Za-z]+(?:_[0-9A-Za-z]+)*)$/.exec(text);
  if (found === null || base < 2 || base > 36) return undefined;
  let digits = found[3]!.replaceAll('_', '').toLowerCase();
  if (found[2] !== undefined) {
    const letter = found[2].toLowerCase();
    const prefixed = { x: 16, o: 8, b: 2 }[letter]!;
    if (prefixed !== base) {
      // "0b1" is a number in base 16.
      digits = `0${letter}${digits}`;
    }
  }
  let value = 0n;
  for (const digit of digits) {
    const one = Number.parseInt(digit, 36);
    if (Number.isNaN(one) || one >= base) return undefined;
    value = checkedInteger(value * BigInt(base) + BigInt(one));
  }
  return found[1] === '-' ? -value : value;
}

/** float(text): undefined for what is no number. */
export function parseFloatText(text: string): number | undefined {
  const plain = text.toLowerCase();
  const named = /^([-+]?)(inf|infinity|nan)$/.exec(plain);
  if (named !== null) return named[2] === 'nan' ? Number.NaN : named[1] === '-' ? -Infinity : Infinity;
  if (!/^[-+]?(?:\d+(?:_\d+)*\.?(?:\d+(?:_\d+)*)?|\.\d+(?:_\d+)*)(?:e[-+]?\d+(?:_\d+)*)?$/.test(plain))
    return undefined;
  return Number(plain.replaceAll('_', ''));
}

/** Python's // and % for floats. */
export function floatDivmod(a: number, b: number): { readonly quotient: number; readonly remainder: number } {
  let remainder = a % b;
  let quotient = (a - remainder) / b;
  if (remainder !== 0) {
    if (b < 0 !== remainder < 0) {
      remainder += b;
      quotient -= 1;
    }
  } else remainder = b < 0 ? -0 : 0;
  if (quotient !== 0) {
    const floor = Math.floor(quotient);
    quotient = quotient - floor > 0.5 ? floor + 1 : floor;
  } else quotient = a / b < 0 || Object.is(a / b, -0) ? -0 : 0;
  return { quotient, remainder };
}

/** Half to even among integers; `power` is a positive power of ten. */
export function roundInteger(value: bigint, power: bigint): bigint {
  const half = power / 2n;
  let rest = value % power;
  if (rest < 0n) rest += power;
  const down = value - rest;
  if (rest < half || (rest === half && (down / power) % 2n === 0n)) return down;
  return down + power;
}
