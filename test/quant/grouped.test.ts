// Grouped layouts against byte vectors (test/golden/qwen3/ORIGIN.json), in both directions.

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { CodeNotHeldError, GroupScaleError, NotTernaryError, PackedSizeError } from '../../src/quant/errors.ts';
import { f16BitsToF32Bits, f16ToF32, f32BitsToF16Bits, f32ToF16 } from '../../src/quant/f16.ts';
import type { BlockLayoutName } from '../../src/quant/grouped/block-layout.ts';
import {
  BLOCK_LAYOUTS,
  countCodes,
  countNeverWritten,
  decodeBlocks,
  encodeBlocks,
  exactHalves,
} from '../../src/quant/grouped/codec.ts';
import {
  canonicalGroup,
  type GroupedMatrix,
  groupedValues,
  groupsOfScale,
  regroup,
  toCodes,
  toQuads,
} from '../../src/quant/grouped/grouped-matrix.ts';
import { decodeMlx, encodeMlx, type MlxPack } from '../../src/quant/grouped/mlx.ts';
import {
  fromPanel64,
  packPanel64,
  panel64ByteLength,
  quadsToPanel64,
  toPanel64,
  unpackPanel64,
} from '../../src/quant/grouped/panel64.ts';
import { packQuads, transposeQuads, unpackQuads } from '../../src/quant/grouped/quads.ts';
import { type GroupedBytes, repackToPanel64 } from '../../src/quant/grouped/repack-panel64.ts';
import { decodeUnpacked, encodeUnpacked, UnpackedDetector, unpackedGroup } from '../../src/quant/grouped/unpacked.ts';

type Vector = {
  layout: string;
  note: string;
  rows: number;
  K: number;
  hex?: string;
  scales?: number[];
  codes?: string;
  error?: string;
  noncanonical_bytes?: number;
  weight_hex?: string;
  scales_hex?: string;
  biases_hex?: string;
  dtype?: 'f16' | 'bf16' | 'f32';
  group?: number;
};

const golden = join(import.meta.dirname, '../golden/qwen3');
const { vectors } = JSON.parse(readFileSync(join(golden, 'layouts.json'), 'utf8')) as { vectors: Vector[] };

const hex = (text: string) => Uint8Array.from(Buffer.from(text, 'hex'));
const codesOf = (text: string) => Uint8Array.from(text, Number);
const toHex = (bytes: Uint8Array) => Buffer.from(bytes).toString('hex');

const BLOCKS: Readonly<Record<string, BlockLayoutName>> = {
  q2_0_g64: 'Q2_0',
  q2_0_g128: 'Q2_0_G128',
  pq2_0: 'PQ2_0',
  ptq1_0: 'PTQ1_0',
  q1_0: 'Q1_0',
};

describe('byte vectors', () => {
  for (const [i, vector] of vectors.entries()) {
    const { layout, note, rows, K: columns } = vector;
    test(`${i} ${layout}: ${note}`, () => {
      const name = BLOCKS[layout];
      if (name !== undefined) {
        const bytes = hex(vector.hex!);
        if (vector.error !== undefined) {
          expect(() => decodeBlocks(name, bytes, rows, columns)).toThrow(GroupScaleError);
          return;
        }
        const decoded = decodeBlocks(name, bytes, rows, columns);
        expect(toCodes(decoded).codes).toEqual(codesOf(vector.codes!));
        expect([...decoded.scales]).toEqual(vector.scales);
        if (vector.noncanonical_bytes === undefined) expect(toHex(encodeBlocks(name, decoded))).toBe(vector.hex);
        else {
          // Decoded all the same; what encodes back is another byte for the same digits.
          const again = encodeBlocks(name, decoded);
          expect(again.filter((byte, k) => byte !== bytes[k]).length).toBe(vector.noncanonical_bytes);
          expect(toCodes(decodeBlocks(name, again, rows, columns)).codes).toEqual(codesOf(vector.codes!));
        }
      } else if (layout === 'unpacked') {
        const type = vector.dtype!.toUpperCase() as 'F16' | 'BF16' | 'F32';
        const { group } = vector as { group: number };
        const bytes = hex(vector.hex!);
        if (vector.error !== undefined) {
          expect(() => decodeUnpacked(bytes, type, { rows, columns, group })).toThrow(NotTernaryError);
          return;
        }
        expect(unpackedGroup(bytes, type, columns)).toBe(group);
        const decoded = decodeUnpacked(bytes, type, { rows, columns, group });
        expect(toCodes(decoded).codes).toEqual(codesOf(vector.codes!));
        expect([...decoded.scales]).toEqual(vector.scales);
        // -0 does not survive: a zero is a zero.
        const plain = type === 'F32' ? '00000080' : '0080';
        const width = plain.length;
        const zeros = vector
          .hex!.match(new RegExp(`.{${width}}`, 'g'))!
          .map((element) => element.replace(plain, '0'.repeat(width)));
        expect(toHex(encodeUnpacked(decoded, type))).toBe(zeros.join(''));
      } else {
        expect(layout).toBe('mlx_affine_2bit_g128');
        const pack: MlxPack = {
          bits: 2,
          group: 128,
          weight: hex(vector.weight_hex!),
          scales: hex(vector.scales_hex!),
          biases: hex(vector.biases_hex!),
          scaleType: vector.dtype === 'bf16' ? 'BF16' : 'F16',
        };
        if (vector.error !== undefined) {
          expect(() => decodeMlx(pack, rows, columns)).toThrow(/bias is not -scale/);
          return;
        }
        const decoded = decodeMlx(pack, rows, columns);
        expect(toCodes(decoded).codes).toEqual(codesOf(vector.codes!));
        expect([...decoded.scales]).toEqual(vector.scales);
        const packed = encodeMlx(decoded, 2)!;
        expect(toHex(packed.weight)).toBe(vector.weight_hex);
        if (vector.dtype === 'f16') {
          expect(toHex(packed.scales)).toBe(vector.scales_hex);
          expect(toHex(packed.biases)).toBe(vector.biases_hex);
        }
      }
    });
  }
});

const rng = (seed: number) => {
  let state = seed >>> 0;
  return (n: number) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * n);
  };
};

function randomMatrix(seed: number, rows: number, columns: number, group: number, codes = [0, 1, 2, 3]): GroupedMatrix {
  const next = rng(seed);
  const halves = Uint16Array.from({ length: (rows * columns) / group }, () => next(0x7c00) | (next(2) << 15));
  return {
    rows,
    columns,
    group,
    codes: Uint8Array.from({ length: rows * columns }, () => codes[next(codes.length)]!),
    scales: f16ToF32(new Uint8Array(halves.buffer)),
  };
}

test('bytes worked by hand: quads, Q1_0, TQ1_0, TQ2_0, PTQ1_0', () => {
  expect([...packQuads(Uint8Array.of(0, 1, 2, 3, 1, 1, 0, 2), 1, 8)]).toEqual([0xe4, 0x85]);
  // A row of five: the second byte is filled up with zeros.
  expect([...packQuads(Uint8Array.of(0, 1, 2, 3, 2), 1, 5)]).toEqual([0xe4, 0x56]);
  expect(transposeQuads(0x000000e4)).toBe(0x03020100);
  const block = (columns: number, codes: readonly number[]) =>
    toQuads({
      rows: 1,
      columns,
      group: columns,
      codes: Uint8Array.from({ length: columns }, (_, i) => codes[i] ?? 0),
      scales: Float32Array.of(0.5),
    });
  expect(toHex(encodeBlocks('Q1_0', block(128, [2]))).slice(0, 8)).toBe('00380100');
  const tq1 = new Array(256).fill(0);
  for (const [i, e] of [0, 32, 64, 96, 128].entries()) tq1[e] = [0, 2, 1, 0, 2][i]!;
  expect(encodeBlocks('TQ1_0', block(256, tq1))[0]).toBe(0x45);
  const tq2 = new Array(256).fill(0);
  for (const [i, e] of [0, 32, 64, 96].entries()) tq2[e] = [0, 2, 1, 0][i]!;
  expect(encodeBlocks('TQ2_0', block(256, tq2))[0]).toBe(0x18);
  const ptq1 = new Array(128).fill(0);
  for (const [i, e] of [0, 16, 32, 48, 64].entries()) ptq1[e] = [0, 1, 1, 1, 1][i]!;
  for (const [i, e] of [120, 122, 124, 126].entries()) ptq1[e] = [1, 0, 1, 0][i]!;
  const bytes = encodeBlocks('PTQ1_0', block(128, ptq1));
  expect([bytes[0], bytes[24], bytes[26], bytes[27]]).toEqual([0x2b, 0x5f, 0x00, 0x38]);
});

test('every byte decodes by the rule of the digits, and thirteen are never written', () => {
  const bytes = Uint8Array.from({ length: 28 * 10 }, (_, i) => (i % 28 < 26 ? Math.floor(i / 28) * 26 + (i % 28) : 0));
  const { codes } = toCodes(decodeBlocks('PTQ1_0', bytes, 1, 1280));
  for (let i = 0; i < bytes.length; i++) {
    const m = i % 28;
    if (m >= 26) continue;
    const at = Math.floor(i / 28) * 128;
    const element = (n: number) => (m < 16 ? 16 * n + m : m < 24 ? 80 + 8 * n + m - 16 : 120 + 2 * n + m - 24);
    for (let n = 0; n < (m < 24 ? 5 : 4); n++) {
      expect(codes[at + element(n)]).toBe((((bytes[i]! * 3 ** n) % 256) * 3) >> 8);
    }
  }
  const never = Array.from({ length: 256 }, (_, byte) => byte).filter(
    (byte) => countNeverWritten('PTQ1_0', new Uint8Array(28).fill(byte, 0, 1)) === 1,
  );
  expect(never).toEqual([1, 20, 40, 60, 79, 99, 119, 138, 158, 178, 197, 217, 237]);
});

test.each(Object.keys(BLOCK_LAYOUTS) as BlockLayoutName[])('%s: encoding undoes decoding', (name) => {
  const { group, codes } = BLOCK_LAYOUTS[name];
  const allowed = [0, 1, 2, 3].filter((code) => (codes >> code) & 1);
  fc.assert(
    fc.property(fc.integer(), fc.integer({ min: 1, max: 5 }), fc.integer({ min: 1, max: 3 }), (seed, rows, groups) => {
      const matrix = randomMatrix(seed, rows, groups * group, group, allowed);
      expect(toCodes(decodeBlocks(name, encodeBlocks(name, toQuads(matrix)), rows, groups * group))).toEqual(matrix);
    }),
    { numRuns: 30 },
  );
});

test('what a layout cannot hold is refused with its number, and so is a scale that is no f16', () => {
  const matrix = { rows: 1, columns: 128, group: 128, codes: new Uint8Array(128).fill(2), scales: Float32Array.of(1) };
  matrix.codes[5] = 3;
  matrix.codes[9] = 3;
  matrix.codes[11] = 1;
  const at = { tensor: 'blk.0.ffn_up.weight' };
  expect(() => encodeBlocks('PTQ1_0', toQuads(matrix), { at })).toThrow(
    'tensor "blk.0.ffn_up.weight" has 2 of +2 times the scale, which PTQ1_0 has no code for',
  );
  expect(() => encodeBlocks('Q1_0', toQuads(matrix), { at })).toThrow(/1 weights of 0 and 2 of \+2 times the scale/);
  expect(() => encodeUnpacked(toQuads(matrix), 'F16', { at })).toThrow(CodeNotHeldError);
  for (const scale of [2 ** -25, 1 + 2 ** -11, 65520, Number.NaN, Number.POSITIVE_INFINITY]) {
    expect(() => encodeBlocks('PQ2_0', toQuads({ ...matrix, scales: Float32Array.of(scale) }))).toThrow(
      GroupScaleError,
    );
  }
  expect(() => encodeBlocks('Q2_0', toQuads(matrix))).toThrow(PackedSizeError);
  expect(() => decodeBlocks('PQ2_0', new Uint8Array(33), 1, 128)).toThrow(PackedSizeError);
  expect(() => decodeBlocks('PQ2_0', new Uint8Array(34), 1, 64)).toThrow(PackedSizeError);
});

test('halves are exact for every pattern, and rounding back gives the pattern', () => {
  const halves = Uint16Array.from({ length: 65536 }, (_, i) => i);
  const wide = f16ToF32(new Uint8Array(halves.buffer));
  for (let h = 0; h < 65536; h++) {
    const exponent = (h >> 10) & 31;
    const fraction = h & 1023;
    const sign = h & 0x8000 ? -1 : 1;
    if (exponent === 31) expect(Number.isFinite(wide[h])).toBe(false);
    else {
      const value = exponent === 0 ? fraction * 2 ** -24 : (1 + fraction / 1024) * 2 ** (exponent - 15);
      if (!Object.is(wide[h], sign * value)) expect(wide[h]).toBe(sign * value);
      if (f32BitsToF16Bits(f16BitsToF32Bits(h)) !== h) expect(h).toBe(-1);
    }
  }
  expect(exactHalves(Float32Array.of(1, 0.1))).toBe(1);
  // Ties to even, the largest half, the smallest.
  expect([...new Uint16Array(f32ToF16(Float32Array.of(65519.99, 65520, 2 ** -25, 1.5 * 2 ** -24, -0)).buffer)]).toEqual(
    [0x7bff, 0x7c00, 0, 2, 0x8000],
  );
});

describe('MLX', () => {
  test('one bit: scale is 2s, bias is -s', () => {
    const matrix = randomMatrix(5, 3, 256, 128, [0, 2]);
    for (let i = 0; i < matrix.scales.length; i++) matrix.scales[i] = 0.25 * (i - 2);
    const pack = encodeMlx(toQuads(matrix), 1)!;
    expect(pack.weight.byteLength).toBe((3 * 256) / 8);
    expect(toCodes(decodeMlx(pack, 3, 256))).toEqual(matrix);
    // By hand: word 1, scale 1 (0x3c00), bias -0.5 (0xb800): the first weight is +0.5, the others are -0.5.
    const one: MlxPack = {
      bits: 1,
      group: 32,
      weight: hex('01000000'),
      scales: hex('003c'),
      biases: hex('00b8'),
      scaleType: 'F16',
    };
    expect([...groupedValues(decodeMlx(one, 1, 32))].slice(0, 3)).toEqual([0.5, -0.5, -0.5]);
    expect(() => decodeMlx({ ...one, biases: hex('0038') }, 1, 32)).toThrow(NotTernaryError);
    expect(encodeMlx(toQuads(randomMatrix(1, 1, 32, 32)), 1)).toBeUndefined();
  });

  test('groups of 32, 64, 128; a bias one unit off, or a scale that is not finite, is refused', () => {
    for (const group of [32, 64, 128]) {
      const matrix = randomMatrix(group, 2, 256, group);
      const pack = encodeMlx(toQuads(matrix), 2)!;
      expect(toCodes(decodeMlx(pack, 2, 256))).toEqual(matrix);
      const biases = Uint8Array.from(pack.biases);
      biases[biases.length - 2]! ^= 1;
      const row = `row 1, group ${256 / group - 1}`;
      expect(() => decodeMlx({ ...pack, biases }, 2, 256, { at: { tensor: 'x' } })).toThrow(row);
      const scales = Uint8Array.from(pack.scales);
      scales.set([0x00, 0x7c], 2);
      expect(() => decodeMlx({ ...pack, scales }, 2, 256)).toThrow(GroupScaleError);
      expect(() => decodeMlx({ ...pack, biases: biases.subarray(2) }, 2, 256)).toThrow(PackedSizeError);
      expect(() => decodeMlx({ ...pack, weight: pack.weight.subarray(4) }, 2, 256)).toThrow(PackedSizeError);
    }
    expect(encodeMlx(toQuads({ ...randomMatrix(1, 1, 32, 32), scales: Float32Array.of(0.1) }), 2)).toBeUndefined();
  });
});

describe('unpacked floats', () => {
  const trits = (group: number, columns: number, rows = 3) => randomMatrix(group, rows, columns, group, [0, 1, 2]);
  const positive = (matrix: GroupedMatrix): GroupedMatrix => ({
    ...matrix,
    // A group of its own never has the scale of its neighbour, nor none.
    scales: matrix.scales.map((_, i) => 0.5 + i / 1024),
  });

  test.each(['F16', 'BF16', 'F32'] as const)('%s: the group is found, also whole rows', (type) => {
    for (const [group, columns] of [
      [128, 256],
      [64, 320],
      [32, 96],
      [50, 50],
    ] as const) {
      const matrix = positive(trits(group, columns));
      if (type === 'BF16') for (let i = 0; i < matrix.scales.length; i++) matrix.scales[i] = 1 + (i % 100) / 128;
      const bytes = encodeUnpacked(toQuads(matrix), type);
      expect(unpackedGroup(bytes, type, columns)).toBe(group);
      expect(toCodes(decodeUnpacked(bytes, type, { rows: 3, columns, group }))).toEqual(matrix);
    }
  });

  test('windows tell the same; a group holds only when it holds everywhere', () => {
    const fine = encodeUnpacked(toQuads(positive(trits(128, 256))), 'F32');
    const coarse = encodeUnpacked(toQuads(positive(trits(32, 256))), 'F32');
    const detector = new UnpackedDetector(256);
    detector.push(fine, 'F32');
    expect(detector.groups).toEqual([128, 64, 32]);
    detector.push(coarse, 'F32');
    expect(detector.groups).toEqual([32]);
    // A whole row of one magnitude is every group as well.
    const row = new UnpackedDetector(256);
    row.push(encodeUnpacked(toQuads({ ...trits(256, 256, 1), scales: Float32Array.of(3) }), 'F32'), 'F32');
    expect(row.groups).toEqual([128, 64, 32, 256]);
  });

  test('a second magnitude, one unit off, and what is not finite make it dense', () => {
    const bytes = encodeUnpacked(toQuads(positive(trits(32, 96))), 'F16');
    const halves = new Uint16Array(bytes.buffer);
    const index = halves.findIndex((h) => (h & 0x7fff) !== 0);
    for (const wrong of [halves[index]! + 1, 0x7c00, 0x7e00]) {
      const other = Uint16Array.from(halves);
      other[index + 1] = wrong;
      other[index + 2] = halves[index]!;
      expect(unpackedGroup(new Uint8Array(other.buffer), 'F16', 96)).toBeUndefined();
      expect(() => decodeUnpacked(new Uint8Array(other.buffer), 'F16', { rows: 3, columns: 96, group: 32 })).toThrow(
        NotTernaryError,
      );
    }
    expect(() => encodeUnpacked(toQuads({ ...trits(32, 32, 1), scales: Float32Array.of(0.1) }), 'BF16')).toThrow(
      /no BF16/,
    );
  });
});

describe('groups', () => {
  test('one scale for a matrix, for blocks of rows and of columns', () => {
    const at = (scale: Parameters<typeof groupsOfScale>[0]) => {
      const { group, scales } = groupsOfScale(scale, 4, 8);
      return [group, ...scales];
    };
    expect(at({ kind: 'tensor', value: 3 })).toEqual([8, 3, 3, 3, 3]);
    expect(at({ kind: 'rowSlices', values: Float32Array.of(1, 2) })).toEqual([8, 1, 1, 2, 2]);
    expect(at({ kind: 'columnSlices', values: Float32Array.of(1, 2) })).toEqual([4, 1, 2, 1, 2, 1, 2, 1, 2]);
    expect(at({ kind: 'groups', size: 4, values: new Float32Array(8).fill(7) })).toEqual([4, ...new Array(8).fill(7)]);
  });

  const halves = (...scales: number[]): GroupedMatrix => ({
    rows: 1,
    columns: 32 * scales.length,
    group: 32,
    codes: new Uint8Array(32 * scales.length).fill(2),
    scales: Float32Array.from(scales),
  });

  test('neighbours join when their scales have equal bits or one holds only zeros', () => {
    const joined = (matrix: GroupedMatrix) => {
      const found = canonicalGroup(toQuads(matrix));
      return [found.group, ...found.scales];
    };
    expect(joined(halves(1, 1, 1, 1))).toEqual([128, 1]);
    expect(joined(halves(1, 1, 2, 2))).toEqual([64, 1, 2]);
    expect(joined(halves(1, 2, 2, 2))).toEqual([32, 1, 2, 2, 2]);
    expect(joined(halves(0, 1, 0, 1))).toEqual([128, 1]);
    expect(joined(halves(0, -0, 0, 0))).toEqual([128, 0]);
    // 96 columns are no multiple of 64.
    expect(joined(halves(1, 1, 1))).toEqual([32, 1, 1, 1]);
    // Only zeros under a scale of their own: the first, then the second of several.
    const first = halves(5, 1, 1, 1);
    first.codes.fill(1, 0, 32);
    expect(joined(first)).toEqual([128, 1]);
    const middle = halves(5, 5, 1, 1);
    middle.codes.fill(1, 0, 32);
    expect(joined(middle)).toEqual([64, 5, 1]);
    // Whole rows and blocks of 256 come apart.
    expect(joined({ ...halves(1, 1, 1, 1, 1, 1, 1, 1), group: 256, scales: Float32Array.of(4) })).toEqual([128, 4, 4]);
    expect(
      joined({ ...halves(1, 1, 1), columns: 50, codes: new Uint8Array(50), group: 50, scales: Float32Array.of(4) }),
    ).toEqual([50, 4]);
  });

  test('joining keeps every weight: what scale 0 hid stays hidden', () => {
    const matrix = halves(0, 3, 3, 3);
    const [before, after] = [toQuads(matrix), canonicalGroup(toQuads(matrix))];
    expect(after.group).toBe(128);
    expect(groupedValues(after)).toEqual(groupedValues(before));
    expect(toCodes(after).codes.slice(0, 33)).toEqual(Uint8Array.from([...new Array(32).fill(1), 2]));
    expect(regroup(before, 48)).toBeUndefined();
  });

  test('a file of groups of 64 becomes one of 128 (golden scales)', () => {
    const { tensors } = readSafetensors(join(golden, 'group_matmul_int16.safetensors'));
    const codes = Uint8Array.from(tensors.get('merge.codes')!.bytes);
    const [rows, columns] = tensors.get('merge.codes')!.shape as [number, number];
    const scales = (name: string) => f16ToF32(Uint8Array.from(tensors.get(name)!.bytes));
    const found = canonicalGroup(toQuads({ rows, columns, group: 64, codes, scales: scales('merge.scales64') }));
    expect(found.group).toBe(128);
    const wanted = scales('merge.scales128');
    let free = 0;
    for (let i = 0; i < wanted.length; i++) {
      // A group of zeros alone may have any scale.
      if (codes.subarray(i * 128, (i + 1) * 128).every((code) => code === 1)) free++;
      else expect(found.scales[i]).toBe(wanted[i]);
    }
    expect(free).toBe(1);
  });
});

function readSafetensors(path: string) {
  const file = readFileSync(path);
  const length = Number(file.readBigUInt64LE(0));
  const header = JSON.parse(file.toString('utf8', 8, 8 + length)) as Record<
    string,
    { shape: number[]; data_offsets: [number, number] }
  >;
  const tensors = new Map(
    Object.entries(header)
      .filter(([name]) => name !== '__metadata__')
      .map(
        ([
          name,
          {
            shape,
            data_offsets: [from, to],
          },
        ]) => [name, { shape, bytes: file.subarray(8 + length + from, 8 + length + to) }],
      ),
  );
  return { tensors };
}

describe('panel64', () => {
  test('every code lies where the diagram says, and what has no row or column is a zero', () => {
    for (const [rows, columns] of [
      [1, 1],
      [64, 8],
      [65, 6],
      [130, 12],
      [63, 7],
    ] as const) {
      const next = rng(rows * columns);
      const codes = Uint8Array.from({ length: rows * columns }, () => next(4));
      const panels = packPanel64(codes, rows, columns);
      expect(panels.byteLength).toBe(panel64ByteLength(rows, columns));
      expect(panels.byteLength).toBe(Math.ceil(rows / 64) * Math.ceil(columns / 4) * 64);
      const wanted = new Uint8Array(panels.byteLength);
      const across = Math.ceil(columns / 4);
      for (let row = 0; row < Math.ceil(rows / 64) * 64; row++) {
        for (let c = 0; c < across * 4; c++) {
          const code = row < rows && c < columns ? codes[row * columns + c]! : 1;
          const at = (Math.floor(row / 64) * across + Math.floor(c / 4)) * 64 + 4 * (row % 16) + (c % 4);
          wanted[at]! |= code << (2 * (Math.floor(row / 16) % 4));
        }
      }
      expect(panels).toEqual(wanted);
      expect(unpackPanel64(panels, rows, columns)).toEqual(codes);
    }
  });

  test('rows (0, 16, 32, 48) = codes (0, 1, 2, 3) is the byte 0xe4', () => {
    const codes = Uint8Array.from({ length: 64 }, (_, row) => row >> 4);
    expect(packPanel64(codes, 64, 1)[0]).toBe(0xe4);
  });

  test('rows in another order, windows into a larger place, places that are not aligned', async () => {
    const matrix = randomMatrix(9, 130, 128, 64);
    const quads = toQuads(matrix);
    const reversed = await toPanel64(quads, { sourceRow: (row) => 129 - row });
    const { codes, scales } = toCodes(fromPanel64(reversed));
    expect(codes.slice(0, 128)).toEqual(matrix.codes.slice(129 * 128));
    expect(scales.slice(0, 2)).toEqual(matrix.scales.slice(258));
    const whole = packPanel64(matrix.codes, 130, 128);
    const parts = new Uint8Array(whole.length + 1).subarray(1);
    const line = (128 / 4) * 64;
    quadsToPanel64(quads.quads.subarray(0, 64 * 32), 64, 128, parts.subarray(0, line));
    quadsToPanel64(quads.quads.subarray(64 * 32), 66, 128, parts.subarray(line));
    expect(parts).toEqual(whole);
    expect(() => quadsToPanel64(quads.quads, 130, 128, new Uint8Array(4))).toThrow(PackedSizeError);
    expect(unpackQuads(quads.quads, 130, 128)).toEqual(matrix.codes);
  });

  test('scales are f16 where all are, else f32, and 0 for rows that do not exist', async () => {
    const matrix = randomMatrix(4, 3, 256, 128);
    const panels = await toPanel64(toQuads(matrix));
    expect([panels.scaleType, panels.scales.byteLength]).toEqual(['f16', 2 * 2 * 64]);
    const halves = new Uint16Array(panels.scales.buffer);
    expect([halves[0], halves[64], halves[2], halves[3]]).toEqual([
      f32BitsToF16Bits(new Uint32Array(matrix.scales.buffer)[0]!),
      f32BitsToF16Bits(new Uint32Array(matrix.scales.buffer)[1]!),
      f32BitsToF16Bits(new Uint32Array(matrix.scales.buffer)[4]!),
      0,
    ]);
    expect(toCodes(fromPanel64(panels))).toEqual(matrix);
    matrix.scales[3] = 0.1;
    const wide = await toPanel64(toQuads(matrix));
    expect([wide.scaleType, wide.scales.byteLength]).toEqual(['f32', 4 * 2 * 64]);
    expect(toCodes(fromPanel64(wide))).toEqual(matrix);
  });

  test('one matrix from every layout gives the same panels', async () => {
    const matrix = randomMatrix(7, 70, 256, 128, [0, 1, 2]);
    for (let i = 0; i < matrix.scales.length; i++) matrix.scales[i] = 0.25 + (i % 64) / 128;
    const quads = toQuads(matrix);
    const blocks = (layout: BlockLayoutName, group: number): GroupedBytes => ({
      form: 'blocks',
      layout,
      bytes: encodeBlocks(layout, regroup(quads, group)!),
    });
    const wanted = await repackToPanel64(blocks('PQ2_0', 128), 70, 256);
    expect(toCodes(fromPanel64(wanted))).toEqual(matrix);
    const sources: GroupedBytes[] = [
      blocks('Q2_0', 64),
      blocks('Q2_0_G128', 128),
      blocks('PTQ1_0', 128),
      { form: 'mlx', ...encodeMlx(quads, 2)! },
      { form: 'mlx', ...encodeMlx(regroup(quads, 32)!, 2)! },
      { form: 'floats', type: 'F16', bytes: encodeUnpacked(quads, 'F16'), group: 128 },
      { form: 'floats', type: 'BF16', bytes: encodeUnpacked(quads, 'BF16'), group: 64 },
      { form: 'floats', type: 'F32', bytes: encodeUnpacked(quads, 'F32'), group: 32 },
    ];
    for (const source of sources) expect(await repackToPanel64(source, 70, 256)).toEqual(wanted);
  });
});

test('codes are counted', () => {
  expect(countCodes(packQuads(Uint8Array.of(0, 1, 2, 3, 3, 3, 0, 1), 1, 8), 8)).toEqual([2, 2, 1, 3]);
});
