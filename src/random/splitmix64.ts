// splitmix64: the one source of randomness of this project, for colors and for sampling. Two forms with equal
// results: on BigInt for single values, on a `Uint64` register for bulk.
// Source: Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators" (2014); constants of Vigna's variant.

import { Uint64 } from './uint64.ts';

/** 2^64 / golden ratio, made odd: the step of the state. */
export const GAMMA = 0x9e3779b97f4a7c15n;
export const GAMMA_HI = 0x9e3779b9 | 0;
export const GAMMA_LO = 0x7f4a7c15;

const MASK = (1n << 64n) - 1n;

/** The finalizer of splitmix64, without the addition before it. x is taken modulo 2^64. */
export function mix64(x: bigint): bigint {
  let z = x & MASK;
  z = ((z ^ (z >> 30n)) * 0xbf58476d1ce4e5b9n) & MASK;
  z = ((z ^ (z >> 27n)) * 0x94d049bb133111ebn) & MASK;
  return z ^ (z >> 31n);
}

/** One splitmix64 output for the state x, taken modulo 2^64. */
export function splitmix64(x: bigint): bigint {
  return mix64(x + GAMMA);
}

/** `mix64` on a register. */
export function mix64InPlace(z: Uint64): Uint64 {
  return z
    .xorShiftRight(30)
    .multiply(0xbf58476d | 0, 0x1ce4e5b9)
    .xorShiftRight(27)
    .multiply(0x94d049bb | 0, 0x133111eb)
    .xorShiftRight(31);
}

/**
 * A stream of uniform numbers: output k (from 0) is splitmix64(seed + k * GAMMA), so equal seeds give equal streams
 * on every machine. `state` after any draw starts an equal continuation: `new SplitMix64(other.state)`.
 */
export class SplitMix64 {
  readonly #state: Uint64;
  readonly #output = new Uint64();

  /** seed is taken modulo 2^64. */
  constructor(seed: bigint) {
    this.#state = Uint64.from(seed);
  }

  get state(): bigint {
    return this.#state.toBigInt();
  }

  #advance(): Uint64 {
    this.#state.add(GAMMA_HI, GAMMA_LO);
    return mix64InPlace(this.#output.assign(this.#state));
  }

  nextUint64(): bigint {
    return this.#advance().toBigInt();
  }

  /** Uniform in [0, 1): the high 53 bits of one output over 2^53, hence every value a double holds exactly. */
  nextFloat(): number {
    const { hi, lo } = this.#advance();
    return ((hi >>> 0) * 0x20_0000 + (lo >>> 11)) / 0x20_0000_0000_0000;
  }
}
