// The float32 arithmetic that every backend reproduces bit for bit. JavaScript computes in double; `Math.fround`
// after each single operation gives the correctly rounded float32 result of +, -, *, / and sqrt (a double has more
// than twice the bits, so rounding twice is harmless).

const fround = Math.fround;

/** Lanes of every float reduction; see EXACTNESS in `program.ts`. */
export const LANES = 16;

/** Adding and subtracting 1.5 * 2^23 rounds a float32 of magnitude below 2^22 to an integer, half to even. */
const ROUND_MAGIC = 12582912;

/**
 * Round to an integer, half to even, of a float32 value with |x| < 2^22 (`Math.round` rounds halves up).
 * Larger values are outside what activation and weight quantization produce.
 */
export function rintF32(x: number): number {
  return fround(fround(x + ROUND_MAGIC) - ROUND_MAGIC);
}

/** Folds the 16 lanes, in place: 8..15 onto 0..7, 4..7 onto 0..3, 2..3 onto 0..1, 1 onto 0. */
export function foldLanes(lanes: Float32Array): number {
  for (let half = LANES / 2; half >= 1; half /= 2) {
    for (let i = 0; i < half; i += 1) lanes[i] = lanes[i]! + lanes[i + half]!;
  }
  return lanes[0]!;
}

// A Float32Array element rounds on store, so `lanes[i] = lanes[i] + fround(a * b)` is one product and one sum, each
// rounded once.
const lanes = new Float32Array(LANES);

/** laneSum of x[xAt + i] * y[yAt + i], i < n. */
export function laneDot(x: Float32Array, xAt: number, y: Float32Array, yAt: number, n: number): number {
  lanes.fill(0);
  const whole = n - (n % LANES);
  for (let base = 0; base < whole; base += LANES) {
    for (let lane = 0; lane < LANES; lane += 1) {
      lanes[lane] = lanes[lane]! + fround(x[xAt + base + lane]! * y[yAt + base + lane]!);
    }
  }
  for (let i = whole; i < n; i += 1) lanes[i - whole] = lanes[i - whole]! + fround(x[xAt + i]! * y[yAt + i]!);
  return foldLanes(lanes);
}

/** laneSum of x[xAt + i], i < n. */
export function laneSum(x: Float32Array, xAt: number, n: number): number {
  lanes.fill(0);
  for (let i = 0; i < n; i += 1) lanes[i % LANES] = lanes[i % LANES]! + x[xAt + i]!;
  return foldLanes(lanes);
}

/** laneSum of |x[xAt + i]|, i < n. */
export function laneSumAbs(x: Float32Array, xAt: number, n: number): number {
  lanes.fill(0);
  for (let i = 0; i < n; i += 1) lanes[i % LANES] = lanes[i % LANES]! + Math.abs(x[xAt + i]!);
  return foldLanes(lanes);
}

// exp(x) = 2^n * exp(r), n = rint(x / ln 2), r = x - n ln 2 in two steps (Cody and Waite), |r| <= ln(2)/2. exp(r)
// is its Taylor polynomial of degree 7 (next term: 6e-9), by Horner's rule. Error: under 2 units in the last place.
const LOG2E = fround(Math.LOG2E);
// ln 2 = HIGH + LOW; HIGH has few bits, so n * HIGH is exact for |n| < 2^9.
const LN2_HIGH = 0.693359375;
const LN2_LOW = fround(Math.LN2 - LN2_HIGH);
const P7 = fround(1 / 5040);
const P6 = fround(1 / 720);
const P5 = fround(1 / 120);
const P4 = fround(1 / 24);
const P3 = fround(1 / 6);
/** Above: exp overflows float32. */
const EXP_MAX = fround(88.72283);
/** Below: the result would be subnormal; it is flushed to 0, so that no backend's handling of subnormals matters. */
const EXP_MIN = fround(-87.33654);

const powerBits = new Int32Array(1);
const power = new Float32Array(powerBits.buffer);

/** exp(x) of a float32, in multiply and add only. x > 88.72283: infinity; x < -87.33654: 0; NaN: NaN. */
export function expF32(x: number): number {
  if (!(x <= EXP_MAX)) return x > EXP_MAX ? Infinity : Number.NaN;
  if (x < EXP_MIN) return 0;
  const n = rintF32(fround(x * LOG2E));
  const r = fround(fround(x - fround(n * LN2_HIGH)) - fround(n * LN2_LOW));
  let p = P7;
  p = fround(fround(p * r) + P6);
  p = fround(fround(p * r) + P5);
  p = fround(fround(p * r) + P4);
  p = fround(fround(p * r) + P3);
  p = fround(fround(p * r) + 0.5);
  p = fround(fround(p * r) + 1);
  p = fround(fround(p * r) + 1);
  // n reaches 128 at the upper end, which is not an exponent of a finite float32: scale in two steps.
  const half = n >> 1;
  powerBits[0] = (half + 127) << 23;
  const y = fround(p * power[0]!);
  powerBits[0] = (n - half + 127) << 23;
  return fround(y * power[0]!);
}

/** 1 / (1 + exp(-x)). */
export function sigmoidF32(x: number): number {
  return fround(1 / fround(1 + expF32(-x)));
}

// log(1 + u) = 2 artanh(s), s = u / (2 + u), for 0 <= u <= 1: s <= 1/3, and 2 s (1 + z/3 + z^2/5 + ...), z = s^2, up to
// z^8 (next term: 3e-10 of the result), by Horner's rule.
const ARTANH = [17, 15, 13, 11, 9, 7, 5, 3].map((odd) => fround(1 / odd));

/** log(1 + exp(x)) = max(x, 0) + log(1 + exp(-|x|)). NaN: NaN. */
export function softplusF32(x: number): number {
  const u = expF32(-Math.abs(x));
  const s = fround(u / fround(2 + u));
  const z = fround(s * s);
  let p = ARTANH[0]!;
  for (let i = 1; i < ARTANH.length; i += 1) p = fround(fround(p * z) + ARTANH[i]!);
  p = fround(fround(p * z) + 1);
  return fround(Math.max(x, 0) + fround(fround(s + s) * p));
}
