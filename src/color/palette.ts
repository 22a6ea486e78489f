// Colors by (seed, index) in any scheme: one, a run of them, or an endless stream.

import { ArgumentError } from '../errors.ts';
import { MAX_SEED } from '../random/seed.ts';
import { Uint64 } from '../random/uint64.ts';
import { type Color, describeColor } from './color.ts';
import { gayJlColor } from './gay-jl.ts';
import { channelSumTrit, GayMcpWalk } from './gay-mcp.ts';
import { hueTrit } from './hue-trit.ts';
import { checkIndex, checkScheme, DEFAULT_SCHEME, FIRST_INDEX, maxIndexOf, type Scheme } from './scheme.ts';
import { traceColor } from './trace.ts';

export type Stream = { readonly seed: bigint; readonly scheme?: Scheme };

function checkSeed(seed: bigint): void {
  if (typeof seed !== 'bigint' || seed < 0n || seed > MAX_SEED) {
    throw new ArgumentError({
      what: `seed must be a bigint from 0 to 2^64-1, got ${String(seed).slice(0, 40)}`,
      fix: 'parse seeds from outside with parseSeed',
    });
  }
}

/** The color of one index >= 0. O(1), but O(index) in scheme gay-mcp. Throws ArgumentError past the scheme's limit. */
export function colorAt({ seed, index, scheme = DEFAULT_SCHEME }: Stream & { readonly index: number }): Color {
  const [color] = palette({ seed, start: index, n: 1, scheme });
  return color!;
}

/**
 * The colors from index `start` on, without end: what a generation takes one of per token. Scheme gay-mcp goes on from
 * where it stands. Throws ArgumentError at once for bad arguments, and when it is asked past the scheme's limit.
 */
export function colorStream({
  seed,
  start = FIRST_INDEX,
  scheme = DEFAULT_SCHEME,
}: Stream & { readonly start?: number }): Generator<Color, never, void> {
  checkSeed(seed);
  checkScheme(scheme);
  checkIndex(start, scheme, 'start');
  return walk(packedSource(seed, start, scheme), start, scheme);
}

/** A function that gives the 0xRRGGBB of `start`, `start + 1`, ...; it must be called once for every index in turn. */
function packedSource(seed: bigint, start: number, scheme: Scheme): (index: number) => number {
  const register = Uint64.from(seed);
  if (scheme === 'trace') return (index) => traceColor(register, index);
  if (scheme === 'gay.jl') return (index) => gayJlColor(register, index);
  const splits = new GayMcpWalk(seed).advance(start);
  let at = start;
  return (index) => {
    splits.advance(index - at);
    at = index;
    return splits.color();
  };
}

/** Scheme gay-mcp takes the trit of the channels' sum, the others that of the hue. */
function describe(packed: number, index: number, scheme: Scheme): Color {
  const r = (packed >>> 16) & 255;
  const g = (packed >>> 8) & 255;
  const b = packed & 255;
  return describeColor({ packed, index, trit: scheme === 'gay-mcp' ? channelSumTrit(r, g, b) : hueTrit(r, g, b) });
}

function* walk(packedAt: (index: number) => number, start: number, scheme: Scheme): Generator<Color, never, void> {
  for (let index = start; ; index++) {
    checkIndex(index, scheme);
    yield describe(packedAt(index), index, scheme);
  }
}

/** The colors of indices start .. start + n - 1, n >= 0. Throws ArgumentError if one is past the scheme's limit. */
export function palette({
  seed,
  start = FIRST_INDEX,
  n,
  scheme = DEFAULT_SCHEME,
}: Stream & { readonly start?: number; readonly n: number }): Color[] {
  checkSeed(seed);
  checkScheme(scheme);
  if (!Number.isSafeInteger(n) || n < 0) {
    throw new ArgumentError({ what: `n must be an integer, 0 or more, got ${n}`, fix: 'pass how many colors to give' });
  }
  checkIndex(start, scheme, n === 1 ? 'index' : 'start');
  const room = maxIndexOf(scheme) - start + 1;
  if (n > room) {
    throw new ArgumentError({
      what: `${n} colors from index ${start} end past the largest index ${maxIndexOf(scheme)} of scheme ${scheme}`,
      fix: `ask for at most ${room} from there, or start earlier`,
    });
  }
  const packedAt = packedSource(seed, start, scheme);
  const colors: Color[] = [];
  for (let i = 0; i < n; i++) colors.push(describe(packedAt(start + i), start + i, scheme));
  return colors;
}
