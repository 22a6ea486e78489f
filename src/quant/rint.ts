// Rounding to the nearest integer, ties to the even neighbour: what torch.round, rintf and WGSL's round do.
// Math.round sends every tie upward (Math.round(0.5) is 1), which changes trits and activation codes.

/** 2^52: a double at least this large has no fraction bits, and adding it rounds half to even in hardware. */
const INTEGERS_ONLY = 4503599627370496;

/** x rounded half to even; NaN, infinities and the sign of zero are kept. */
export function rint(x: number): number {
  const magnitude = Math.abs(x);
  if (!(magnitude < INTEGERS_ONLY)) return x;
  const rounded = magnitude + INTEGERS_ONLY - INTEGERS_ONLY;
  return x < 0 || (x === 0 && Object.is(x, -0)) ? -rounded : rounded;
}
