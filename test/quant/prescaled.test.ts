import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { detectPrescaled } from '../../src/quant/prescaled.ts';
import { patternA } from './patterns.ts';

const ROWS = 48;
const COLUMNS = 96;
const TRITS = patternA(ROWS * COLUMNS);

function scaled(scaleAt: (row: number, column: number) => number): Float32Array {
  return Float32Array.from(TRITS, (trit, i) => trit * Math.fround(scaleAt(Math.floor(i / COLUMNS), i % COLUMNS)));
}

describe('prescaled ternary', () => {
  test.each([
    ['one scale', () => 0.02, { kind: 'tensor', value: Math.fround(0.02) }],
    ['two slices of rows', (r: number) => (r < 24 ? 1 : 2), { kind: 'rowSlices', values: Float32Array.of(1, 2) }],
    [
      'three slices of rows',
      (r: number) => 1 + Math.floor(r / 16),
      { kind: 'rowSlices', values: Float32Array.of(1, 2, 3) },
    ],
    [
      'three slices of columns',
      (_: number, c: number) => 1 + Math.floor(c / 32),
      { kind: 'columnSlices', values: Float32Array.of(1, 2, 3) },
    ],
    [
      'a scale a row',
      (r: number) => 1 + r,
      { kind: 'rowSlices', values: Float32Array.from({ length: ROWS }, (_, r) => 1 + r) },
    ],
    [
      'groups of 32 columns',
      (r: number, c: number) => 1 + r * 3 + Math.floor(c / 32),
      { kind: 'groups', size: 32, values: Float32Array.from({ length: ROWS * 3 }, (_, i) => 1 + i) },
    ],
  ] as const)('%s', (_, scaleAt, scale) => {
    expect(detectPrescaled(scaled(scaleAt), ROWS, COLUMNS)).toEqual({ trits: TRITS, scale });
  });

  test('one f16 step between magnitudes is forgiven, more is not', () => {
    const values = scaled(() => 0.5);
    const first = values.indexOf(0.5);
    values[first] = 0.5 * (1 + 2 ** -11);
    expect(detectPrescaled(values, ROWS, COLUMNS)?.scale.kind).toBe('tensor');
    values[first] = 0.5 * (1 + 2 ** -8);
    expect(detectPrescaled(values, ROWS, COLUMNS)).toBeUndefined();
  });

  test('ordinary floats, NaN and tiny matrices are not ternary', () => {
    fc.assert(
      fc.property(
        fc.array(fc.float({ noNaN: true, noDefaultInfinity: true }), { minLength: 64, maxLength: 64 }),
        (list) => {
          fc.pre(new Set(list.slice(0, 32).map(Math.abs)).size > 3);
          expect(detectPrescaled(Float32Array.from(list), 2, 32)).toBeUndefined();
        },
      ),
    );
    const nan = scaled(() => 1);
    nan[100] = Number.NaN;
    expect(detectPrescaled(nan, ROWS, COLUMNS)).toBeUndefined();
    expect(detectPrescaled(Float32Array.of(1, -1), 1, 2)).toBeUndefined();
    expect(
      detectPrescaled(
        Float32Array.from({ length: 64 }, (_, i) => i + 1),
        64,
        1,
      ),
    ).toBeUndefined();
  });

  test('zeros alone have the scale 1', () => {
    expect(detectPrescaled(new Float32Array(64), 2, 32)?.scale).toEqual({ kind: 'tensor', value: 1 });
  });
});
