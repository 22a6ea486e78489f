// The short way from GGUF's packed trits to rowquad against the readable one: unpack, reorder, pack.

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { TernaryCodeError } from '../../src/quant/errors.ts';
import { type GgmlTernaryType, unpackGgml } from '../../src/quant/ggml.ts';
import { type I2sLayout, packI2s } from '../../src/quant/i2s.ts';
import { Q2_BYTES } from '../../src/quant/q2.ts';
import { type PackedMatrix, repackFast, repackGgml } from '../../src/quant/repack.ts';
import { packRowquad, rowquadByteLength } from '../../src/quant/rowquad.ts';
import type { TernaryScale } from '../../src/quant/ternary-scale.ts';
import { packTq1, tq1Codes } from '../../src/quant/tq1.ts';
import { packTq2 } from '../../src/quant/tq2.ts';

type Kind = { readonly type: GgmlTernaryType; readonly layout: I2sLayout; readonly block: number };
const KINDS: readonly Kind[] = [
  { type: 'I2_S', layout: 'L128', block: 128 },
  { type: 'I2_S', layout: 'L64', block: 64 },
  { type: 'TQ2_0', layout: 'L128', block: 256 },
  { type: 'TQ1_0', layout: 'L128', block: 256 },
];
const WITH_CODE_3 = KINDS.filter(({ type }) => type !== 'TQ1_0');

function pack({ type, layout }: Kind, trits: Int8Array, rows: number, columns: number, scale: number): Uint8Array {
  if (type === 'I2_S') return packI2s(trits, rows, columns, scale, layout);
  return type === 'TQ1_0' ? packTq1(trits, scale) : packTq2(trits, scale);
}

/** What `repackGgml` promises to equal. */
function specification(matrix: PackedMatrix, at = {}): { bytes: Uint8Array; scale: TernaryScale } {
  const { type, bytes, rows, columns, i2sLayout = 'L128', sourceRow = (row) => row } = matrix;
  const { trits, scale } = unpackGgml(type, bytes, rows, columns, { i2sLayout, at });
  const ordered = new Int8Array(trits.length);
  for (let row = 0; row < rows; row += 1) {
    for (let c = 0; c < columns; c += 1) ordered[row * columns + c] = trits[sourceRow(row) * columns + c]!;
  }
  return { bytes: packRowquad(ordered, rows, columns), scale };
}

/** Memory in which something else has been. */
const used = (rows: number, columns: number) => new Uint8Array(rowquadByteLength(rows, columns)).fill(0xff);

const matrices = (kinds: readonly Kind[]) =>
  fc
    .record({
      kind: fc.constantFrom(...kinds),
      quads: fc.integer({ min: 1, max: 5 }),
      blocks: fc.integer({ min: 1, max: 5 }),
      seed: fc.integer(),
      scale: fc.constantFrom(0.5, 1.25, 3),
      reversed: fc.boolean(),
    })
    .map(({ kind, quads, blocks, seed, scale, reversed }) => {
      const rows = 4 * quads;
      const columns = kind.block * blocks;
      let state = seed;
      const trits = Int8Array.from({ length: rows * columns }, () => {
        state = (Math.imul(state, 1664525) + 1013904223) | 0;
        return ((state >>> 16) % 3) - 1;
      });
      const packed = pack(kind, trits, rows, columns, scale);
      // Bytes at an odd address: a file may have put them there.
      const bytes = new Uint8Array(packed.byteLength + 1).subarray(1);
      bytes.set(packed);
      const { type, layout: i2sLayout } = kind;
      const matrix: PackedMatrix = { type, bytes, rows, columns, i2sLayout };
      return reversed ? { ...matrix, sourceRow: (row: number) => rows - 1 - row } : matrix;
    });

describe('the short way', () => {
  test('a square of trits in TQ2_0 and what becomes of it', () => {
    const rows = [0x24, 0x00, 0x55, 0xaa];
    const bytes = new Uint8Array(4 * 66);
    rows.forEach((byte, row) => {
      bytes[66 * row] = byte;
    });
    const out = used(4, 256);
    expect(repackFast({ type: 'TQ2_0', bytes, rows: 4, columns: 256 }, out)).toBe(true);
    expect([0, 32, 64, 96].map((column) => out[column])).toEqual([0x90, 0x91, 0x92, 0x90]);
  });

  test('the same square in I2_S, whose first column is the highest field', () => {
    const bytes = new Uint8Array(4 * 32 + 32);
    [0x24, 0x00, 0x55, 0xaa].forEach((byte, row) => {
      bytes[32 * row] = byte;
    });
    const out = used(4, 128);
    expect(repackFast({ type: 'I2_S', bytes, rows: 4, columns: 128 }, out)).toBe(true);
    expect([0, 32, 64, 96].map((column) => out[column])).toEqual([0x90, 0x92, 0x91, 0x90]);
  });

  test('the codes of the TQ1_0 byte 0x45', () => {
    const { four, fifth } = tq1Codes();
    expect([four[0x45], fifth[0x45]]).toEqual([0x00010200, 2]);
  });

  test('is taken, and gives the bytes and the scale of the readable one', () => {
    fc.assert(
      fc.property(matrices(KINDS), (matrix) => {
        const { rows, columns } = matrix;
        const wanted = specification(matrix);
        const out = used(rows, columns);
        expect(repackFast(matrix, out)).toBe(true);
        expect(out).toEqual(wanted.bytes);
        const again = used(rows, columns);
        expect(repackGgml(matrix, again)).toEqual(wanted.scale);
        expect(again).toEqual(wanted.bytes);
      }),
    );
  });

  test('every byte of TQ1_0, also those that no packer writes', () => {
    const bytes = new Uint8Array(4 * 54 * 5);
    for (let i = 0; i < bytes.length; i += 1) bytes[i] = i;
    for (let block = 0; block < 20; block += 1) bytes.set([0, 0x38], 54 * block + 52);
    const matrix: PackedMatrix = { type: 'TQ1_0', bytes, rows: 4, columns: 256 * 5 };
    const out = used(4, 256 * 5);
    expect(repackFast(matrix, out)).toBe(true);
    expect(out).toEqual(specification(matrix).bytes);
  });

  test('a code 3 anywhere is the error of the readable way', () => {
    const place = { tensor: 'blk.0.attn_q.weight', file: 'model.gguf', offset: 4096 };
    fc.assert(
      fc.property(matrices(WITH_CODE_3), fc.nat(), fc.nat({ max: 3 }), fc.nat(), (matrix, where, field, other) => {
        const { bytes, rows, columns } = matrix;
        // One bad trit, and sometimes a second one: the first of the file is named.
        const dataBytes = matrix.type === 'I2_S' ? bytes.byteLength - 32 : bytes.byteLength;
        for (const index of [where % dataBytes, other % dataBytes].slice(0, 1 + (other % 2))) {
          const isScale = matrix.type === 'TQ2_0' && index % 66 >= 64;
          bytes[isScale ? index - 2 : index]! |= 3 << (2 * field);
        }
        const wanted = errorOf(() => specification(matrix, place));
        expect(wanted).toBeInstanceOf(TernaryCodeError);
        expect(repackFast(matrix, used(rows, columns))).toBe(false);
        const error = errorOf(() => repackGgml(matrix, used(rows, columns), place));
        expect(error).toBeInstanceOf(TernaryCodeError);
        expect({ ...error, message: error.message }).toEqual({ ...wanted, message: wanted.message });
      }),
    );
  });
});

function errorOf(run: () => unknown): Error {
  try {
    run();
  } catch (error) {
    return error as Error;
  }
  throw new Error('nothing was thrown');
}

describe('what the short way leaves to the readable one', () => {
  const trits = (count: number) => Int8Array.from({ length: count }, (_, i) => ((i * i + (i >> 3)) % 3) - 1);
  const q2 = new Uint8Array(4 * Q2_BYTES).fill(0x24);
  test.each<[string, PackedMatrix]>([
    ['rows that are no multiple of 4', { type: 'TQ2_0', bytes: packTq2(trits(6 * 256), 2), rows: 6, columns: 256 }],
    ['rows that end within a block', { type: 'I2_S', bytes: packI2s(trits(8 * 96), 8, 96, 2), rows: 8, columns: 96 }],
    [
      'I2_S with four rows to a byte',
      { type: 'I2_S', bytes: packI2s(trits(8 * 24), 8, 24, 2, 'L4ROW'), rows: 8, columns: 24, i2sLayout: 'L4ROW' },
    ],
    ['Q2_0', { type: 'Q2_0', bytes: q2.map((_, i) => (i % 18 < 2 ? 0x38 : 0x24)), rows: 4, columns: 64 }],
  ])('%s', (_, matrix) => {
    const { rows, columns } = matrix;
    const moved: PackedMatrix = { ...matrix, sourceRow: (row) => (row + 1) % rows };
    expect(repackFast(moved, used(rows, columns))).toBe(false);
    const wanted = specification(moved);
    const out = used(rows, columns);
    expect(repackGgml(moved, out)).toEqual(wanted.scale);
    expect(out).toEqual(wanted.bytes);
  });

  test.each(KINDS)('$type $layout bytes of a wrong length', (kind) => {
    const columns = kind.block;
    const bytes = pack(kind, trits(4 * columns), 4, columns, 1).subarray(1);
    const matrix: PackedMatrix = { type: kind.type, bytes, rows: 4, columns, i2sLayout: kind.layout };
    const wanted = errorOf(() => specification(matrix));
    expect(errorOf(() => repackGgml(matrix, used(4, columns))).message).toBe(wanted.message);
    expect(wanted.message).toMatch(/needs \d+ bytes/);
  });
});

describe('scales of blocks', () => {
  const blocks = (halves: readonly number[]) => {
    const bytes = new Uint8Array(halves.length * 66);
    const view = new DataView(bytes.buffer);
    halves.forEach((half, block) => {
      view.setUint16(66 * block + 64, half, true);
    });
    return bytes;
  };
  test.each([
    ['all alike', [0x3800, 0x3800, 0x3800, 0x3800]],
    ['zeros among them', [0, 0x3800, 0x8000, 0x3800]],
    ['nothing but zeros', [0, 0, 0, 0x8000]],
    ['two', [0x3800, 0x3800, 0x3801, 0x3800]],
    ['opposite', [0x3800, 0xb800, 0x3800, 0x3800]],
    ['infinite', [0x7c00, 0x7c00, 0x7c00, 0x7c00]],
    ['NaN', [0x7e00, 0x7e00, 0x7e00, 0x7e00]],
    ['one NaN', [0, 0x7e00, 0, 0]],
  ])('%s', (_, halves) => {
    const matrix: PackedMatrix = { type: 'TQ2_0', bytes: blocks(halves), rows: 4, columns: 256 };
    expect(repackFast(matrix, used(4, 256))).toBe(true);
    expect(repackGgml(matrix, used(4, 256))).toEqual(specification(matrix).scale);
  });
});
