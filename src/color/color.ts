// A color with everything that is read from it. `hex` and `rgb` are exact; `hsl` and `oklch` are for reading and
// rounded to 6 decimals; `trit` never depends on them.

import { type Role, role, type Trit } from '../gf3/trit.ts';
import { hexOf } from './hex.ts';
import { type Hsl, rgbToHsl } from './hsl.ts';
import { type Oklch, rgbToOklch } from './oklch.ts';

export type Color = {
  readonly index: number;
  /** "#RRGGBB", upper case. */
  readonly hex: string;
  /** 8-bit channels. */
  readonly rgb: readonly [r: number, g: number, b: number];
  /** h in degrees [0, 360), s and l in [0, 1]. */
  readonly hsl: Hsl;
  /** l in [0, 1], c >= 0, h in degrees [0, 360). */
  readonly oklch: Oklch;
  readonly trit: Trit;
  readonly role: Role;
};

function rounded(value: number): number {
  return Math.round(value * 1e6) / 1e6;
}

/** Everything that is read from a 0xRRGGBB; the trit comes from the scheme. */
export function describeColor({ packed, index, trit }: { packed: number; index: number; trit: Trit }): Color {
  const r = (packed >>> 16) & 255;
  const g = (packed >>> 8) & 255;
  const b = packed & 255;
  const hsl = rgbToHsl(r / 255, g / 255, b / 255);
  const oklch = rgbToOklch(r, g, b);
  const degrees = rounded(oklch.h);
  return {
    index,
    hex: hexOf(packed),
    rgb: [r, g, b],
    hsl: { h: rounded(hsl.h), s: rounded(hsl.s), l: rounded(hsl.l) },
    oklch: { l: rounded(oklch.l), c: rounded(oklch.c), h: degrees === 360 ? 0 : degrees },
    trit,
    role: role(trit),
  };
}
