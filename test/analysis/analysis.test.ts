import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { addLayerStats, layerStats } from '../../src/analysis/layer-stats.ts';
import { addTritCounts, countRowquad, countTrits, NO_TRITS } from '../../src/analysis/trit-counts.ts';
import { ArgumentError } from '../../src/errors.ts';
import { TernaryCodeError } from '../../src/quant/errors.ts';
import { packRowquad } from '../../src/quant/rowquad.ts';

const matrices = fc
  .record({ rows: fc.integer({ min: 1, max: 40 }), columns: fc.integer({ min: 1, max: 300 }), seed: fc.nat() })
  .map(({ rows, columns, seed }) => {
    let state = seed | 1;
    const trits = Int8Array.from({ length: rows * columns }, () => {
      state = (Math.imul(state, 1664525) + 1013904223) | 0;
      return ((state >>> 16) % 3) - 1;
    });
    return { rows, columns, trits };
  });

const counted = (trits: Int8Array) => ({
  minus: trits.filter((trit) => trit === -1).length,
  ergodic: trits.filter((trit) => trit === 0).length,
  plus: trits.filter((trit) => trit === 1).length,
});

describe('counts', () => {
  test('one byte by hand: 0x86 is (+1, 0, -1, +1)', () => {
    expect(countRowquad(Uint8Array.of(0x86), { rows: 4, columns: 1 })).toEqual({ minus: 1, ergodic: 1, plus: 2 });
    // Three rows: the top field is padding, whatever it holds.
    expect(countRowquad(Uint8Array.of(0x86), { rows: 3, columns: 1 })).toEqual({ minus: 1, ergodic: 1, plus: 1 });
    expect(countRowquad(Uint8Array.of(0xc6), { rows: 3, columns: 1 })).toEqual({ minus: 1, ergodic: 1, plus: 1 });
    expect(countRowquad(Uint8Array.of(0xfe), { rows: 1, columns: 1 })).toEqual({ minus: 0, ergodic: 0, plus: 1 });
  });

  test('trits and packed bytes agree with plain counting, any shape', () => {
    fc.assert(
      fc.property(matrices, ({ rows, columns, trits }) => {
        const expected = counted(trits);
        expect(countTrits(trits)).toEqual(expected);
        expect(countRowquad(packRowquad(trits, rows, columns), { rows, columns })).toEqual(expected);
      }),
    );
  });

  test('windows of packed rows add up', () => {
    fc.assert(
      fc.property(matrices, fc.integer({ min: 1, max: 5 }), ({ rows, columns, trits }, step) => {
        const bytes = packRowquad(trits, rows, columns);
        let sum = NO_TRITS;
        for (let packedStart = 0; packedStart * columns < bytes.length; packedStart += step) {
          const window = bytes.subarray(packedStart * columns, (packedStart + step) * columns);
          sum = addTritCounts(sum, countRowquad(window, { rows, columns, packedStart }));
        }
        expect(sum).toEqual(counted(trits));
      }),
    );
  });

  test('the sums inside a word do not overflow:, all of one kind', () => {
    const bytes = new Uint8Array(100_000).fill(0b10101010);
    expect(countRowquad(bytes, { rows: 400, columns: 1000 })).toEqual({ minus: 0, ergodic: 0, plus: 400_000 });
    expect(countRowquad(bytes.fill(0b01010101), { rows: 400, columns: 1000 }).ergodic).toBe(400_000);
    expect(countRowquad(bytes.fill(0), { rows: 400, columns: 1000 })).toEqual({ minus: 400_000, ergodic: 0, plus: 0 });
  });

  test('any address and any length agree with counting the unpacked trits', () => {
    fc.assert(
      fc.property(fc.nat(3), fc.integer({ min: 1, max: 700 }), fc.constantFrom(1, 2, 3, 4), (offset, columns, rows) => {
        const trits = Int8Array.from({ length: rows * columns }, (_, i) => ((i * i + (i >> 2)) % 3) - 1);
        const buffer = new Uint8Array(offset + columns);
        buffer.set(packRowquad(trits, rows, columns), offset);
        expect(countRowquad(buffer.subarray(offset), { rows, columns })).toEqual(counted(trits));
      }),
    );
  });

  test('code 3 is refused with its place; the whole matrix of it too', () => {
    const bytes = new Uint8Array(20);
    bytes[13] = 0b00110000;
    const at = { tensor: 'q_proj.weight', file: 'model.safetensors', offset: 100 };
    expect(() => countRowquad(bytes, { rows: 8, columns: 10, at })).toThrow(TernaryCodeError);
    expect(() => countRowquad(bytes, { rows: 8, columns: 10, at })).toThrow(
      /q_proj\.weight.*row 5, column 3.*byte 113/,
    );
    expect(() => countRowquad(bytes.fill(255), { rows: 8, columns: 10 })).toThrow(TernaryCodeError);
  });

  test('bytes that do not fit the matrix, values that are no trits', () => {
    expect(() => countRowquad(new Uint8Array(7), { rows: 8, columns: 3 })).toThrow(ArgumentError);
    expect(() => countRowquad(new Uint8Array(9), { rows: 8, columns: 3 })).toThrow('rowquad [2, 3]');
    for (const value of [2, -2, 3, 127, -128]) {
      expect(() => countTrits(Int8Array.of(0, 1, value, -1))).toThrow(`element 2 is ${value}`);
    }
  });
});

describe('layer statistics', () => {
  test('pins', () => {
    expect(layerStats({ minus: 1, ergodic: 2, plus: 1 })).toEqual({
      counts: { minus: 1, ergodic: 2, plus: 1 },
      minusPct: 25,
      ergodicPct: 50,
      plusPct: 25,
      tritSum: 0,
      gf3Residue: 0,
      conserved: true,
      entropyBits: 1.5,
    });
    expect(layerStats({ minus: 5, ergodic: 0, plus: 0 })).toMatchObject({
      tritSum: -5,
      gf3Residue: 1,
      conserved: false,
      entropyBits: 0,
    });
    expect(layerStats({ minus: 7, ergodic: 7, plus: 7 }).entropyBits).toBeCloseTo(1.5849625007, 9);
    expect(layerStats(NO_TRITS)).toMatchObject({ minusPct: 0, ergodicPct: 0, plusPct: 0, entropyBits: 0 });
  });

  test('layers add up as their weights do', () => {
    fc.assert(
      fc.property(matrices, matrices, ({ trits: a }, { trits: b }) => {
        const both = layerStats(countTrits(Int8Array.from([...a, ...b])));
        const added = addLayerStats(layerStats(countTrits(a)), layerStats(countTrits(b)));
        expect(added).toEqual(both);
        expect(added.minusPct + added.ergodicPct + added.plusPct).toBeCloseTo(100, 9);
      }),
    );
  });
});
