// Pinned bytes of every ggml block layout we read; they were made by gguf-py and bitnet.cpp's converters.

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { NotTernaryError, PackedSizeError, TernaryCodeError } from '../../src/quant/errors.ts';
import { decodeGgml, singleScale, unpackGgml } from '../../src/quant/ggml.ts';
import { packI2s, unpackI2s } from '../../src/quant/i2s.ts';
import { decodeQ2, unpackQ2 } from '../../src/quant/q2.ts';
import { decodeQ4 } from '../../src/quant/q4.ts';
import { decodeQ4k } from '../../src/quant/q4k.ts';
import { decodeQ6k } from '../../src/quant/q6k.ts';
import { decodeQ8, encodeQ8 } from '../../src/quant/q8.ts';
import { packTq1, unpackTq1 } from '../../src/quant/tq1.ts';
import { packTq2, unpackTq2 } from '../../src/quant/tq2.ts';
import { hex, patternA, patternB } from './patterns.ts';

const TQ1_A = hex(`
  47 82 90 11 98 58 1c f8 b7 6b c2 d6 85 b0 33 c8 09 53 e7 23 41 47 82 90 11 98 58 1c f8 b7 6b c2
  e4 29 ee 3d 35 f7 0d 50 15 67 a8 05 70 5c 22 e3 8f c1 e7 56 00 38`);
const TQ2_A = hex(`
  58 95 09 90 19 01 a0 2a 12 21 62 56 25 42 64 06 80 a8 4a 84 88 58 95 09 90 19 01 a0 2a 12 21 62
  09 90 19 01 a0 2a 12 21 62 56 25 42 64 06 80 a8 4a 84 88 58 95 09 90 19 01 a0 2a 12 21 62 56 25 00 38`);
const TQ1_B = hex(`
  d2 34 78 9b 67 d2 34 78 9b 67 d2 34 78 9b 67 d2 34 78 9b 67 d2 34 78 9b 67 d2 34 78 9b 67 d2 34
  b9 2c 82 86 93 b9 2c 82 86 93 b9 2c 82 86 93 b9 d4 46 6c 79 00 3d`);
const TQ2_B = hex(`
  16 64 45 59 91 16 64 45 59 91 16 64 45 59 91 16 64 45 59 91 16 64 45 59 91 16 64 45 59 91 16 64
  59 91 16 64 45 59 91 16 64 45 59 91 16 64 45 59 91 16 64 45 59 91 16 64 45 59 91 16 64 45 59 91 00 3d`);

const trits = (count: number) =>
  fc.array(fc.constantFrom(-1, 0, 1), { minLength: count, maxLength: count }).map((list) => Int8Array.from(list));

describe('TQ1_0', () => {
  test('trits (-1, +1, 0, -1, +1) of byte 0 are 0x45', () => {
    const input = new Int8Array(256);
    [-1, 1, 0, -1, 1].forEach((trit, n) => {
      input[32 * n] = trit;
    });
    expect(packTq1(input, 1)[0]).toBe(0x45);
  });

  test.each([
    ['A', patternA(256), 0.5, TQ1_A],
    ['B', patternB(256), 1.25, TQ1_B],
  ])('pattern %s', (_, input, scale, bytes) => {
    expect(packTq1(input, scale)).toEqual(bytes);
    expect(unpackTq1(bytes, 256)).toEqual({ trits: input, scales: Float32Array.of(scale) });
  });

  test('constant blocks, and i mod 3', () => {
    const all = (trit: number) => new Int8Array(256).fill(trit);
    expect(packTq1(all(-1), 2)).toEqual(hex(`${'00 '.repeat(52)} 00 40`));
    expect(packTq1(all(1), 2)).toEqual(hex(`${'ff '.repeat(48)} ${'fd '.repeat(4)} 00 40`));
    expect(packTq1(all(0), 2)).toEqual(hex(`${'80 '.repeat(48)} ${'7f '.repeat(4)} 00 00`));
    const steps = Int8Array.from({ length: 256 }, (_, i) => (i % 3) - 1);
    const body = `${'45 6c cf '.repeat(10)} 45 6c ${'94 bb 31 '.repeat(5)} 94 30 92 bb 30 00 40`;
    expect(packTq1(steps, 2)).toEqual(hex(body));
  });
});

describe('TQ2_0', () => {
  test('trits (0, 32, 64, 96) = (-1, +1, 0, -1) are 0x18', () => {
    const input = new Int8Array(256);
    input[0] = -1;
    input[32] = 1;
    input[96] = -1;
    expect(packTq2(input, 1)[0]).toBe(0x18);
  });

  test.each([
    ['A', patternA(256), 0.5, TQ2_A],
    ['B', patternB(256), 1.25, TQ2_B],
  ])('pattern %s', (_, input, scale, bytes) => {
    expect(packTq2(input, scale)).toEqual(bytes);
    expect(unpackTq2(bytes, 256)).toEqual({ trits: input, scales: Float32Array.of(scale) });
  });

  test('constant blocks, and i mod 3', () => {
    const all = (trit: number) => new Int8Array(256).fill(trit);
    expect(packTq2(all(1), 2)).toEqual(hex(`${'aa '.repeat(64)} 00 40`));
    expect(packTq2(all(0), 2)).toEqual(hex(`${'55 '.repeat(64)} 00 00`));
    const steps = Int8Array.from({ length: 256 }, (_, i) => (i % 3) - 1);
    expect(packTq2(steps, 2)).toEqual(hex(`${'18 61 86 '.repeat(21)} 18 00 40`));
  });

  test('code 3 names its element and byte', () => {
    const bytes = Uint8Array.from([...TQ2_A, ...TQ2_A]);
    bytes[66 + 33]! |= 0x30;
    expect(() => unpackTq2(bytes, 512, { tensor: 't', file: 'f', offset: 100 })).toThrow(TernaryCodeError);
    expect(() => unpackTq2(bytes, 512, { tensor: 't', file: 'f', offset: 100 })).toThrow(
      `element ${256 + 128 + 1 + 64} (byte 0x`,
    );
    expect(() => unpackTq2(bytes, 512, { tensor: 't', file: 'f', offset: 100 })).toThrow('(f, byte 199)');
  });
});

describe('I2_S', () => {
  const ROWS = Int8Array.from([...patternA(256), ...patternB(256)]);
  const L128 = hex(`
    25 56 60 06 64 40 0a a8 84 48 89 95 58 81 19 90 02 2a a1 12 22 25 56 60 06 64 40 0a a8 84 48 89
    60 06 64 40 0a a8 84 48 89 95 58 81 19 90 02 2a a1 12 22 25 56 60 06 64 40 0a a8 84 48 89 95 58
    94 19 51 65 46 94 19 51 65 46 94 19 51 65 46 94 19 51 65 46 94 19 51 65 46 94 19 51 65 46 94 19
    65 46 94 19 51 65 46 94 19 51 65 46 94 19 51 65 46 94 19 51 65 46 94 19 51 65 46 94 19 51 65 46
    00 00 40 3f ${'00 '.repeat(28)}`);
  const L64 = hex(`
    08 46 6a 01 4a 42 11 9a 80 52 90 84 66 a0 14 a4 46 6a 01 4a 42 11 9a 80 52 90 84 66 a0 14 a4 21
    6a 01 4a 42 11 9a 80 52 90 84 66 a0 14 a4 21 19 01 4a 42 11 9a 80 52 90 84 66 a0 14 a4 21 19 a8
    85 15 56 58 61 85 15 56 58 61 85 15 56 58 61 85 61 85 15 56 58 61 85 15 56 58 61 85 15 56 58 61
    58 61 85 15 56 58 61 85 15 56 58 61 85 15 56 58 56 58 61 85 15 56 58 61 85 15 56 58 61 85 15 56
    00 00 40 3f ${'00 '.repeat(28)}`);
  const L4ROW = hex('19 41 56 14 45 69 21 96 a4 65 99 a1 46 a4 05 89 21 06 84 05 19 11 46 54 15 49 61 26 94 a5 69 91');

  test('elements (0, 32, 64, 96) = (-1, +1, 0, -1) are 0x24', () => {
    const bytes = packI2s(
      Int8Array.from({ length: 128 }, (_, i) => (i % 3) - 1),
      1,
      128,
      2,
    );
    expect(bytes).toEqual(hex(`${'24 49 92 '.repeat(10)} 24 49 00 00 00 40 ${'00 '.repeat(28)}`));
  });

  test('runs of one trit', () => {
    const input = Int8Array.from({ length: 128 }, (_, i) =>
      i < 32 ? -1 : i < 64 ? 0 : i < 96 || i % 2 === 0 ? 1 : -1,
    );
    expect(packI2s(input, 1, 128, 0.5)).toEqual(hex(`${'1a 18 '.repeat(16)} 00 00 00 3f ${'00 '.repeat(28)}`));
  });

  test.each([
    ['L128', L128],
    ['L64', L64],
  ] as const)('4 x 128 as %s', (layout, bytes) => {
    expect(packI2s(ROWS, 4, 128, 0.75, layout)).toEqual(bytes);
    expect(unpackI2s(bytes, 4, 128, { layout })).toEqual({ trits: ROWS, scale: 0.75 });
  });

  test('4 x 128 as L4ROW', () => {
    const bytes = packI2s(ROWS, 4, 128, 0.75, 'L4ROW');
    expect(bytes.subarray(0, 32)).toEqual(L4ROW);
    expect(unpackI2s(bytes, 4, 128, { layout: 'L4ROW' })).toEqual({ trits: ROWS, scale: 0.75 });
  });

  test('a flat stream whose rows are no multiple of the block', () => {
    const input = patternA(32 * 20);
    expect(unpackI2s(packI2s(input, 32, 20, 1), 32, 20).trits).toEqual(input);
    expect(() => packI2s(patternA(100), 5, 20, 1)).toThrow(PackedSizeError);
  });

  test('code 3 names row, column and byte', () => {
    const bytes = Uint8Array.from(L128);
    bytes[33]! |= 0x0c;
    const at = { tensor: 't', file: 'f', offset: 10 };
    expect(() => unpackI2s(bytes, 4, 128, { at })).toThrow('row 1, column 65');
    expect(() => unpackI2s(bytes, 4, 128, { at })).toThrow('(f, byte 43)');
  });
});

describe('Q2_0', () => {
  test.each([
    ['A', patternA(64), 0.5, hex('00 38 14 85 a6 89 20 50 14 9a 26 82 40 51 68 9a 08 02')],
    ['B', patternB(64), 1.25, hex('00 3d 52 49 25 95 54 52 49 25 95 54 52 49 25 95 54 52')],
  ])('pattern %s', (_, input, scale, bytes) => {
    expect(unpackQ2(bytes, 64)).toEqual({ trits: input, scales: Float32Array.of(scale) });
    expect([...decodeQ2(bytes, 64)]).toEqual([...input].map((trit) => trit * scale));
  });

  test('the fourth code is twice the scale, and no trit', () => {
    const bytes = hex(`00 38 03 ${'55 '.repeat(15)}`);
    expect(decodeQ2(bytes, 64)[0]).toBe(1);
    expect(() => unpackQ2(bytes, 64)).toThrow(TernaryCodeError);
  });
});

describe('Q8_0, Q4_0, Q6_K', () => {
  test('Q8_0', () => {
    const values = new Float32Array(32);
    values.set([0, 1, -1, 0.5, -0.25, 0.125, 2, -2, 2.3]);
    const bytes = encodeQ8(values);
    expect(bytes.subarray(0, 10)).toEqual(hex('a3 24 00 37 c9 1c f2 07 6e 92'));
    const decoded = decodeQ8(bytes, 32);
    [0, 0.99617, -0.99617, 0.50714, -0.25357, 0.12679, 1.99234, -1.99234].forEach((want, i) => {
      expect(decoded[i]).toBeCloseTo(want, 5);
    });
    expect(encodeQ8(new Float32Array(32))).toEqual(new Uint8Array(34));
  });

  test('Q8_0 keeps every value within half a step', () => {
    fc.assert(
      fc.property(
        fc.array(fc.float({ min: -1000, max: 1000, noNaN: true }), { minLength: 32, maxLength: 32 }),
        (list) => {
          const values = Float32Array.from(list);
          const decoded = decodeQ8(encodeQ8(values), 32);
          // Half a step of max / 127, plus f16 rounding of the step (relative 2^-11, or 2^-25 where it is denormal).
          const max = Math.max(...values.map(Math.abs));
          const limit = max / 254 + max * 2 ** -10 + 127 * 2 ** -24;
          decoded.forEach((value, i) => {
            expect(Math.abs(value - values[i]!)).toBeLessThanOrEqual(limit);
          });
        },
      ),
    );
  });

  test('Q4_0', () => {
    const decoded = decodeQ4(hex('9a b4 58 55 5b 46 49 38 31 3f 28 28 27 17 17 16 06 06'), 32);
    const want = [-0, 0.86279, -0.86279, 0.5752, -0.2876, -0, 2.01318, -2.01318];
    want.forEach((value, i) => {
      expect(decoded[i]).toBeCloseTo(value, 5);
    });
    [0.86279, 0.86279, 0.86279, 1.15039].forEach((value, i) => {
      expect(decoded[16 + i]).toBeCloseTo(value, 5);
    });
  });

  test('Q6_K', () => {
    const bytes = new Uint8Array(210);
    for (let i = 0; i < 128; i++) bytes[i] = 5 * i + 1;
    for (let i = 0; i < 64; i++) bytes[128 + i] = 3 * i + 7;
    for (let i = 0; i < 16; i++) bytes[192 + i] = (i % 7) - 3;
    bytes.set([0x00, 0x2c], 208);
    const decoded = decodeQ6k(bytes, 256);
    const want: [number, number][] = [
      [0, -3.1875],
      [1, -1.125],
      [31, 2.5],
      [32, 0.9375],
      [64, -2],
      [96, -4.125],
      [127, 2.4375],
      [128, -2.125],
      [160, 0],
      [192, 0.5],
      [224, 0.375],
      [255, -2.875],
    ];
    for (const [i, value] of want) expect(Math.abs(decoded[i]! - value), `w[${i}]`).toBe(0);
  });
});

describe('by name', () => {
  test('unpacking undoes packing, and decoding multiplies', () => {
    fc.assert(
      fc.property(trits(512), fc.constantFrom(0.5, 1.25, 2), (input, scale) => {
        input[0] = 1;
        input[256] = -1;
        const packed = {
          TQ1_0: packTq1(input, scale),
          TQ2_0: packTq2(input, scale),
          I2_S: packI2s(input, 2, 256, scale),
        };
        for (const type of ['TQ1_0', 'TQ2_0', 'I2_S'] as const) {
          const matrix = unpackGgml(type, packed[type], 2, 256);
          expect(matrix).toEqual({ trits: input, scale: { kind: 'tensor', value: scale } });
          const values = decodeGgml(type, packed[type], 512);
          expect(values.every((value, i) => value === input[i]! * scale)).toBe(true);
        }
      }),
      { numRuns: 30 },
    );
  });

  test('blocks of different scales are groups, which an engine of one scale refuses', () => {
    const bytes = Uint8Array.from([...packTq2(patternA(256), 1), ...packTq2(patternB(256), 2)]);
    const { scale } = unpackGgml('TQ2_0', bytes, 2, 256);
    expect(scale).toEqual({ kind: 'groups', size: 256, values: Float32Array.of(1, 2) });
    expect(() => singleScale(scale, 'blk.0.ffn_up.weight')).toThrow(NotTernaryError);
  });

  test('a wrong number of bytes is refused by every type', () => {
    for (const type of ['F32', 'F16', 'BF16', 'Q8_0', 'Q6_K', 'Q4_0', 'TQ1_0', 'TQ2_0', 'I2_S', 'Q2_0'] as const) {
      expect(() => decodeGgml(type, new Uint8Array(7), 256), type).toThrow(PackedSizeError);
    }
  });
});

describe('Q4_K', () => {
  /** A block from its parts, put together the other way round: six-bit numbers bit by bit. */
  function block(d: number, dmin: number, sc: readonly number[], m: readonly number[], nibbles: readonly number[]) {
    const bytes = new Uint8Array(144);
    bytes.set(d === 1 ? [0x00, 0x3c] : [0x00, 0x38], 0);
    bytes.set(dmin === 1 ? [0x00, 0x3c] : [0x00, 0x38], 2);
    const scales = bytes.subarray(4, 16);
    for (let j = 0; j < 4; j++) {
      scales[j] = sc[j]! | ((sc[j + 4]! >> 4) << 6);
      scales[j + 4] = m[j]! | ((m[j + 4]! >> 4) << 6);
      scales[j + 8] = (sc[j + 4]! & 15) | ((m[j + 4]! & 15) << 4);
    }
    nibbles.forEach((nibble, i) => {
      bytes[16 + 32 * Math.floor(i / 64) + (i % 32)]! |= nibble << (i % 64 >= 32 ? 4 : 0);
    });
    return bytes;
  }

  test('every scale, minimum and nibble is where it belongs', () => {
    const sc = [1, 63, 2, 31, 16, 47, 5, 62];
    const m = [0, 3, 63, 17, 48, 1, 33, 15];
    const nibbles = Array.from({ length: 256 }, (_, i) => (7 * i + (i >> 5)) % 16);
    const values = decodeQ4k(block(1, 0.5, sc, m, nibbles), 256);
    expect([...values]).toEqual(nibbles.map((nibble, i) => sc[i >> 5]! * nibble - 0.5 * m[i >> 5]!));
    const two = new Uint8Array(288);
    two.set(block(0.5, 1, sc, m, nibbles), 144);
    expect(decodeQ4k(two, 512)[256 + 255]).toBe(0.5 * 62 * nibbles[255]! - 15);
    expect(decodeQ4k(two, 512)[3]).toBe(0);
  });

  test('a size that is no whole block', () => {
    expect(() => decodeQ4k(new Uint8Array(143), 256)).toThrow(PackedSizeError);
    expect(() => decodeQ4k(new Uint8Array(144), 255)).toThrow(PackedSizeError);
  });
});
