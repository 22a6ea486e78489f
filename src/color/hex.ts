// Colors packed as 0xRRGGBB and written as "#RRGGBB".

import { ArgumentError } from '../errors.ts';

const BYTES = Array.from({ length: 256 }, (_, byte) => byte.toString(16).padStart(2, '0').toUpperCase());

/** "#RRGGBB" of 0xRRGGBB. */
export function hexOf(packed: number): string {
  return `#${BYTES[(packed >>> 16) & 255]}${BYTES[(packed >>> 8) & 255]}${BYTES[packed & 255]}`;
}

/** 0xRRGGBB of "#RRGGBB", upper or lower case. Throws ArgumentError for any other text. */
export function packedOf(hex: string): number {
  if (!/^#[0-9a-fA-F]{6}$/.test(hex)) {
    throw new ArgumentError({ what: `"${hex.slice(0, 20)}" is not a color`, fix: 'write it as #RRGGBB' });
  }
  return Number.parseInt(hex.slice(1), 16);
}
