// Scheme `trace`: the low 24 bits of splitmix64(seed + index) read as 0xRRGGBB, trit by hue. Random access.

import { GAMMA_HI, GAMMA_LO, mix64InPlace } from '../random/splitmix64.ts';
import { Uint64 } from '../random/uint64.ts';

/** 0xRRGGBB. index is a safe integer >= 0; seed + index wraps modulo 2^64. */
export function traceColor(seed: Uint64, index: number): number {
  return mix64InPlace(Uint64.fromNumber(index).add(seed.hi, seed.lo).add(GAMMA_HI, GAMMA_LO)).lo & 0xffffff;
}

/**
 * The colors of indices start .. start + out.length - 1, a few ns each and without allocation per color.
 * out (N,) 0xRRGGBB, caller's, returned. `hueTrits` gives their trits.
 */
export function traceColors(
  { seed, start }: { readonly seed: bigint; readonly start: number },
  out: Uint32Array,
): Uint32Array {
  const { hi, lo } = Uint64.from(seed);
  const state = Uint64.fromNumber(start).add(hi, lo).add(GAMMA_HI, GAMMA_LO);
  const mixed = new Uint64();
  for (let i = 0; i < out.length; i++) {
    out[i] = mix64InPlace(mixed.assign(state)).lo & 0xffffff;
    state.add(0, 1);
  }
  return out;
}
