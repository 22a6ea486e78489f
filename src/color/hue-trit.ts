// The trit of a color by its HSL hue: [0, 120) is +1, [120, 240) is 0, [240, 360) is -1, grey (hue 0) is +1.
// Decided by comparing channels, so no rounding can move a color that lies on a border.
//
// The hue lies in the third that begins at the primary it passed last:
//   [0, 120)    r >= g >= b (yellowish red), or g > r > b (yellowish green)    g >= b in both
//   [120, 240)  g > r, and b >= r: from green through cyan to before blue
//   [240, 360)  b > g, and r >= g: from blue through magenta to before red

import type { Trit } from '../gf3/trit.ts';

/** r, g, b: integers (or any finite numbers of one scale). */
export function hueTrit(r: number, g: number, b: number): Trit {
  if (r >= g) return g >= b ? 1 : -1;
  return r > b ? 1 : 0;
}

/** `hueTrit` by the three comparisons r < g, g < b, b < r as bits 0, 1, 2: branches on random colors cost more. */
const BY_ORDER = Int8Array.of(1, 0, -1, 0, 1, 1, -1, 0);

/** Bulk form. colors (N,) 0xRRGGBB; out (N,) int8, caller's, returned. */
export function hueTrits(colors: Uint32Array, out: Int8Array): Int8Array {
  for (let i = 0; i < colors.length; i++) {
    const rgb = colors[i]!;
    const r = (rgb >>> 16) & 255;
    const g = (rgb >>> 8) & 255;
    const b = rgb & 255;
    out[i] = BY_ORDER[((r - g) >>> 31) | (((g - b) >>> 31) << 1) | (((b - r) >>> 31) << 2)]!;
  }
  return out;
}
