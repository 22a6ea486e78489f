import fc from 'fast-check';
import { decode } from 'fast-png';
import { describe, expect, test } from 'vitest';
import { palette } from '../../src/color/palette.ts';
import { tritColors } from '../../src/color/trit-colors.ts';
import { ArgumentError } from '../../src/errors.ts';
import { drawText, encodePng, fillRect, fitText, newCanvas, textWidth } from '../../src/image/canvas.ts';
import { glyphRows } from '../../src/image/font.ts';
import { linePlotPng, roundTicks } from '../../src/image/line-plot.ts';
import { swatchPng } from '../../src/image/swatches.ts';
import { type TritMapOptions, tritMapPng } from '../../src/image/trit-map.ts';

/** Reads a PNG back: size and 0xRRGGBB of a pixel. */
function read(png: Uint8Array) {
  const { width, height, data, palette } = decode(png);
  const at = (x: number, y: number) => {
    const [r, g, b] = palette
      ? palette[data[y * width + x]!]!
      : Array.from(data.subarray(3 * (y * width + x), 3 * (y * width + x) + 3));
    return `#${((r! << 16) | (g! << 8) | b!).toString(16).padStart(6, '0').toUpperCase()}`;
  };
  return { width, height, at };
}

describe('font', () => {
  const printable = Array.from({ length: 95 }, (_, i) => String.fromCharCode(32 + i));

  test('every printable ASCII character has a glyph of its own', () => {
    const shapes = printable.map((character) => glyphRows(character).join());
    expect(new Set(shapes).size).toBe(95);
    expect(shapes).not.toContain(glyphRows('é').join());
  });

  test('A, drawn', () => {
    const rows = glyphRows('A').map((row) =>
      row.toString(2).padStart(5, '0').replaceAll('0', '.').replaceAll('1', '#'),
    );
    expect(rows).toEqual(['.###.', '#...#', '#...#', '#####', '#...#', '#...#', '#...#']);
  });
});

describe('canvas', () => {
  test('text dots land where they should, cut at the edge', () => {
    const canvas = newCanvas({ width: 8, height: 8, palette: [0xffffff, 0] }, 0);
    drawText(canvas, 'LL', { x: 1, y: 1, scale: 1 }, 1);
    const rows = Array.from({ length: 8 }, (_, y) => canvas.data.subarray(8 * y, 8 * y + 8).join(''));
    expect(rows).toEqual([
      '00000000',
      '01000001',
      '01000001',
      '01000001',
      '01000001',
      '01000001',
      '01000001',
      '01111101',
    ]);
  });

  test('rectangles outside the canvas are cut', () => {
    const canvas = newCanvas({ width: 3, height: 2 }, 0x010203);
    fillRect(canvas, { x: -5, y: -5, width: 6, height: 6 }, 0xaabbcc);
    fillRect(canvas, { x: 3, y: 0, width: 9, height: 9 }, 0xffffff);
    const { at } = read(encodePng(canvas));
    expect([at(0, 0), at(1, 0), at(2, 0), at(0, 1)]).toEqual(['#AABBCC', '#010203', '#010203', '#010203']);
  });

  test('fitText keeps what fits and never exceeds the width', () => {
    expect(fitText('abc', 100, 2)).toBe('abc');
    expect(fitText('model.layers.0.q_proj', textWidth('model…_proj', 2), 2)).toBe('model…_proj');
    fc.assert(
      fc.property(
        fc.string({ maxLength: 60 }),
        fc.integer({ min: 6, max: 400 }),
        fc.constantFrom(1, 2),
        (text, width, s) => {
          expect(textWidth(fitText(text, Math.max(width, 5 * s), s), s)).toBeLessThanOrEqual(Math.max(width, 5 * s));
        },
      ),
    );
  });

  test('is a sound PNG, in true color and with a palette', () => {
    for (const palette of [undefined, [0xfbfaf8, 0x1d1d22, 0x0000ff]]) {
      const size = { width: 37, height: 11, ...(palette && { palette }) };
      const canvas = newCanvas(size, palette === undefined ? 0x123456 : 2);
      // Rows that repeat the one above, and one that does not.
      fillRect(canvas, { x: 3, y: 4, width: 5, height: 3 }, 1);
      const { width, height, channels, depth, data } = decode(encodePng(canvas), { checkCrc: true });
      expect({ width, height, channels, depth }).toEqual({
        width: 37,
        height: 11,
        channels: palette ? 1 : 3,
        depth: 8,
      });
      expect(new Uint8Array(data)).toEqual(canvas.data);
    }
  });

  test('too many pixels are refused before they are allocated', () => {
    expect(() => newCanvas({ width: 1e6, height: 1e6 }, 0)).toThrow(ArgumentError);
  });
});

describe('swatches', () => {
  test('cells lie in reading order with their exact colors', () => {
    const colors = palette({ seed: 1069n, n: 12 });
    const { width, height, at } = read(swatchPng(colors, { columns: 5, cell: 20 }));
    expect([width, height]).toEqual([5 * 20 + 24, 3 * 20 + 24]);
    colors.forEach(({ hex }, i) => {
      expect(at(12 + 20 * (i % 5) + 10, 12 + 20 * Math.floor(i / 5) + 10)).toBe(hex);
    });
    expect(at(12 + 20 * 2 + 10, 12 + 20 * 2 + 10)).toBe('#FBFAF8'); // empty cell of the last row
  });

  test('labelled cells keep their color around the text; a caption adds a line', () => {
    const colors = palette({ seed: 1069n, n: 3 });
    const plain = read(swatchPng(colors));
    const captioned = read(swatchPng(colors, { caption: 'seed 1069' }));
    expect(captioned.height).toBeGreaterThan(plain.height);
    expect(colors.map((_, i) => plain.at(16 + 136 * i + 64, 16 + 48))).toEqual(colors.map(({ hex }) => hex));
    const ink = new Set<string>();
    for (let x = 16; x < 144; x++) for (let y = 16; y < 112; y++) ink.add(plain.at(x, y));
    expect(ink).toEqual(new Set(['#6404C3', '#FFFFFF']));
  });

  test('any number of colors up to 4096 makes a picture of a reasonable size', () => {
    for (const n of [1, 7, 24, 25, 257, 1025, 4096]) {
      const png = swatchPng(palette({ seed: 7n, n }));
      const { width, height } = read(png);
      expect(width, `${n}`).toBeLessThanOrEqual(1600);
      expect(height, `${n}`).toBeLessThanOrEqual(1600);
      expect(png.length, `${n}`).toBeLessThan(200_000);
    }
  });

  test('bad arguments', () => {
    expect(() => swatchPng([])).toThrow('at least one');
    const colors = palette({ seed: 1n, n: 2 });
    for (const options of [{ columns: 0 }, { columns: 1.5 }, { cell: 1 }, { cell: 1e9 }]) {
      expect(() => swatchPng(colors, options)).toThrow(ArgumentError);
    }
  });
});

describe('trit map', () => {
  const colors = tritColors({ seed: 1069n });
  const hexes = [colors.minus.hex, colors.ergodic.hex, colors.plus.hex];
  const LEFT = 16;
  const TOP = 16 + 3 * 28;
  const mapOf = (trits: Int8Array, columns: number, more: Partial<TritMapOptions> = {}) =>
    tritMapPng({
      name: 'q_proj.weight',
      rows: trits.length / columns,
      columns,
      readRows: (start, end) => trits.subarray(start * columns, end * columns),
      colors,
      seed: 1069n,
      scheme: 'trace',
      ...more,
    });

  test('the colors are indices 1, 2, 3 of the seed', () => {
    expect(hexes).toEqual(['#6404C3', '#EB6AF7', '#7F1747']);
  });

  test('every weight of a small matrix is a square of its color', async () => {
    const trits = Int8Array.of(-1, 0, 1, 1, 1, -1);
    const { at } = read(await mapOf(trits, 3));
    trits.forEach((trit, i) => {
      expect(at(LEFT + 24 * (i % 3), TOP + 24 * Math.floor(i / 3))).toBe(hexes[trit + 1]);
      expect(at(LEFT + 24 * (i % 3) + 23, TOP + 24 * Math.floor(i / 3) + 23)).toBe(hexes[trit + 1]);
    });
    expect(at(LEFT + 72, TOP)).toBe('#FBFAF8');
    // The legend's three chips.
    const row = Array.from({ length: 700 }, (_, x) => at(LEFT + x, 16 + 2 * 28 + 7));
    for (const hex of hexes) expect(row).toContain(hex);
  });

  test('a large matrix is averaged in blocks, its last ones over what is there', async () => {
    // 33 x 40 in at most 16 px: blocks of 3. Rows 0..29 all -1, rows 30..32 all +1.
    const trits = new Int8Array(33 * 40).fill(-1, 0, 30 * 40).fill(1, 30 * 40);
    trits.fill(0, 0, 3).fill(0, 40, 43).fill(0, 80, 83);
    const { at, height } = read(await mapOf(trits, 40, { maxSide: 16 }));
    expect(height).toBe(TOP + 11 + 16);
    expect(at(LEFT, TOP)).toBe(hexes[1]);
    expect(at(LEFT + 1, TOP)).toBe(hexes[0]);
    expect(at(LEFT + 13, TOP)).toBe(hexes[0]); // 1 column of 3
    expect(at(LEFT + 14, TOP)).toBe('#FBFAF8');
    expect(at(LEFT, TOP + 10)).toBe(hexes[2]);
  });

  test('mixtures are mixed as light', async () => {
    const black = { minus: { hex: '#000000' }, ergodic: { hex: '#000000' }, plus: { hex: '#FFFFFF' } };
    // One weight in three is white: linear light 1/3 is channel 156.
    const trits = Int8Array.from({ length: 48 * 48 }, (_, i) => (i % 3) - 1);
    const { at } = read(await mapOf(trits, 48, { maxSide: 16, colors: black }));
    expect(at(LEFT + 5, TOP + 5)).toBe('#9C9C9C');
  });

  test('rows are read once, in order, in bounded windows', async () => {
    const windows: [number, number][] = [];
    const [rows, columns] = [6000, 4000];
    await mapOf(new Int8Array(0), columns, {
      rows,
      maxSide: 64,
      readRows: async (start, end) => {
        windows.push([start, end]);
        return new Int8Array((end - start) * columns);
      },
    });
    expect(windows.length).toBeGreaterThan(1);
    expect(windows[0]![0]).toBe(0);
    expect(windows.at(-1)![1]).toBe(rows);
    expect(windows.slice(1).map(([start]) => start)).toEqual(windows.slice(0, -1).map(([, end]) => end));
    for (const [start, end] of windows) expect((end - start) * columns).toBeLessThanOrEqual(2 ** 22);
  });

  test('bad sources', async () => {
    await expect(mapOf(Int8Array.of(0, 0, 0, 2), 2)).rejects.toThrow('row 1, column 1 is 2');
    await expect(mapOf(new Int8Array(4), 2, { readRows: () => new Int8Array(3) })).rejects.toThrow(
      '4 trits, 3 were read',
    );
    await expect(mapOf(new Int8Array(4), 2, { rows: 0 })).rejects.toThrow(ArgumentError);
    await expect(mapOf(new Int8Array(4), 2, { maxSide: 9999 })).rejects.toThrow('16 to 8192');
  });
});

describe('line plot', () => {
  test('draws its series over the whole frame, higher values further up', () => {
    const { at, width, height } = read(
      linePlotPng({
        title: 'loss',
        xLabel: 'step',
        yLabel: 'nats',
        series: [{ name: 'a', y: [3, 2, 1], hex: '#FF0000' }],
        width: 400,
        height: 300,
      }),
    );
    expect([width, height]).toEqual([400, 300]);
    const red: [number, number][] = [];
    for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) if (at(x, y) === '#FF0000') red.push([x, y]);
    const first = red.reduce((a, b) => (b[0] < a[0] ? b : a));
    const last = red.reduce((a, b) => (b[0] > a[0] ? b : a));
    expect(last[0] - first[0]).toBeGreaterThan(300);
    expect(last[1] - first[1]).toBeGreaterThan(130);
  });

  test('gaps, single points, constants and many points do not fail', () => {
    const common = { title: 't', xLabel: 'x', yLabel: 'y' };
    for (const y of [[5], [0, 0, 0], [1, Number.NaN, 2], [Number.POSITIVE_INFINITY, -1e-9], [1e12, 1e-12]]) {
      expect(linePlotPng({ ...common, series: [{ name: 'a', y }] }).length).toBeGreaterThan(1000);
    }
    const y = Float64Array.from({ length: 200_000 }, (_, i) => Math.sin(i));
    expect(
      linePlotPng({
        ...common,
        series: [
          { name: 'a', y },
          { name: 'b', y, faint: true },
        ],
      }),
    ).toBeInstanceOf(Uint8Array);
  });

  test('refuses what it cannot draw', () => {
    const common = { title: 't', xLabel: 'x', yLabel: 'y' };
    expect(() => linePlotPng({ ...common, series: [] })).toThrow('no finite point');
    expect(() => linePlotPng({ ...common, series: [{ name: 'a', y: [Number.NaN] }] })).toThrow(ArgumentError);
    expect(() => linePlotPng({ ...common, series: [{ name: 'a', y: [1], x: [1, 2] }] })).toThrow('2 x and 1 y');
    expect(() => linePlotPng({ ...common, series: [{ name: 'a', y: [1] }], width: 1 })).toThrow('240 to 4096');
  });

  test('ticks are round, inside the range, and few', () => {
    expect(roundTicks({ min: 0, max: 1999 }, 6)).toEqual({ values: [0, 500, 1000, 1500], decimals: 0 });
    expect(roundTicks({ min: 1.37, max: 1.52 }, 4).values.map((v) => v.toFixed(2))).toEqual(['1.40', '1.45', '1.50']);
    expect(roundTicks({ min: 5e-7, max: 400.4 }, 2).values).toEqual([200, 400]);
    fc.assert(
      fc.property(
        fc.double({ min: -1e6, max: 1e6, noNaN: true }),
        fc.double({ min: 1e-3, max: 1e6, noNaN: true }),
        fc.integer({ min: 2, max: 10 }),
        (min, span, count) => {
          const { values } = roundTicks({ min, max: min + span }, count);
          expect(values.length).toBeLessThanOrEqual(count + 1);
          expect(values.length).toBeGreaterThanOrEqual(1);
          for (const value of values) {
            expect(value).toBeGreaterThanOrEqual(min - span * 1e-6);
            expect(value).toBeLessThanOrEqual(min + span * (1 + 1e-6));
          }
        },
      ),
    );
  });
});
