// How far apart two colors are for a reader: contrast after WCAG 2.2 ("relative luminance" and "contrast ratio").

import { packedOf } from './hex.ts';
import { linearLight } from './oklch.ts';

/** 0 (black) to 1 (white); `hex` is "#RRGGBB". */
export function relativeLuminance(hex: string): number {
  const packed = packedOf(hex);
  return (
    0.2126 * linearLight(packed >>> 16) +
    0.7152 * linearLight((packed >>> 8) & 255) +
    0.0722 * linearLight(packed & 255)
  );
}

/** 1 (no difference) to 21 (black on white). WCAG wants 3 for shapes and large text, 4.5 for text. */
export function contrastRatio(a: string, b: string): number {
  const [dark, light] = [relativeLuminance(a), relativeLuminance(b)].sort((x, y) => x - y) as [number, number];
  return (light + 0.05) / (dark + 0.05);
}
