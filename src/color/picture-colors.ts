// The three colors of pictures of weights. Indices 1, 2, 3 of a seed's stream are what they are: those of the default seed
// have a contrast of 1.1 : 1 between -1 and +1. So pictures are drawn in colors made for them unless a scheme is asked
// for, and the legend names both.

import type { Stream } from './palette.ts';
import { DEFAULT_SCHEME, SCHEMES, type Scheme } from './scheme.ts';
import { type TritColors, tritColors } from './trit-colors.ts';

/** `contrast` is the default of pictures; the others are the schemes of streams. */
export const PICTURE_SCHEMES = ['contrast', ...SCHEMES] as const;
export type PictureScheme = 'contrast' | Scheme;

/**
 * Dark blue, near white and orange: three steps of lightness, so that they differ in print and without any color vision,
 * and a pair of hues that every kind of it tells apart. 0 is the lightest: what is not there recedes.
 */
export const CONTRAST_COLORS: TritColors<{ readonly hex: string }> = {
  minus: { hex: '#0A1C66' },
  ergodic: { hex: '#F4F0E6' },
  plus: { hex: '#CD5B0A' },
};

export type PictureColors = {
  /** What is drawn. */
  readonly colors: TritColors<{ readonly hex: string }>;
  readonly scheme: PictureScheme;
  readonly seed: bigint;
  /** Named beside it in the legend: the seed's own colors, when those drawn are others. */
  readonly seedColors?: TritColors<{ readonly hex: string }>;
};

export function pictureColors({
  seed,
  scheme = 'contrast',
}: Pick<Stream, 'seed'> & { readonly scheme?: PictureScheme }): PictureColors {
  if (scheme !== 'contrast') return { colors: tritColors({ seed, scheme }), scheme, seed };
  return { colors: CONTRAST_COLORS, scheme, seed, seedColors: tritColors({ seed, scheme: DEFAULT_SCHEME }) };
}
