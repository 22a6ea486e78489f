import fc from 'fast-check';
import { decode } from 'fast-png';
import { expect, test } from 'vitest';
import { ArgumentError } from '../../src/errors.ts';
import { type TracePictureStep, tracePicturePng } from '../../src/image/trace-picture.ts';

function read(png: Uint8Array) {
  const { width, height, data } = decode(png);
  const at = (x: number, y: number) => {
    const from = 3 * (y * width + x);
    return `#${((data[from]! << 16) | (data[from + 1]! << 8) | data[from + 2]!).toString(16).padStart(6, '0').toUpperCase()}`;
  };
  return { width, height, at };
}

const draw = (steps: readonly TracePictureStep[], prompt = '') =>
  tracePicturePng({ title: 't', prompt, steps, summary: 's' });

test('tokens are boxes of their color; below each, a bar as long as it is probable', () => {
  const steps: TracePictureStep[] = [
    { token: 'half', color: '#6404C3', trit: -1, logprob: Math.log(0.5) },
    { token: 'sure', color: '#EB6AF7', trit: -1, logprob: 0 },
    { token: 'untold', color: '#7F1747', trit: -1, logprob: undefined },
  ];
  const { at, width } = read(draw(steps));
  expect(width).toBe(960);
  // Two lines of text, then boxes 26 high; "half" takes 4 x 12 - 2 pixels and 4 on each side, then 2 to the next.
  const top = 20 + 2 * 24 + 8;
  const box = 4 * 12 - 2 + 8;
  expect(at(20, top)).toBe('#6404C3');
  expect(at(20 + box - 1, top + 25)).toBe('#6404C3');
  expect(at(20 + box, top)).toBe('#FBFAF8');
  expect(at(20 + box + 2, top)).toBe('#EB6AF7');
  expect(at(20 + 2 * box + 4, top)).toBe('#7F1747');
  const bar = top + 26 + 3;
  expect([0, box / 2 - 1, box / 2, box - 1].map((x) => at(20 + x, bar))).toEqual([
    '#3B5BDB',
    '#3B5BDB',
    '#E3E1DD',
    '#E3E1DD',
  ]);
  expect(at(20 + 2 * box + 1, bar)).toBe('#3B5BDB');
  expect(at(20 + 2 * box + 4, bar)).toBe('#FBFAF8');
  // Ink that can be read: white on violet, black on pink.
  const inks = (left: number) =>
    new Set(Array.from({ length: box * 26 }, (_, i) => at(left + (i % box), top + Math.floor(i / box))));
  expect(inks(20)).toEqual(new Set(['#6404C3', '#FFFFFF']));
  expect(inks(20 + box + 2)).toEqual(new Set(['#EB6AF7', '#000000']));
});

test('the running sum has a dot wherever it is 0 mod 3', () => {
  const green = (steps: readonly TracePictureStep[]) => {
    const { at, width, height } = read(draw(steps));
    let count = 0;
    for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) if (at(x, y) === '#146C2E') count++;
    return count;
  };
  const steps = (trits: readonly (-1 | 0 | 1)[]) =>
    trits.map((trit) => ({ token: 'a', color: '#FFFFFF', trit, logprob: -1 }));
  const one = green(steps([1, -1]));
  expect(one).toBeGreaterThan(30);
  expect(green(steps([1, 1]))).toBe(0);
  expect(green(steps([1, 1, 1, -1, 1]))).toBe(2 * one);
});

test('any text, short or long, makes a picture of bounded size', () => {
  fc.assert(
    fc.property(
      fc.array(
        fc.record({
          token: fc.string({ unit: 'grapheme', maxLength: 200 }),
          logprob: fc.option(fc.double({ min: -1e300, max: 0, noNaN: true }), { nil: undefined }),
        }),
        { maxLength: 40 },
      ),
      fc.string({ unit: 'grapheme', maxLength: 2000 }),
      (tokens, prompt) => {
        const { width, height } = read(
          draw(
            tokens.map((step) => ({ ...step, color: '#123456', trit: 1 })),
            prompt,
          ),
        );
        expect(width).toBe(960);
        expect(height).toBeLessThan(500 + 60 * (tokens.length + 1));
      },
    ),
    { numRuns: 20 },
  );
  expect(() =>
    draw(Array.from({ length: 100_000 }, () => ({ token: 'word '.repeat(20), color: '#123456', trit: 0, logprob: 0 }))),
  ).toThrow(ArgumentError);
});
