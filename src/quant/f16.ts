// IEEE half precision (5 exponent bits, 10 fraction bits) to float32 and back, on the bits.

import { elementsOf } from './bytes.ts';

/** Bits of the float32 equal to the half `h`; denormals become normal, NaN payloads are kept. */
export function f16BitsToF32Bits(h: number): number {
  const sign = (h & 0x8000) << 16;
  const exponent = (h >>> 10) & 31;
  const fraction = h & 0x3ff;
  if (exponent === 31) return (sign | 0x7f800000 | (fraction << 13)) >>> 0;
  if (exponent !== 0) return (sign | ((exponent + 112) << 23) | (fraction << 13)) >>> 0;
  if (fraction === 0) return sign >>> 0;
  // A denormal is fraction * 2^-24: move its top bit (at position 31 - clz) to the implicit place.
  const top = 31 - Math.clz32(fraction);
  return (sign | ((top + 103) << 23) | ((fraction << (23 - top)) & 0x7fffff)) >>> 0;
}

/** Bits of the half nearest to the float32 with bits `u`: ties to even, overflow to infinity, NaN stays NaN. */
export function f32BitsToF16Bits(u: number): number {
  const sign = (u >>> 16) & 0x8000;
  const abs = u & 0x7fffffff;
  if (abs > 0x7f800000) return sign | 0x7e00 | ((abs >>> 13) & 0x1ff);
  // 65520 lies halfway between the largest half (65504) and the next power of two.
  if (abs >= 0x477ff000) return sign | 0x7c00;
  if (abs >= 0x38800000) {
    const rebased = abs - 0x38000000;
    return sign | ((rebased + 0xfff + ((rebased >>> 13) & 1)) >>> 13);
  }
  // Half of the smallest denormal (2^-25) is a tie with zero, the even one.
  if (abs <= 0x33000000) return sign;
  const shift = 126 - (abs >>> 23);
  const fraction = (abs & 0x7fffff) | 0x800000;
  const kept = fraction >>> shift;
  const rest = fraction & ((1 << shift) - 1);
  const half = 1 << (shift - 1);
  return sign | (rest > half || (rest === half && (kept & 1) === 1) ? kept + 1 : kept);
}

// All 65536 halves as float32 bits, made on first use: a lookup is several times faster than the branches above.
let table: Uint32Array | undefined;

function f16Table(): Uint32Array {
  if (table === undefined) {
    table = new Uint32Array(65536);
    for (let h = 0; h < 65536; h++) table[h] = f16BitsToF32Bits(h);
  }
  return table;
}

/** Widens little-endian f16; exact for every pattern. */
export function f16ToF32(bytes: Uint8Array): Float32Array<ArrayBuffer> {
  const halves = elementsOf(bytes, Uint16Array);
  const wide = f16Table();
  const bits = new Uint32Array(halves.length);
  for (let i = 0; i < halves.length; i++) bits[i] = wide[halves[i]!]!;
  return new Float32Array(bits.buffer);
}

/** Rounds to nearest, ties to even; overflow gives infinity; a NaN stays a (quiet) NaN. */
export function f32ToF16(values: Float32Array): Uint8Array<ArrayBuffer> {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const halves = new Uint16Array(values.length);
  for (let i = 0; i < bits.length; i++) halves[i] = f32BitsToF16Bits(bits[i]!);
  return new Uint8Array(halves.buffer);
}
