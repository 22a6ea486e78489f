import { describe, expect, test } from 'vitest';
import { affineCodes, affineTrits, decodeAffine } from '../../src/quant/affine.ts';
import { PackedSizeError } from '../../src/quant/errors.ts';
import { rint } from '../../src/quant/rint.ts';

/** The encoder of MLX, for one row of groups: bytes of the words, scales and biases. */
function encodeAffine(values: readonly number[], bits: number, groupSize: number) {
  const n = 2 ** bits - 1;
  const scales: number[] = [];
  const biases: number[] = [];
  let string = 0n;
  for (let from = 0; from < values.length; from += groupSize) {
    const group = values.slice(from, from + groupSize);
    const high = Math.max(...group);
    const low = Math.min(...group);
    const useLow = Math.abs(low) > Math.abs(high);
    let scale = Math.max((high - low) / n, 1e-7);
    if (!useLow) scale = -scale;
    const edge = useLow ? low : high;
    const q0 = rint(edge / scale);
    let bias = 0;
    if (q0 !== 0) {
      scale = edge / q0;
      bias = edge;
    }
    scales.push(scale);
    biases.push(bias);
    group.forEach((value, i) => {
      const code = Math.min(n, Math.max(0, rint((value - bias) / scale)));
      string |= BigInt(code) << BigInt((from + i) * bits);
    });
  }
  const bytes = new Uint8Array((values.length * bits) / 8);
  for (let i = 0; i < bytes.length; i++) bytes[i] = Number((string >> BigInt(8 * i)) & 255n);
  return { bytes, scales: Float32Array.from(scales), biases: Float32Array.from(biases) };
}

describe('MLX affine', () => {
  test('codes (15, 8, 0, 0, 8, 15, 8, 0) are the word 0x08f8008f', () => {
    const bytes = Uint8Array.of(0x8f, 0x00, 0xf8, 0x08);
    const codes = affineCodes(bytes, { rows: 1, columns: 8, bits: 4, groupSize: 8 });
    expect([...codes]).toEqual([15, 8, 0, 0, 8, 15, 8, 0]);
  });

  test('a ternary group: one sign comes out short, the trits do not', () => {
    const values = Array.from({ length: 64 }, (_, i) => [-0.5, 0, 0.5, 0.5, 0, -0.5, 0, 0.5][i % 8]!);
    const { bytes, scales, biases } = encodeAffine(values, 4, 64);
    expect([...new Uint32Array(bytes.buffer)]).toEqual(new Array(8).fill(0x08f8008f));
    expect([scales[0], biases[0]]).toEqual([-0.0625, 0.5]);
    const decoded = decodeAffine(bytes, scales, biases, { rows: 1, columns: 64, bits: 4, groupSize: 64 });
    expect([...decoded.subarray(0, 8)]).toEqual([-0.4375, 0, 0.5, 0.5, 0, -0.4375, 0, 0.5]);
    const trits = affineTrits(decoded, 0.5, new Int8Array(64));
    expect([...trits]).toEqual(values.map((value) => Math.sign(value)));
  });

  test('a float group', () => {
    const words = 'dddeeeef bbccccdd 9aaaaabb 78888999 66667777 44445555 22233333 00011112';
    const bytes = new Uint8Array(Uint32Array.from(words.split(' '), (word) => Number.parseInt(word, 16)).buffer);
    const shape = { rows: 1, columns: 64, bits: 4, groupSize: 64 };
    const decoded = decodeAffine(bytes, Float32Array.of(-0.26875), Float32Array.of(2.6875), shape);
    [-1.34375, -1.075, -1.075, -1.075].forEach((want, i) => {
      expect(decoded[i]).toBeCloseTo(want, 6);
    });
    const values = Array.from({ length: 64 }, (_, j) => (j - 20) / 16);
    expect(encodeAffine(values, 4, 64).bytes).toEqual(bytes);
  });

  test.each([2, 3, 4, 5, 6, 8])('trits survive %i bits, whatever a group holds', (bits) => {
    const groups = [[-1, 0, 1], [-1, 1], [0, 1], [-1, 0], [1], [-1], [0]];
    const trits = groups.flatMap((kinds) => Array.from({ length: 32 }, (_, i) => kinds[i % kinds.length]!));
    const { bytes, scales, biases } = encodeAffine(
      trits.map((trit) => trit * 1.555),
      bits,
      32,
    );
    const shape = { rows: 7, columns: 32, bits, groupSize: 32 };
    const decoded = decodeAffine(bytes, scales, biases, shape);
    const largest = decoded.reduce((max, value) => Math.max(max, Math.abs(value)), 0);
    expect(largest).toBeCloseTo(1.555, 5);
    expect([...affineTrits(decoded, largest, new Int8Array(decoded.length))]).toEqual(trits);
  });

  test('sizes that do not fit are refused', () => {
    const shape = { rows: 1, columns: 64, bits: 4, groupSize: 64 };
    expect(() => affineCodes(new Uint8Array(31), shape)).toThrow(PackedSizeError);
    expect(() => decodeAffine(new Uint8Array(32), new Float32Array(2), new Float32Array(1), shape)).toThrow(
      PackedSizeError,
    );
  });
});
