// Scheme `gay.jl`: h = splitmix64(seed XOR index * GAMMA), its three lowest bytes are r, g, b; trit by hue.
// Source: `hash_color` of Gay.jl 0.4. Random access.

import { GAMMA_HI, GAMMA_LO, mix64InPlace } from '../random/splitmix64.ts';
import { Uint64 } from '../random/uint64.ts';

/** 0xRRGGBB. index is a safe integer >= 0. */
export function gayJlColor(seed: Uint64, index: number): number {
  const mixed = Uint64.fromNumber(index).multiply(GAMMA_HI, GAMMA_LO).xor(seed.hi, seed.lo).add(GAMMA_HI, GAMMA_LO);
  const low = mix64InPlace(mixed).lo;
  // The lowest byte is red, where 0xRRGGBB wants it highest.
  return ((low & 0xff) << 16) | (low & 0xff00) | ((low >>> 16) & 0xff);
}
