import fc from 'fast-check';
import { decode } from 'fast-png';
import { describe, expect, test } from 'vitest';
import { palette } from '../../src/color/palette.ts';
import { pictureColors } from '../../src/color/picture-colors.ts';
import { tritColors } from '../../src/color/trit-colors.ts';
import { ArgumentError } from '../../src/errors.ts';
import { drawText, encodePng, fillRect, fitText, newCanvas, textWidth } from '../../src/image/canvas.ts';
import { glyphRows } from '../../src/image/font.ts';
import { headBands, headShapeOf } from '../../src/image/head-bands.ts';
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

  test('values of 2 are no trits: drawn apart, in no share, and refused unless they are told of', async () => {
    const trits = Int8Array.of(2, -1, 0, 1);
    await expect(mapOf(trits, 2)).rejects.toThrow('row 0, column 0 is 2, which is no trit');
    const { at } = read(await mapOf(trits, 2, { plusTwo: 1 }));
    ['#E83EC1', ...hexes].forEach((hex, i) => {
      expect(at(LEFT + 24 * (i % 2), TOP + 24 * Math.floor(i / 2))).toBe(hex);
    });
    // Blocks of 2 x 2: the first of nothing else, the second of three +1 and one of them, all others of zeros.
    const large = new Int8Array(32 * 32);
    for (const i of [0, 1, 32, 33, 2]) large[i] = 2;
    for (const i of [3, 34, 35]) large[i] = 1;
    const blocks = read(await mapOf(large, 32, { plusTwo: 5, maxSide: 16 }));
    expect([0, 1, 2].map((x) => blocks.at(LEFT + x, TOP))).toEqual(['#E83EC1', hexes[2], hexes[1]]);
    const window = read(await mapOf(large, 32, { plusTwo: 5, maxSide: 16, window: { row: 0, column: 0 } }));
    const pink = Array.from({ length: window.width }, (_, x) => window.at(x, TOP + 3)).filter(
      (hex) => hex === '#E83EC1',
    );
    expect(pink.length).toBeGreaterThan(3);
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

  /** Places where the picture has a color, as a list of `x,y`. */
  const placesOf = ({ width, height, at }: ReturnType<typeof read>, hex: string, from = 0) => {
    const places: (readonly [number, number])[] = [];
    for (let y = from; y < height; y++) for (let x = 0; x < width; x++) if (at(x, y) === hex) places.push([x, y]);
    return places;
  };

  test('contrast colors, pixel for pixel; the legend names them and those of the seed', async () => {
    const trits = Int8Array.of(-1, 0, 1, 1, 1, -1);
    const picture = read(await mapOf(trits, 3, pictureColors({ seed: 1069n })));
    const top = TOP + 28;
    trits.forEach((trit, i) => {
      const hex = ['#0A1C66', '#F4F0E6', '#CD5B0A'][trit + 1];
      expect(picture.at(LEFT + 24 * (i % 3) + 12, top + 24 * Math.floor(i / 3) + 12)).toBe(hex);
    });
    // The seed's colors are in the legend only, in the line below.
    for (const hex of hexes) {
      const places = placesOf(picture, hex);
      expect(places).toHaveLength(14 * 14);
      expect(places.every(([, y]) => y >= 16 + 3 * 28 && y < 16 + 3 * 28 + 14)).toBe(true);
    }
    const seedAlone = read(await mapOf(trits, 3));
    expect(placesOf(seedAlone, '#0A1C66')).toEqual([]);
  });

  test('changes are said to fall, stay and rise', async () => {
    const trits = Int8Array.of(-1, 0, 1);
    const labels = { minus: 'fell', ergodic: 'stayed', plus: 'rose' };
    const [numbered, named] = [read(await mapOf(trits, 3)), read(await mapOf(trits, 3, { labels }))];
    // "fell" begins with an f beside its chip: its stem is the fifth column of dots from the left of the text.
    const canvas = newCanvas({ width: 200, height: 20, palette: [0xfbfaf8, 0x1d1d22] }, 0);
    drawText(canvas, 'fell', { x: 0, y: 0, scale: 2 }, 1);
    const said = (picture: ReturnType<typeof read>) =>
      Array.from({ length: 18 }, (_, y) =>
        Array.from({ length: 46 }, (_, x) => picture.at(16 + 22 + x, 16 + 56 + y) === '#1D1D22'),
      );
    const drawn = Array.from({ length: 18 }, (_, y) =>
      Array.from({ length: 46 }, (_, x) => canvas.data[200 * y + x] === 1),
    );
    expect(said(named)).toEqual(drawn);
    expect(said(numbered)).not.toEqual(drawn);
  });

  test('density blocks: darker where fewer weights are 0, hue by the balance, over the range that is there', async () => {
    // 32 x 32 in 16 px: blocks of 2 x 2. Left half: two of four are 0, right half: none; above more +1, below more -1.
    const trits = Int8Array.from({ length: 32 * 32 }, (_, i) => {
      const [row, column] = [Math.floor(i / 32), i % 32];
      const sign = row < 16 ? 1 : -1;
      if (column < 16) return row % 2 === 0 ? 0 : sign;
      return row % 2 === 0 && column % 2 === 0 ? -sign : sign;
    });
    const colors = pictureColors({ seed: 1069n });
    const picture = read(await mapOf(trits, 32, { ...colors, maxSide: 16, blocks: 'density' }));
    const top = TOP + 2 * 28;
    // Density 1/2 to 1, mean 3/4 with a deviation of 1/4: the scale goes from 3/4 - 2.5/4, that is 12.5 %, to 100 %.
    // Balance +-1/2 everywhere: its ends are at 1 (2.5 deviations), so a plain block leans by half.
    // In steps of 1/18: depth 3/7 is 8 of them, which a lean of 1/2 splits into 2 and 6; depth 1 is 18 of them, 5 and 13.
    const mixed = ([minus, plus]: number[]) => {
      const light = [0, 2, 4].map((at) => {
        const linear = (hex: string) => {
          const v = Number.parseInt(hex.slice(1 + at, 3 + at), 16) / 255;
          return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
        };
        const [m, e, p] = ['#0A1C66', '#F4F0E6', '#CD5B0A'].map(linear);
        const sum = (minus! * m! + (18 - minus! - plus!) * e! + plus! * p!) / 18;
        return Math.round(255 * (sum <= 0.0031308 ? sum * 12.92 : 1.055 * sum ** (1 / 2.4) - 0.055));
      });
      return `#${light
        .map((v) => v.toString(16).padStart(2, '0'))
        .join('')
        .toUpperCase()}`;
    };
    expect(picture.at(LEFT + 2, top + 2)).toBe(mixed([2, 6]));
    expect(picture.at(LEFT + 12, top + 2)).toBe(mixed([5, 13]));
    expect(picture.at(LEFT + 2, top + 12)).toBe(mixed([6, 2]));
    expect(picture.at(LEFT + 12, top + 12)).toBe(mixed([13, 5]));
    // Where all blocks are alike there is no range to stretch.
    const plain = read(await mapOf(new Int8Array(32 * 32).fill(-1), 32, { ...colors, maxSide: 16, blocks: 'density' }));
    expect(plain.at(LEFT + 7, top + 7)).toBe('#0A1C66');
  });

  test('heads lie along a ruler whose strip changes its ink where a head begins', async () => {
    const trits = new Int8Array(64 * 64);
    const shape = { heads: 4, kvHeads: 2, headDim: 16 };
    const rows = headBands({ name: 'model.layers.0.self_attn.q_proj.weight', rows: 64, columns: 64 }, shape);
    const zoom = 12;
    const picture = read(await mapOf(trits, 64, { heads: rows }));
    const top = TOP + 12;
    const strip = Array.from({ length: 64 * zoom }, (_, y) => picture.at(LEFT + 36 - 7, top + y));
    const INK = '#1D1D22';
    const MUTED = '#6E6D75';
    for (const [head, ink] of [INK, MUTED, INK, MUTED].entries()) {
      expect(strip[16 * zoom * head + 1]).toBe(ink);
      expect(strip[16 * zoom * (head + 1) - 1]).toBe(ink);
    }
    const columns = headBands({ name: 'blk.0.attn_output.weight', rows: 64, columns: 64 }, shape);
    const above = read(await mapOf(trits, 64, { heads: columns }));
    const line = Array.from({ length: 64 * zoom }, (_, x) => above.at(LEFT + x, TOP + 36 - 7));
    expect([1, 16 * zoom + 1, 32 * zoom + 1, 48 * zoom + 1].map((x) => line[x])).toEqual([INK, MUTED, INK, MUTED]);
    expect(above.at(LEFT, TOP + 36)).toBe(hexes[1]);
  });

  test.each([
    ['model.layers.3.self_attn.q_proj.weight', [32, 40], 'rows', 4],
    ['model.layers.3.self_attn.k_proj', [16, 40], 'rows', 2],
    ['blk.3.attn_v.weight', [16, 40], 'rows', 2],
    ['model.layers.3.self_attn.o_proj.weight', [40, 32], 'columns', 4],
    ['blk.3.attn_output.weight', [40, 32], 'columns', 4],
    ['model.layers.3.self_attn.qkv_proj.weight', [64, 40], 'rows', 8],
    ['blk.3.attn_qkv.weight', [64, 40], 'rows', 8],
    ['layers.3.attention.Wqkv.weight', [64, 40], 'rows', 8],
    ['model.layers.3.mlp.up_proj.weight', [32, 40], undefined, 0],
    // Of another size than the config says.
    ['model.layers.3.self_attn.q_proj.weight', [33, 40], undefined, 0],
    ['model.layers.3.self_attn.k_proj.weight', [32, 40], undefined, 0],
  ] as const)('%s %j has its heads in %s: %i', (name, [rows, columns], axis, count) => {
    const found = headBands({ name, rows, columns }, { heads: 4, kvHeads: 2, headDim: 8 });
    expect(found?.axis).toBe(axis);
    expect(found?.bands ?? []).toHaveLength(count);
    expect(found?.bands.at(-1)?.end).toBe(axis === undefined ? undefined : axis === 'rows' ? rows : columns);
  });

  test('numbers of heads come from a config or from GGUF, and only sound ones', () => {
    const none = new Map<string, unknown>();
    const config = { num_attention_heads: 8, num_key_value_heads: 2, hidden_size: 512 };
    expect(headShapeOf(config, none)).toEqual({ heads: 8, kvHeads: 2, headDim: 64 });
    expect(headShapeOf({ ...config, head_dim: 128 }, none)).toEqual({ heads: 8, kvHeads: 2, headDim: 128 });
    expect(headShapeOf({ text_config: config }, none)).toEqual({ heads: 8, kvHeads: 2, headDim: 64 });
    const gguf = new Map<string, unknown>([
      ['general.architecture', 'llama'],
      ['llama.attention.head_count', 4],
      ['llama.embedding_length', 64],
    ]);
    expect(headShapeOf(undefined, gguf)).toEqual({ heads: 4, kvHeads: 4, headDim: 16 });
    for (const heads of [0, -8, 7, 1.5, '8', null, Number.NaN, 1e300]) {
      expect(headShapeOf({ ...config, num_attention_heads: heads }, none), `${heads}`).toBeUndefined();
    }
  });

  test('a window of single weights stands beside the map, marked on it', async () => {
    // 400 x 300 in blocks of 4; the window hangs over the edge and is moved back: rows 304 .. 399, columns 204 .. 299.
    const trits = Int8Array.from({ length: 400 * 300 }, (_, i) =>
      ((i * 7) % 11) % 3 === 0 ? 1 : ((i * 13) % 5) - 2 > 0 ? -1 : 0,
    );
    const [rows, columns] = [400, 300];
    const picture = read(await mapOf(trits, columns, { maxSide: 100, window: { row: 390, column: 290 } }));
    const x = LEFT + 75 + 24;
    for (const [row, column] of [
      [304, 204],
      [304, 299],
      [399, 204],
      [350, 250],
      [399, 299],
    ] as const) {
      const at = picture.at(x + 5 * (column - 204) + 2, TOP + 5 * (row - 304) + 2);
      expect(at, `${row}, ${column}`).toBe(hexes[trits[row * columns + column]! + 1]);
    }
    // Dark, light, dark around columns 51 .. 74 of the map.
    const y = TOP + 88;
    expect([51 - 3, 51 - 2, 51 - 1].map((left) => picture.at(LEFT + left, y))).toEqual([
      '#1D1D22',
      '#FBFAF8',
      '#1D1D22',
    ]);
    for (const window of [
      { row: rows, column: 0 },
      { row: 0, column: columns },
      { row: -1, column: 0 },
      { row: 0.5, column: 0 },
    ]) {
      await expect(mapOf(trits, columns, { maxSide: 100, window })).rejects.toThrow(
        /the window's (row|column) must be/,
      );
    }
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
