import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { PackedSizeError, TernaryCodeError } from '../../src/quant/errors.ts';
import { checkRowquad, packRowquad, unpackRowquad } from '../../src/quant/rowquad.ts';

const matrix = fc
  .record({ rows: fc.integer({ min: 1, max: 13 }), columns: fc.integer({ min: 1, max: 11 }) })
  .chain(({ rows, columns }) =>
    fc.record({
      rows: fc.constant(rows),
      columns: fc.constant(columns),
      trits: fc.array(fc.constantFrom(-1, 0, 1), { minLength: rows * columns, maxLength: rows * columns }),
    }),
  );

describe('rowquad', () => {
  test('one column of (+1, 0, -1, +1) is the byte 0x86', () => {
    expect(packRowquad(Int8Array.of(1, 0, -1, 1), 4, 1)).toEqual(Uint8Array.of(0x86));
  });

  test.each([
    { rows: 4, columns: 2, trits: [-1, 0, 0, 1, 1, -1, 1, 1], bytes: [0xa4, 0x89] },
    {
      rows: 8,
      columns: 3,
      trits: [1, 0, -1, 0, 1, 1, -1, -1, 0, 1, 1, 1, 0, 0, 0, -1, 0, 1, 1, -1, -1, 0, 1, -1],
      bytes: [0x92, 0x11, 0x14, 0x49, 0x9a, 0x2a],
    },
    { rows: 6, columns: 1, trits: [-1, 0, 1, -1, 0, 1], bytes: [0x18, 0x21] },
  ])('known bytes, $rows x $columns', ({ rows, columns, trits, bytes }) => {
    expect(packRowquad(Int8Array.from(trits), rows, columns)).toEqual(Uint8Array.from(bytes));
    expect(unpackRowquad(Uint8Array.from(bytes), rows, columns)).toEqual(Int8Array.from(trits));
  });

  test('unpacking undoes packing', () => {
    fc.assert(
      fc.property(matrix, ({ rows, columns, trits }) => {
        const packed = packRowquad(Int8Array.from(trits), rows, columns);
        expect(unpackRowquad(packed, rows, columns)).toEqual(Int8Array.from(trits));
      }),
    );
  });

  test('code 3 is found wherever it is, and only in fields that hold a row', () => {
    fc.assert(
      fc.property(matrix, fc.nat(), fc.nat(3), fc.nat(3), ({ rows, columns, trits }, where, field, shift) => {
        const packed = packRowquad(Int8Array.from(trits), rows, columns);
        // Any alignment: the check reads 32 bits at a time.
        const bytes = new Uint8Array(packed.length + 4).subarray(shift, shift + packed.length);
        bytes.set(packed);
        const index = where % bytes.length;
        bytes[index]! |= 3 << (2 * field);
        const row = field * Math.ceil(rows / 4) + Math.floor(index / columns);
        if (row >= rows) {
          expect(unpackRowquad(bytes, rows, columns)).toEqual(Int8Array.from(trits));
          return;
        }
        const error = thrownBy(() => checkRowquad(bytes, rows, columns, { tensor: 'w', file: 'f', offset: 1000 }));
        expect(error).toBeInstanceOf(TernaryCodeError);
        expect((error as TernaryCodeError).byteIndex).toBe(index);
        expect((error as Error).message).toContain(`row ${row}, column ${index % columns}`);
        expect((error as Error).message).toContain(`(f, byte ${1000 + index})`);
      }),
    );
  });

  test('code 3 is found in a large matrix, at every place of a word and on both sides of a block', () => {
    const [rows, columns] = [62, 1000];
    const sound = new Uint8Array(16 * columns).fill(0x55);
    checkRowquad(sound, rows, columns);
    const blocks = [0, 4096, 8192, 12_288];
    for (const index of [...blocks.flatMap((at) => [at - 2, at - 1, at, at + 1, at + 4, at + 15]), 13_999, 15_999]) {
      if (index < 0) continue;
      for (const field of [0, 1, 2, 3]) {
        const bytes = sound.slice();
        bytes[index]! |= 3 << (2 * field);
        const holdsRow = field * 16 + Math.floor(index / columns) < rows;
        const error = thrownBy(() => checkRowquad(bytes, rows, columns)) as TernaryCodeError | undefined;
        expect(error?.byteIndex, `byte ${index}, field ${field}`).toBe(holdsRow ? index : undefined);
      }
    }
  });

  test('a wrong length names both sizes', () => {
    expect(() => unpackRowquad(new Uint8Array(5), 4, 6)).toThrow(PackedSizeError);
    expect(() => unpackRowquad(new Uint8Array(5), 4, 6)).toThrow('needs 6 bytes as rowquad [4, 6], 5 were given');
  });
});

function thrownBy(run: () => void): unknown {
  try {
    run();
  } catch (error) {
    return error;
  }
  return undefined;
}
