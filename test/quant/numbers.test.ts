import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { absmaxQuantize } from '../../src/quant/absmax.ts';
import { absmean } from '../../src/quant/absmean.ts';
import { bf16ToF32, f32ToBf16 } from '../../src/quant/bf16.ts';
import { f16ToF32, f32ToF16 } from '../../src/quant/f16.ts';
import { rint } from '../../src/quant/rint.ts';
import { toFloat32 } from '../../src/quant/to-float32.ts';

const bitsOf = (values: Float32Array) => new Uint32Array(values.buffer, values.byteOffset, values.length);
const floats = (bits: readonly number[]) => new Float32Array(Uint32Array.from(bits).buffer);
const halves = (bytes: Uint8Array) => [...new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.length / 2)];
const ALL_HALVES = new Uint8Array(Uint16Array.from({ length: 65536 }, (_, i) => i).buffer);

describe('rint', () => {
  test('ties go to the even neighbour, signs of zero are kept', () => {
    const inputs = [0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 0, -0, 0.49999999999999994, 4503599627370495.5, 1e300];
    expect(inputs.map(rint)).toEqual([0, 2, 2, -0, -2, -2, 0, -0, 0, 4503599627370496, 1e300]);
    expect(rint(Number.NaN)).toBeNaN();
    expect(rint(Number.NEGATIVE_INFINITY)).toBe(Number.NEGATIVE_INFINITY);
  });

  test('is the nearest integer', () => {
    fc.assert(
      fc.property(fc.double({ min: -1e9, max: 1e9, noNaN: true }), (x) => {
        expect(Number.isInteger(rint(x))).toBe(true);
        expect(Math.abs(rint(x) - x)).toBeLessThanOrEqual(0.5);
      }),
    );
  });
});

describe('bf16', () => {
  test('known values, ties to even, overflow, NaN', () => {
    expect(halves(f32ToBf16(Float32Array.of(1, -2.5, 0.1)))).toEqual([0x3f80, 0xc020, 0x3dcd]);
    expect(halves(f32ToBf16(floats([0x3f808000, 0x3f818000, 0x7f7fffff, 0x7f800001, 0xffffffff])))).toEqual([
      0x3f80, 0x3f82, 0x7f80, 0x7fc0, 0xffff,
    ]);
  });

  test('every pattern survives the way to float32 and back (NaN becomes quiet)', () => {
    const back = halves(f32ToBf16(bf16ToF32(ALL_HALVES)));
    expect(back).toEqual(Array.from(back, (_, h) => ((h & 0x7fff) > 0x7f80 ? h | 0x40 : h)));
  });

  test('bytes at an odd address are read alike', () => {
    expect([...bf16ToF32(Uint8Array.of(9, 0x80, 0x3f, 0x20, 0xc0).subarray(1))]).toEqual([1, -2.5]);
  });
});

describe('f16', () => {
  test('known values', () => {
    expect([
      ...bitsOf(f16ToF32(new Uint8Array(Uint16Array.of(0x3c00, 0x0001, 0x03ff, 0x7bff, 0xfc00, 0x8000).buffer))),
    ]).toEqual([0x3f800000, 0x33800000, 0x387fc000, 0x477fe000, 0xff800000, 0x80000000]);
    const inputs = floats([
      0x477fefff, 0x477ff000, 0x33000000, 0x33000001, 0x33c00000, 0x387fe000, 0x7f800001, 0x3f801000, 0x3f803000,
    ]);
    expect(halves(f32ToF16(inputs))).toEqual([0x7bff, 0x7c00, 0, 1, 2, 0x400, 0x7e00, 0x3c00, 0x3c02]);
  });

  test('every pattern survives the way to float32 and back (NaN becomes quiet)', () => {
    const wide = f16ToF32(ALL_HALVES);
    const back = halves(f32ToF16(wide));
    expect(back).toEqual(Array.from(back, (_, h) => ((h & 0x7fff) > 0x7c00 ? h | 0x200 : h)));
  });

  test('rounds to the nearer half, ties to even', () => {
    const wide = f16ToF32(ALL_HALVES);
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 0x7bfe }), fc.double({ min: 0, max: 1, noNaN: true }), (h, part) => {
        const low = wide[h]!;
        const high = wide[h + 1]!;
        const x = Math.fround(low + (high - low) * part);
        const middle = (low + high) / 2;
        const want = x < middle || (x === middle && h % 2 === 0) ? h : h + 1;
        expect(halves(f32ToF16(Float32Array.of(x)))[0]).toBe(want);
      }),
      { numRuns: 2000 },
    );
  });
});

describe('toFloat32', () => {
  test.each([
    ['F64', new Float64Array([0.5, -2])],
    ['I64', new BigInt64Array([3n, -4n])],
    ['I32', new Int32Array([3, -4])],
    ['U32', new Uint32Array([3, 4294967295])],
    ['I8', new Int8Array([3, -4])],
    ['U8', new Uint8Array([3, 255])],
    ['F32', new Float32Array([0.25, -1])],
  ] as const)('%s', (dtype, values) => {
    const bytes = new Uint8Array(values.buffer);
    // One byte further, so that no alignment helps.
    const shifted = new Uint8Array(bytes.length + 1);
    shifted.set(bytes, 1);
    const want = [...values].map((value) => Math.fround(Number(value)));
    expect([...toFloat32({ name: 't', dtype, shape: [2], bytes })]).toEqual(want);
    expect([...toFloat32({ name: 't', dtype, shape: [2], bytes: shifted.subarray(1) })]).toEqual(want);
  });

  test('a size that does not fit the shape is refused', () => {
    expect(() => toFloat32({ name: 't', dtype: 'F32', shape: [2], bytes: new Uint8Array(7) })).toThrow(
      'tensor "t" needs 8 bytes as F32 [2], 7 were given',
    );
  });
});

describe('absmean and absmax', () => {
  const W = Float32Array.of(0.8, -0.5, 1.2, -1.5, 0.4, -0.9, 1.3, -0.7, 0.2);

  test('the worked matrix', () => {
    const { trits, scale } = absmean(W, 3, 3);
    expect([...trits]).toEqual([1, -1, 1, -1, 0, -1, 1, -1, 0]);
    expect(scale).toBeCloseTo(0.8333333, 6);
  });

  test('half the scale exactly goes to 0', () => {
    expect([...absmean(Float32Array.of(0.5, -0.5, 1, 2), 1, 4).trits]).toEqual([0, 0, 1, 1]);
  });

  test('trits do not change when all weights are doubled, and the scale doubles', () => {
    fc.assert(
      fc.property(
        fc.array(fc.float({ min: Math.fround(-10), max: 10, noNaN: true }), { minLength: 4, maxLength: 40 }),
        (list) => {
          fc.pre(list.reduce((sum, w) => sum + Math.abs(w), 0) / list.length > 1e-3);
          const one = absmean(Float32Array.from(list), 1, list.length);
          const two = absmean(
            Float32Array.from(list, (w) => w * 2),
            1,
            list.length,
          );
          expect(two.trits).toEqual(one.trits);
          expect(two.scale).toBe(one.scale * 2);
        },
      ),
    );
  });

  test('the worked activations', () => {
    const rows = [
      [1, -0.6, 0.7],
      [-0.9, 0.4, -1.2],
      [0.8, -0.5, 0.3],
    ];
    const codes = rows.map((row) => {
      const out = new Int8Array(3);
      absmaxQuantize(Float32Array.from(row), out);
      return [...out];
    });
    expect(codes).toEqual([
      [127, -76, 89],
      [-95, 42, -127],
      [127, -79, 48],
    ]);
  });

  test('a row of zeros has codes 0 and the scale of the floor', () => {
    const codes = new Int8Array(4).fill(9);
    expect(absmaxQuantize(new Float32Array(4), codes)).toBe(Math.fround(127 / Math.fround(1e-5)));
    expect([...codes]).toEqual([0, 0, 0, 0]);
  });
});
