// bfloat16: the upper half of a float32 (8 exponent bits, 7 fraction bits).

import { elementsOf } from './bytes.ts';

/** Widens little-endian bf16; exact for every pattern, NaN payloads included. */
export function bf16ToF32(bytes: Uint8Array): Float32Array<ArrayBuffer> {
  const halves = elementsOf(bytes, Uint16Array);
  const bits = new Uint32Array(halves.length);
  for (let i = 0; i < halves.length; i++) bits[i] = halves[i]! << 16;
  return new Float32Array(bits.buffer);
}

/** Rounds to nearest, ties to even; overflow gives infinity; a NaN stays a (quiet) NaN. */
export function f32ToBf16(values: Float32Array): Uint8Array<ArrayBuffer> {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const halves = new Uint16Array(values.length);
  for (let i = 0; i < bits.length; i++) {
    const u = bits[i]!;
    // Rounding a NaN up could carry into the sign; forcing a fraction bit keeps it a NaN when its payload is cut off.
    halves[i] = (u & 0x7fffffff) > 0x7f800000 ? (u >>> 16) | 0x40 : (u + 0x7fff + ((u >>> 16) & 1)) >>> 16;
  }
  return new Uint8Array(halves.buffer);
}
