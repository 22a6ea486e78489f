// The colors of pictures: who can tell them apart.

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { contrastRatio, relativeLuminance } from '../../src/color/contrast.ts';
import { CONTRAST_COLORS, PICTURE_SCHEMES, pictureColors } from '../../src/color/picture-colors.ts';
import { inkOn } from '../../src/color/terminal.ts';

describe('contrast after WCAG', () => {
  // Worked by hand, or the numbers that WCAG's own pages give.
  test.each([
    ['#000000', '#FFFFFF', 21],
    ['#777777', '#FFFFFF', 4.48],
    ['#767676', '#FFFFFF', 4.54],
    ['#FF0000', '#FFFFFF', 4.0],
    ['#0000FF', '#FFFFFF', 8.59],
    ['#123456', '#123456', 1],
  ])('%s on %s: %f : 1', (a, b, ratio) => {
    expect(contrastRatio(a, b)).toBeCloseTo(ratio, 2);
    expect(contrastRatio(b, a)).toBe(contrastRatio(a, b));
  });

  test('ink on any color is the one of black and white that stands out more', () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 0xffffff }), (packed) => {
        const hex = `#${packed.toString(16).padStart(6, '0').toUpperCase()}`;
        const other = inkOn(hex) === '#000000' ? '#FFFFFF' : '#000000';
        expect(contrastRatio(hex, inkOn(hex))).toBeGreaterThanOrEqual(contrastRatio(hex, other) - 0.02);
        expect(contrastRatio(hex, inkOn(hex))).toBeGreaterThan(4.5);
      }),
    );
  });
});

// ---- a simulation of color blindness of our own: Machado, Oliveira and Fernandes (2009), severity 1, on linear light ----

const BLINDNESS = {
  none: [1, 0, 0, 0, 1, 0, 0, 0, 1],
  protanopia: [0.152286, 1.052583, -0.204868, 0.114503, 0.786281, 0.099216, -0.003882, -0.048116, 1.051998],
  deuteranopia: [0.367322, 0.860646, -0.227968, 0.280085, 0.672501, 0.047413, -0.01182, 0.04294, 0.968881],
  tritanopia: [1.255528, -0.076749, -0.178779, -0.078411, 0.930809, 0.147602, 0.004733, 0.691367, 0.3039],
  // Rods alone see lightness.
  achromatopsia: [0.2126, 0.7152, 0.0722, 0.2126, 0.7152, 0.0722, 0.2126, 0.7152, 0.0722],
} as const;

function seen(hex: string, m: readonly number[]): readonly [number, number, number] {
  const rgb = [1, 3, 5].map((at) => {
    const v = Number.parseInt(hex.slice(at, at + 2), 16) / 255;
    return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  });
  const light = [0, 3, 6].map((row) =>
    Math.min(1, Math.max(0, m[row]! * rgb[0]! + m[row + 1]! * rgb[1]! + m[row + 2]! * rgb[2]!)),
  );
  return light as unknown as readonly [number, number, number];
}

/** Distance in OKLab: 0.02 is just noticeable, 1 is black to white. */
function distance(a: string, b: string, m: readonly number[]): number {
  const lab = (hex: string) => {
    const [r, g, b] = seen(hex, m);
    const [l, c, s] = [
      0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b,
      0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b,
      0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b,
    ].map(Math.cbrt) as [number, number, number];
    return [
      0.2104542553 * l + 0.793617785 * c - 0.0040720468 * s,
      1.9779984951 * l - 2.428592205 * c + 0.4505937099 * s,
      0.0259040371 * l + 0.7827717662 * c - 0.808675766 * s,
    ];
  };
  const [x, y] = [lab(a), lab(b)];
  return Math.hypot(...x.map((value, i) => value - y[i]!));
}

describe('colors of pictures', () => {
  const { minus, ergodic, plus } = CONTRAST_COLORS;
  const PAIRS = [
    ['-1 and +1', minus.hex, plus.hex],
    ['-1 and 0', minus.hex, ergodic.hex],
    ['0 and +1', ergodic.hex, plus.hex],
  ] as const;

  test('are these', () => {
    expect([minus.hex, ergodic.hex, plus.hex]).toEqual(['#0A1C66', '#F4F0E6', '#CD5B0A']);
    expect(relativeLuminance(minus.hex)).toBeLessThan(relativeLuminance(plus.hex));
    expect(relativeLuminance(plus.hex)).toBeLessThan(relativeLuminance(ergodic.hex));
  });

  test.each([
    [PAIRS[0], 3.72],
    [PAIRS[1], 13.46],
    [PAIRS[2], 3.59],
  ])('%j differ in contrast, at least 3 : 1 as WCAG asks of graphics', ([, a, b], ratio) => {
    expect(contrastRatio(a, b)).toBeCloseTo(ratio, 1);
    expect(contrastRatio(a, b)).toBeGreaterThan(3);
  });

  test.each(Object.entries(BLINDNESS))('%s: every two of them are far apart', (_, matrix) => {
    for (const [name, a, b] of PAIRS) expect(distance(a, b, matrix), name).toBeGreaterThan(0.25);
  });

  test('those of the default seed are not: that is why pictures have their own', () => {
    const { colors } = pictureColors({ seed: 1069n, scheme: 'trace' });
    expect(contrastRatio(colors.minus.hex, colors.plus.hex)).toBeCloseTo(1.11, 2);
    expect(distance(colors.minus.hex, colors.plus.hex, BLINDNESS.achromatopsia)).toBeLessThan(0.05);
  });

  test('a scheme that is asked for is drawn as it is; contrast names the seed beside', () => {
    expect(PICTURE_SCHEMES).toEqual(['contrast', 'trace', 'gay-mcp', 'gay.jl']);
    const plain = pictureColors({ seed: 1069n, scheme: 'gay-mcp' });
    expect([plain.colors.minus.hex, plain.colors.ergodic.hex, plain.colors.plus.hex]).toEqual([
      '#E67F86',
      '#D06546',
      '#1316BB',
    ]);
    expect(plain.seedColors).toBeUndefined();
    const { colors, seedColors, scheme } = pictureColors({ seed: 1069n });
    expect(colors).toBe(CONTRAST_COLORS);
    expect(scheme).toBe('contrast');
    expect([seedColors?.minus.hex, seedColors?.ergodic.hex, seedColors?.plus.hex]).toEqual([
      '#6404C3',
      '#EB6AF7',
      '#7F1747',
    ]);
  });
});
