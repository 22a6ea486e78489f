import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { hexOf, packedOf } from '../../src/color/hex.ts';
import { hslToRgb, rgbToHsl } from '../../src/color/hsl.ts';
import { hueTrit, hueTrits } from '../../src/color/hue-trit.ts';
import { channelOfLinearLight, linearLight, rgbToOklch } from '../../src/color/oklch.ts';
import { ArgumentError } from '../../src/errors.ts';

const byte = fc.integer({ min: 0, max: 255 });

/** The hue as a fraction numerator / denominator of a turn's 1/6, in integers: an independent decision. */
function tritByFraction(r: number, g: number, b: number): number {
  const max = Math.max(r, g, b);
  const d = max - Math.min(r, g, b);
  if (d === 0) return 1;
  let sextants = max === r ? g - b : max === g ? b - r + 2 * d : r - g + 4 * d; // times d
  if (sextants < 0) sextants += 6 * d;
  return sextants < 2 * d ? 1 : sextants < 4 * d ? 0 : -1;
}

describe('hue trit', () => {
  test('equals the exact fraction for every color of a grid with all orders and ties', () => {
    const levels = [0, 1, 2, 3, 84, 85, 127, 128, 170, 254, 255];
    for (const r of levels) {
      for (const g of levels) {
        for (const b of levels) {
          expect(hueTrit(r, g, b), `${r} ${g} ${b}`).toBe(tritByFraction(r, g, b));
          const [bulk] = hueTrits(Uint32Array.of((r << 16) | (g << 8) | b), new Int8Array(1));
          expect(bulk, `${r} ${g} ${b}`).toBe(tritByFraction(r, g, b));
        }
      }
    }
  });

  test('borders and their neighbours', () => {
    expect(hueTrit(255, 0, 0)).toBe(1); // 0
    expect(hueTrit(255, 0, 1)).toBe(-1); // just below 360
    expect(hueTrit(0, 255, 0)).toBe(0); // 120
    expect(hueTrit(1, 255, 0)).toBe(1);
    expect(hueTrit(0, 0, 255)).toBe(-1); // 240
    expect(hueTrit(0, 1, 255)).toBe(0);
    expect(hueTrit(7, 7, 7)).toBe(1);
  });
});

describe('HSL', () => {
  test('pins', () => {
    expect(rgbToHsl(1, 0, 0)).toEqual({ h: 0, s: 1, l: 0.5 });
    expect(rgbToHsl(0, 1, 1)).toEqual({ h: 180, s: 1, l: 0.5 });
    expect(rgbToHsl(1, 0, 1)).toEqual({ h: 300, s: 1, l: 0.5 });
    expect(rgbToHsl(1, 1, 1)).toEqual({ h: 0, s: 0, l: 1 });
    expect(rgbToHsl(0, 0, 0)).toEqual({ h: 0, s: 0, l: 0 });
  });

  test('back to the same bytes', () => {
    fc.assert(
      fc.property(byte, byte, byte, (r, g, b) => {
        const hsl = rgbToHsl(r / 255, g / 255, b / 255);
        expect(hsl.h >= 0 && hsl.h < 360 && hsl.s >= 0 && hsl.s <= 1 + 1e-12).toBe(true);
        expect(hslToRgb(hsl).map((v) => Math.round(255 * v) + 0)).toEqual([r, g, b]);
      }),
    );
  });
});

describe('OKLCH', () => {
  // Values of sRGB's corners as other implementations publish them.
  test.each([
    [[255, 0, 0], 0.62796, 0.25768, 29.234],
    [[0, 255, 0], 0.86644, 0.29483, 142.495],
    [[0, 0, 255], 0.45201, 0.31321, 264.052],
    [[255, 255, 0], 0.96798, 0.21101, 109.769],
  ] as const)('%j', ([r, g, b], l, c, h) => {
    const color = rgbToOklch(r, g, b);
    expect(color.l).toBeCloseTo(l, 4);
    expect(color.c).toBeCloseTo(c, 4);
    expect(color.h).toBeCloseTo(h, 2);
  });

  test('greys have no chroma and no hue, and white has lightness 1', () => {
    for (let v = 0; v < 256; v++) expect(rgbToOklch(v, v, v)).toMatchObject({ c: 0, h: 0 });
    expect(rgbToOklch(255, 255, 255).l).toBeCloseTo(1, 6);
    expect(rgbToOklch(0, 0, 0).l).toBe(0);
  });

  test('linear light and back, every channel', () => {
    for (let v = 0; v < 256; v++) expect(channelOfLinearLight(linearLight(v))).toBe(v);
  });
});

describe('hex', () => {
  test('round trip', () => {
    fc.assert(fc.property(fc.nat(0xffffff), (packed) => packedOf(hexOf(packed)) === packed));
    expect(hexOf(0x00a0ff)).toBe('#00A0FF');
    expect(packedOf('#00a0ff')).toBe(0x00a0ff);
  });

  test.each(['', '#FFF', '00A0FF', '#00A0FG', '#00A0FF '])('refuses "%s"', (text) => {
    expect(() => packedOf(text)).toThrow(ArgumentError);
  });
});
