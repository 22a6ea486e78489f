import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { GAY_MCP_MAX_INDEX } from '../../src/color/gay-mcp.ts';
import { colorAt, colorStream, palette } from '../../src/color/palette.ts';
import { SCHEMES, type Scheme } from '../../src/color/scheme.ts';
import { traceColors } from '../../src/color/trace.ts';
import { ArgumentError } from '../../src/errors.ts';

const uint64 = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n });
const scheme = fc.constantFrom(...SCHEMES);

test('one color in full', () => {
  expect(colorAt({ seed: 1069n, index: 1 })).toEqual({
    index: 1,
    hex: '#6404C3',
    rgb: [100, 4, 195],
    hsl: { h: 270.157068, s: 0.959799, l: 0.390196 },
    oklch: { l: 0.439171, c: 0.23845, h: 295.353014 },
    trit: -1,
    role: 'MINUS',
  });
});

test('a palette is the colors one by one, from any start, in every scheme; a stream too', () => {
  fc.assert(
    fc.property(uint64, fc.nat(300), fc.integer({ min: 0, max: 20 }), scheme, (seed, start, n, scheme) => {
      const colors = palette({ seed, start, n, scheme });
      expect(colors).toEqual(Array.from({ length: n }, (_, i) => colorAt({ seed, index: start + i, scheme })));
      const stream = colorStream({ seed, start, scheme });
      expect(Array.from({ length: n }, () => stream.next().value)).toEqual(colors);
    }),
  );
});

test('seed + index wraps modulo 2^64', () => {
  expect(colorAt({ seed: 2n ** 64n - 1n, index: 1 }).hex).toBe(colorAt({ seed: 0n, index: 0 }).hex);
  expect(colorAt({ seed: 2n ** 64n - 1n, index: Number.MAX_SAFE_INTEGER }).hex).toBe(
    colorAt({ seed: 0n, index: Number.MAX_SAFE_INTEGER - 1 }).hex,
  );
});

test('bulk colors equal single ones across the carries of the counter', () => {
  for (const seed of [0n, 2n ** 32n - 2n, 2n ** 64n - 2n, 1069n]) {
    for (const start of [0, 1, 2 ** 32 - 2, Number.MAX_SAFE_INTEGER - 3]) {
      const bulk = traceColors({ seed, start }, new Uint32Array(4));
      const single = palette({ seed, start, n: 4 }).map(({ hex }) => Number.parseInt(hex.slice(1), 16));
      expect([...bulk]).toEqual(single);
    }
  }
});

test('trits: the thirds of the published rules', () => {
  fc.assert(
    fc.property(uint64, fc.nat(100), (seed, index) => {
      const { rgb, trit, role } = colorAt({ seed, index, scheme: 'gay-mcp' });
      expect(trit).toBe(((rgb[0] + rgb[1] + rgb[2]) % 3) - 1);
      expect(role).toBe(['MINUS', 'ERGODIC', 'PLUS'][trit + 1]);
    }),
  );
});

describe('limits', () => {
  test.each([-1, 1.5, Number.NaN, 2 ** 53, '3' as unknown as number])('index %s is refused', (index) => {
    expect(() => colorAt({ seed: 1n, index })).toThrow(ArgumentError);
  });

  test('gay-mcp reaches its largest index', () => {
    expect(colorAt({ seed: 1069n, index: GAY_MCP_MAX_INDEX, scheme: 'gay-mcp' }).hex).toBe('#B16D20');
  });

  test('gay-mcp says how far it goes and what goes further', () => {
    const index = GAY_MCP_MAX_INDEX + 1;
    expect(() => colorAt({ seed: 1n, index, scheme: 'gay-mcp' })).toThrow(
      /past the limit 1000000 .*use scheme trace or gay\.jl/,
    );
    expect(() => palette({ seed: 1n, start: GAY_MCP_MAX_INDEX, n: 2, scheme: 'gay-mcp' })).toThrow('at most 1 ');
    expect(colorAt({ seed: 1n, index, scheme: 'trace' }).index).toBe(index);
  });

  test('a palette may not pass the largest safe integer', () => {
    const start = Number.MAX_SAFE_INTEGER;
    expect(palette({ seed: 1n, start, n: 1 })).toHaveLength(1);
    expect(() => palette({ seed: 1n, start, n: 2 })).toThrow(ArgumentError);
    expect(() => palette({ seed: 1n, n: -1 })).toThrow('n must be');
  });

  test('a stream ends with the error, not with wrong colors', () => {
    const stream = colorStream({ seed: 1n, start: Number.MAX_SAFE_INTEGER });
    expect(stream.next().value.index).toBe(Number.MAX_SAFE_INTEGER);
    expect(() => stream.next()).toThrow(ArgumentError);
    expect(() => colorStream({ seed: 1n, start: -1 })).toThrow(ArgumentError);
  });

  test('unknown schemes and seeds out of range', () => {
    expect(() => colorAt({ seed: 1n, index: 1, scheme: 'gay' as Scheme })).toThrow('trace, gay-mcp, gay.jl');
    expect(() => colorAt({ seed: 2n ** 64n, index: 1 })).toThrow('2^64-1');
    expect(() => colorAt({ seed: -1n, index: 1 })).toThrow(ArgumentError);
  });
});
