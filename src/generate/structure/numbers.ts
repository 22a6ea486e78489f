// Numbers of a range as the bytes that spell them: digits that stay within their bounds, place by place.
//
// Sizes are those that survive being read as a double: at most 15 digits before the point unless a bound asks for more.

import type { AutomatonBuilder, NodeId } from './automaton.ts';
import { overLimit } from './structure-error.ts';

export type Bounds = {
  readonly least: number;
  readonly most: number;
  /** Whether the bound itself is out. */
  readonly overLeast: boolean;
  readonly underMost: boolean;
};

const LARGEST = 10n ** 15n - 1n;
/** Digits behind a point. */
const FRACTION = 6;
const FREE_FRACTION = 15;
const MAX_DIGITS = 400;
const MAX_DIVISOR = 1000;
const MAX_PLACES = 200_000;

/** Whole numbers within the bounds, multiples of `divisor`. */
export function writeIntegers(
  builder: AutomatonBuilder,
  bounds: Bounds,
  divisor: number,
  from: NodeId,
  to: NodeId,
): void {
  if (divisor > MAX_DIVISOR) throw overLimit('as multipleOf', MAX_DIVISOR);
  const [low, high] = wholeBounds(bounds);
  writeWhole(builder, { low, high, divisor, decimals: 0 }, from, to);
}

/** Numbers with or without a fraction within the bounds. */
export function writeNumbers(builder: AutomatonBuilder, bounds: Bounds, from: NodeId, to: NodeId): void {
  const { least, most } = bounds;
  if (least === Number.NEGATIVE_INFINITY && most === Number.POSITIVE_INFINITY) {
    writeFree(builder, from, to);
    return;
  }
  const [low, high] = wholeBounds(bounds);
  writeWhole(builder, { low, high, divisor: 1, decimals: 0 }, from, to);
  // n.fff lies between n and n + 1, -n.fff between -n - 1 and -n.
  const positive = { low: max(0n, low), high: scaled(bounds, 'most', 0, { inclusive: true }, high + 1n) - 1n };
  const negative = { low: max(0n, -high), high: -scaled(bounds, 'least', 0, { inclusive: true }, low - 1n) - 1n };
  for (const [sign, range] of [
    ['', positive],
    ['-', negative],
  ] as const) {
    if (range.low > range.high) continue;
    const digits = builder.node();
    const point = builder.node();
    builder.text(from, sign, digits);
    writeDigits(builder, { ...range, divisor: 1, decimals: 0 }, digits, point);
    writeFraction(builder, point, to, FRACTION);
  }
  // Narrow bounds: as many digits behind the point as there is room for some numbers.
  if (!Number.isFinite(least) || !Number.isFinite(most) || most - least >= 100) return;
  for (let decimals = 1; decimals <= 20; decimals++) {
    const lowest = scaled(bounds, 'least', decimals, { inclusive: !bounds.overLeast }, 0n);
    const highest = scaled(bounds, 'most', decimals, { inclusive: !bounds.underMost }, 0n);
    if (highest - lowest < 9n && decimals < 20) continue;
    writeWhole(builder, { low: lowest, high: highest, divisor: 1, decimals }, from, to);
    return;
  }
}

function writeFree(builder: AutomatonBuilder, from: NodeId, to: NodeId): void {
  const [digits, point, exponent] = [builder.node(), builder.node(), builder.node()];
  builder.nothing(from, digits);
  builder.text(from, '-', digits);
  writeDigits(builder, { low: 0n, high: LARGEST, divisor: 1, decimals: 0 }, digits, point);
  builder.nothing(point, exponent);
  writeFraction(builder, point, exponent, FREE_FRACTION);
  builder.nothing(exponent, to);
  // Two digits of an exponent cannot lead out of the range of a double.
  const [sign, first, second] = [builder.node(), builder.node(), builder.node()];
  for (const letter of ['e', 'E']) builder.text(exponent, letter, sign);
  builder.nothing(sign, first);
  for (const text of ['+', '-']) builder.text(sign, text, first);
  builder.bytes(first, 0x30, 0x39, second);
  builder.nothing(second, to);
  builder.bytes(second, 0x30, 0x39, to);
}

function writeFraction(builder: AutomatonBuilder, from: NodeId, to: NodeId, most: number): void {
  let at = builder.node();
  builder.text(from, '.', at);
  for (let i = 0; i < most; i++) {
    const next = builder.node();
    builder.bytes(at, 0x30, 0x39, next);
    builder.nothing(next, to);
    at = next;
  }
}

type Whole = {
  readonly low: bigint;
  readonly high: bigint;
  readonly divisor: number;
  /** So many of the last digits stand behind a point. */
  readonly decimals: number;
};

function writeWhole(builder: AutomatonBuilder, { low, high, ...rest }: Whole, from: NodeId, to: NodeId): void {
  if (high >= 0n) writeDigits(builder, { low: max(0n, low), high, ...rest }, from, to);
  if (low < 0n) {
    const digits = builder.node();
    builder.text(from, '-', digits);
    writeDigits(builder, { low: max(1n, -high), high: -low, ...rest }, digits, to);
  }
}

/** From `low` (0 or more) to `high`, without zeros in front. */
function writeDigits(
  builder: AutomatonBuilder,
  { low, high, divisor, decimals }: Whole,
  from: NodeId,
  to: NodeId,
): void {
  if (low > high) return;
  const longest = Math.max(high.toString().length, decimals + 1);
  if (longest > MAX_DIGITS) throw overLimit('digits of a number', MAX_DIGITS);
  // Each length has places for every digit and rest.
  if (divisor > 1 && (longest * longest * divisor) / 2 > MAX_PLACES) throw overLimit('places of a number', MAX_PLACES);
  for (let length = Math.max(low.toString().length, decimals + 1); length <= longest; length++) {
    const least = length === decimals + 1 ? 0n : 10n ** BigInt(length - 1);
    const first = max(low, least).toString().padStart(length, '0');
    const last = min(high, 10n ** BigInt(length) - 1n)
      .toString()
      .padStart(length, '0');
    const nodes = new Map<string, NodeId>();
    /** The node before digit `at`: whether all so far are those of the bounds, and what is left of a division. */
    const node = (at: number, isFirst: boolean, isLast: boolean, rest: number): NodeId => {
      const key = `${at} ${isFirst} ${isLast} ${rest}`;
      const known = nodes.get(key);
      if (known !== undefined) return known;
      const made = builder.node();
      nodes.set(key, made);
      if (at === length) {
        if (rest === 0) builder.nothing(made, to);
        return made;
      }
      let digits = made;
      if (at === length - decimals && decimals > 0) {
        digits = builder.node();
        builder.text(made, '.', digits);
      }
      const lowest = isFirst ? Number(first[at]) : 0;
      const highest = isLast ? Number(last[at]) : 9;
      for (let digit = lowest; digit <= highest; digit++) {
        const next = node(
          at + 1,
          isFirst && digit === lowest,
          isLast && digit === highest,
          (10 * rest + digit) % divisor,
        );
        builder.bytes(digits, 0x30 + digit, 0x30 + digit, next);
      }
      return made;
    };
    builder.nothing(from, node(0, true, true, 0));
  }
}

/** The whole numbers between, without a bound 15 digits more than the other asks for. */
function wholeBounds(bounds: Bounds): [bigint, bigint] {
  const low = scaled(bounds, 'least', 0, { inclusive: !bounds.overLeast }, -LARGEST);
  const high = scaled(bounds, 'most', 0, { inclusive: !bounds.underMost }, LARGEST);
  return [
    Number.isFinite(bounds.least) ? low : min(low, high - LARGEST),
    Number.isFinite(bounds.most) ? high : max(high, low + LARGEST),
  ];
}

/** A bound times 10^decimals, to the next whole number within it; `free` where there is none. */
function scaled(
  bounds: Bounds,
  side: 'least' | 'most',
  decimals: number,
  { inclusive }: { readonly inclusive: boolean },
  free: bigint,
): bigint {
  const bound = bounds[side];
  if (!Number.isFinite(bound)) return free;
  // The shortest decimal that reads as this double is what the schema says.
  const [, sign, whole, fraction = '', exponent = '0'] = /^(-?)(\d+)(?:\.(\d+))?(?:e([+-]\d+))?$/.exec(String(bound))!;
  const digits = BigInt(`${whole}${fraction}`) * (sign === '-' ? -1n : 1n);
  const shift = Number(exponent) - fraction.length + decimals;
  if (shift >= 0) {
    const exact = digits * 10n ** BigInt(shift);
    return inclusive ? exact : side === 'least' ? exact + 1n : exact - 1n;
  }
  const unit = 10n ** BigInt(-shift);
  const floor = digits / unit - (digits < 0n && digits % unit !== 0n ? 1n : 0n);
  const isExact = digits % unit === 0n;
  if (side === 'most') return isExact && !inclusive ? floor - 1n : floor;
  return isExact && inclusive ? floor : floor + 1n;
}

const max = (a: bigint, b: bigint) => (a > b ? a : b);
const min = (a: bigint, b: bigint) => (a < b ? a : b);
