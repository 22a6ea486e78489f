import fc from 'fast-check';
import { expect, test } from 'vitest';
import { loadNative } from '../../src/engine/cpu/native.ts';
import { mastersToRowquadNative } from '../../src/engine/cpu/ternarize-masters.ts';
import { DENSE_CODES } from '../../src/engine/recorded/operations.ts';
import { absmean } from '../../src/quant/absmean.ts';
import { f32ToBf16 } from '../../src/quant/bf16.ts';
import { f32ToF16 } from '../../src/quant/f16.ts';
import { packRowquad, rowquadByteLength } from '../../src/quant/rowquad.ts';
import { toFloat32 } from '../../src/quant/to-float32.ts';

const native = await loadNative();
const skip = 'reason' in native;

const STORE = {
  f32: (values: Float32Array) => new Uint8Array(values.buffer, values.byteOffset, values.byteLength),
  f16: f32ToF16,
  bf16: f32ToBf16,
};
type Name = keyof typeof STORE;

function view(name: Name, values: Float32Array, shape: readonly number[]) {
  return { name: 'w', dtype: name.toUpperCase() as 'F32' | 'F16' | 'BF16', shape, bytes: STORE[name](values) };
}

/** What native code must equal. */
function slow(masters: ReturnType<typeof view>, rows: number, columns: number) {
  const { trits, scale } = absmean(toFloat32(masters), rows, columns);
  return { bytes: packRowquad(trits, rows, columns), scale };
}

const values = fc.oneof(
  { weight: 8, arbitrary: fc.float({ min: -2, max: 2, noNaN: true }) },
  { weight: 1, arbitrary: fc.constantFrom(0, -0, 0.5, -0.5, 1, -1, 1e-7, 60000, 2 ** -24) },
);
const matrices = fc
  .record({
    name: fc.constantFrom<Name>('f32', 'f16', 'bf16'),
    rows: fc.integer({ min: 1, max: 11 }),
    columns: fc.integer({ min: 1, max: 40 }),
  })
  .chain(({ name, rows, columns }) => {
    const count = rows * columns;
    return fc
      .array(values, { minLength: count, maxLength: count })
      .map((list) => ({ name, rows, columns, masters: view(name, Float32Array.from(list), [rows, columns]) }));
  });

test.skipIf(skip)('masters of any shape: the bits of absmean and packRowquad', async () => {
  if ('reason' in native) return;
  const { addon } = native;
  await fc.assert(
    fc.asyncProperty(matrices, async ({ name, rows, columns, masters }) => {
      const wanted = slow(masters, rows, columns);
      const out = new Uint8Array(rowquadByteLength(rows, columns)).fill(0xff);
      const scale = await addon.mastersToRowquad(masters.bytes, DENSE_CODES[name], rows, columns, out);
      expect(scale).toBe(wanted.scale);
      expect(out).toEqual(wanted.bytes);
    }),
  );
});

const LARGE = [1031, 1025] as const;
const large = () => Float32Array.from({ length: LARGE[0] * LARGE[1] }, (_, i) => Math.sin(i) * 2 ** -((i * 7) % 23));

test.skipIf(skip).each(['f32', 'f16', 'bf16'] as const)('a large matrix of %s', async (name) => {
  const [rows, columns] = LARGE;
  const masters = view(name, large(), LARGE);
  const wanted = slow(masters, rows, columns);
  const out = new Uint8Array(rowquadByteLength(rows, columns));
  expect(await mastersToRowquadNative(masters, rows, columns, out)).toBe(wanted.scale);
  expect(Buffer.compare(out, wanted.bytes)).toBe(0);
});

test.skipIf(skip).each([Number.NaN, Number.POSITIVE_INFINITY, 3e38])(
  'a matrix with %d is left to the code that says where it is',
  async (bad) => {
    const [rows, columns] = LARGE;
    const floats = large();
    floats.fill(bad, 5000, 5002);
    const out = new Uint8Array(rowquadByteLength(rows, columns));
    const masters = view('f32', floats, LARGE);
    expect(() => slow(masters, rows, columns)).toThrow();
    expect(await mastersToRowquadNative(masters, rows, columns, out)).toBeUndefined();
  },
);

test.skipIf(skip)('the sum is taken in order', async () => {
  // 2^60 + 2^36 is halfway between two float32 numbers. One by one, each 100 is lost in rounding and the tie goes to the
  // even one; a sum of several lanes would collect them and round up.
  const floats = new Float32Array(1024 * 1024).fill(100);
  floats.set([2 ** 60, 2 ** 36]);
  const masters = view('f32', floats, [1024, 1024]);
  const out = new Uint8Array(rowquadByteLength(1024, 1024));
  expect(slow(masters, 1024, 1024).scale).toBe(2 ** 40);
  expect(await mastersToRowquadNative(masters, 1024, 1024, out)).toBe(2 ** 40);
});

test('a small matrix waits for no addon', async () => {
  const masters = view('f32', Float32Array.of(1, -1, 0, 1), [4, 1]);
  expect(await mastersToRowquadNative(masters, 4, 1, new Uint8Array(1))).toBeUndefined();
});

test.skipIf(skip)('arrays that do not fit are refused', () => {
  if ('reason' in native) return;
  const { addon } = native;
  const bytes = new Uint8Array(32);
  expect(() => addon.mastersToRowquad(bytes, 0, 4, 3, new Uint8Array(3))).toThrow('do not fit');
  expect(() => addon.mastersToRowquad(bytes, 0, 4, 2, new Uint8Array(3))).toThrow('do not fit');
  expect(() => addon.mastersToRowquad(bytes, 3, 4, 2, new Uint8Array(2))).toThrow('bad argument');
  expect(() => addon.mastersToRowquad(bytes, 0, 0, 2, new Uint8Array(2))).toThrow('bad argument');
});
