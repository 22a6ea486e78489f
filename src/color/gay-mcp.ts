// Scheme `gay-mcp`: the colors of the original Gay MCP server. A splittable generator (state s, gamma g) is split once
// per index, child of child, and each child draws hue, saturation and lightness. The chain of splits has no shortcut:
// reaching an index costs O(index), so a palette walks once and draws on the way.

import type { Trit } from '../gf3/trit.ts';
import { GAMMA_HI, GAMMA_LO, mix64InPlace } from '../random/splitmix64.ts';
import { Uint64 } from '../random/uint64.ts';
import { hslToRgb } from './hsl.ts';

/**
 * The largest index. Reaching it takes about 60 ms, which is how long one call may hold up a server's event loop; no
 * sequence that anyone looks at is longer.
 */
export const GAY_MCP_MAX_INDEX = 1_000_000;

/** A gamma with few bit changes makes poor streams; it is repaired below this count (Steele et al. 2014, section 4). */
const MIN_BIT_CHANGES = 24;

function mixGammaInPlace(z: Uint64): Uint64 {
  z.xorShiftRight(33)
    .multiply(0xff51afd7 | 0, 0xed558ccd | 0)
    .xorShiftRight(33)
    .multiply(0xc4ceb9fe | 0, 0x1a85ec53)
    .xorShiftRight(33);
  z.lo |= 1;
  if (z.countBitChanges() < MIN_BIT_CHANGES) z.xor(0xaaaaaaaa | 0, 0xaaaaaaaa | 0);
  return z;
}

/** The low 52 bits over 2^52. */
function uniform52({ hi, lo }: Uint64): number {
  return ((hi & 0xfffff) * 0x1_0000_0000 + (lo >>> 0)) / 0x10_0000_0000_0000;
}

/** The chain of splits of one seed, standing on one index, which only goes up. */
export class GayMcpWalk {
  readonly #state: Uint64;
  readonly #gamma = new Uint64().add(GAMMA_HI, GAMMA_LO);
  readonly #draw = new Uint64();
  readonly #mixed = new Uint64();

  /** Stands on index 0. */
  constructor(seed: bigint) {
    this.#state = Uint64.from(seed);
  }

  /** Goes up by `steps` indices. */
  advance(steps: number): this {
    const state = this.#state;
    const gamma = this.#gamma;
    const next = this.#draw;
    for (let i = 0; i < steps; i++) {
      // Child: state mix64(s + g), gamma mixGamma(s + 2g).
      state.add(gamma.hi, gamma.lo);
      next.assign(state).add(gamma.hi, gamma.lo);
      mix64InPlace(state);
      gamma.assign(mixGammaInPlace(next));
    }
    return this;
  }

  /** 0xRRGGBB at the index where the walk stands; does not move it. */
  color(): number {
    this.#draw.assign(this.#state);
    const h = 360 * this.#uniform();
    const s = 0.5 + 0.4 * this.#uniform();
    const l = 0.35 + 0.4 * this.#uniform();
    const [r, g, b] = hslToRgb({ h, s, l });
    return (Math.round(255 * r) << 16) | (Math.round(255 * g) << 8) | Math.round(255 * b);
  }

  /** The next draw of the generator whose state is in #draw. */
  #uniform(): number {
    this.#draw.add(this.#gamma.hi, this.#gamma.lo);
    return uniform52(mix64InPlace(this.#mixed.assign(this.#draw)));
  }
}

/** This scheme's own rule: ((r + g + b) mod 3) - 1 on 8-bit channels. */
export function channelSumTrit(r: number, g: number, b: number): Trit {
  return (((r + g + b) % 3) - 1) as Trit;
}
