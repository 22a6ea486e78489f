import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { mix64, mix64InPlace, SplitMix64, splitmix64 } from '../../src/random/splitmix64.ts';
import { Uint64 } from '../../src/random/uint64.ts';

const uint64 = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n });
const modulo = (value: bigint) => BigInt.asUintN(64, value);

describe('splitmix64', () => {
  test('gives the published outputs of seed 1234567', () => {
    // The reference sequence of Vigna's splitmix64.c for that seed.
    const stream = new SplitMix64(1234567n);
    expect([1, 2, 3, 4, 5].map(() => stream.nextUint64())).toEqual([
      6457827717110365317n,
      3203168211198807973n,
      9817491932198370423n,
      4593380528125082431n,
      16408922859458223821n,
    ]);
  });

  test('pins of edge states', () => {
    expect(splitmix64(0n)).toBe(16294208416658607535n);
    expect(splitmix64(2n ** 64n)).toBe(16294208416658607535n);
    expect(splitmix64(1070n)).toBe(1150206295494886595n);
    expect(mix64(0n)).toBe(0n);
  });

  test('register and BigInt forms agree', () => {
    fc.assert(
      fc.property(uint64, (x) => {
        expect(mix64InPlace(Uint64.from(x)).toBigInt()).toBe(mix64(x));
        expect(new SplitMix64(x).nextUint64()).toBe(splitmix64(x));
      }),
      { numRuns: 500 },
    );
  });
});

describe('SplitMix64', () => {
  test('nextFloat is the high 53 bits of the output, below 1', () => {
    fc.assert(
      fc.property(uint64, (seed) => {
        const float = new SplitMix64(seed).nextFloat();
        expect(float).toBe(Number(splitmix64(seed) >> 11n) / 2 ** 53);
        expect(float).toBeLessThan(1);
      }),
    );
  });

  test('nextFloat is uniform: 16 bins of 32,000 draws pass a chi-squared test', () => {
    const stream = new SplitMix64(42n);
    const bins = new Array<number>(16).fill(0);
    for (let i = 0; i < 32_000; i++) bins[Math.floor(stream.nextFloat() * 16)]! += 1;
    const chi2 = bins.reduce((sum, count) => sum + (count - 2000) ** 2 / 2000, 0);
    expect(chi2).toBeLessThan(37.7); // 15 degrees of freedom, p = 0.001
  });

  test('a stream goes on from its state', () => {
    const first = new SplitMix64(2n ** 64n - 1n);
    for (let i = 0; i < 5; i++) first.nextFloat();
    const second = new SplitMix64(first.state);
    expect(second.nextUint64()).toBe(first.nextUint64());
  });
});

describe('Uint64', () => {
  test('add, multiply, xor and shifts equal BigInt arithmetic modulo 2^64', () => {
    fc.assert(
      fc.property(uint64, uint64, fc.integer({ min: 1, max: 63 }), (a, b, bits) => {
        const { hi, lo } = Uint64.from(b);
        expect(Uint64.from(a).add(hi, lo).toBigInt()).toBe(modulo(a + b));
        expect(Uint64.from(a).multiply(hi, lo).toBigInt()).toBe(modulo(a * b));
        expect(Uint64.from(a).xor(hi, lo).toBigInt()).toBe(a ^ b);
        expect(Uint64.from(a).xorShiftRight(bits).toBigInt()).toBe(a ^ (a >> BigInt(bits)));
      }),
      { numRuns: 2000, examples: [[2n ** 64n - 1n, 2n ** 64n - 1n, 32]] },
    );
  });

  test('bit changes equal the ones of x ^ x >> 1', () => {
    fc.assert(
      fc.property(uint64, (x) => {
        const ones = (x ^ (x >> 1n)).toString(2).replaceAll('0', '').length;
        expect(Uint64.from(x).countBitChanges()).toBe(ones);
      }),
    );
  });

  test('takes any safe integer', () => {
    fc.assert(
      fc.property(fc.maxSafeNat(), (value) => {
        expect(Uint64.fromNumber(value).toBigInt()).toBe(BigInt(value));
      }),
      { examples: [[Number.MAX_SAFE_INTEGER], [2 ** 32], [2 ** 31], [2 ** 32 - 1], [0]] },
    );
  });
});
