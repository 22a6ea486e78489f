import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { ArgumentError } from '../../src/errors.ts';
import { parseSeed } from '../../src/random/seed.ts';

describe('parseSeed', () => {
  test('takes every uint64 as decimal text, hex text and bigint', () => {
    fc.assert(
      fc.property(fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }), (seed) => {
        expect(parseSeed(`${seed}`, 'seed')).toBe(seed);
        expect(parseSeed(`0x${seed.toString(16)}`, 'seed')).toBe(seed);
        expect(parseSeed(`0x${seed.toString(16).toUpperCase().padStart(16, '0')}`, 'seed')).toBe(seed);
        expect(parseSeed(seed, 'seed')).toBe(seed);
      }),
      { examples: [[2n ** 64n - 1n], [2n ** 53n + 1n], [0n]] },
    );
  });

  test('takes every safe integer as a number', () => {
    expect(parseSeed(0, 'seed')).toBe(0n);
    expect(parseSeed(1069, 'seed')).toBe(1069n);
    expect(parseSeed(9007199254740991, 'seed')).toBe(9007199254740991n);
  });

  test.each([
    '',
    ' 1',
    '1 ',
    '1\n',
    '+1',
    '-1',
    '1.0',
    '1e3',
    '0x',
    '0X1F',
    '1F',
    '0b1',
    '0o7',
    '1_000',
    '1n',
    '١',
    '18446744073709551616',
    '0x10000000000000000',
    '9'.repeat(1_000_000),
    -1,
    1.5,
    Number.NaN,
    Number.POSITIVE_INFINITY,
    9007199254740992,
    1e300,
    2n ** 64n,
    -1n,
    null,
    undefined,
    true,
    {},
    [1],
    Symbol('x'),
  ])('refuses %s', (value) => {
    let error: unknown;
    try {
      parseSeed(value, 'sample_seed');
    } catch (thrown) {
      error = thrown;
    }
    expect(error).toBeInstanceOf(ArgumentError);
    const { message } = error as ArgumentError;
    expect(message).toMatch(/^sample_seed /);
    expect(message).toContain('9007199254740991');
    expect(message).toContain('0xffffffffffffffff');
    expect(message.length).toBeLessThan(500);
  });

  test('says that a large number has lost digits', () => {
    expect(() => parseSeed(2 ** 53, 'seed')).toThrow('lost digits: pass it as text');
  });
});
