import { describe, expect, test } from 'vitest';
import { misreadSign, PlusTwoBands } from '../../src/analysis/misread.ts';
import { ScaleTally } from '../../src/analysis/scale-tally.ts';

describe('scales', () => {
  test('halves and other floats are counted alike', () => {
    const tally = new ScaleTally();
    tally.push(Float32Array.of(0.5, -0, 0.5));
    tally.push(Float32Array.of(0.1, 0, 65504));
    expect(tally.spread()).toEqual({
      count: 6,
      min: 0,
      // 0 0 0.1 0.5 0.5 65504
      median: Math.fround(0.1),
      max: 65504,
      zeros: 2,
      largestShare: 1 / 6,
    });
    expect(tally.common()).toBeUndefined();
    expect(tally.largest()).toBe(65504);
    tally.push(Float32Array.of(-70000));
    expect(tally.largest()).toBe(70000);
    expect(tally.spread()).toMatchObject({ min: -70000, median: Math.fround(0.1) });
  });

  test('one scale but for those of zeros is the scale of all', () => {
    const one = new ScaleTally();
    one.push(Float32Array.of(0, 0.25, 0.25, -0));
    expect(one.common()).toBe(0.25);
    const none = new ScaleTally();
    none.push(new Float32Array(3));
    expect(none.common()).toBe(0);
    const signs = new ScaleTally();
    signs.push(Float32Array.of(0.25, -0.25));
    expect(signs.common()).toBeUndefined();
    expect(signs.mean()).toBe(0);
  });
});

describe('a misread layout', () => {
  /** 64 rows of 1024; `share(band)` of each 4 rows. */
  function bandsOf(share: (band: number) => number): PlusTwoBands {
    const bands = new PlusTwoBands(64, 1024);
    // A window of 30 rows ends inside a band of four.
    for (const [start, end] of [
      [0, 30],
      [30, 64],
    ] as const) {
      let from: number = start;
      for (const stop of bands.ends(start, end)) {
        const weights = (stop - from) * 1024;
        bands.push(from, share(Math.floor(from / 4)) * weights, weights);
        from = stop;
      }
      expect(from).toBe(end);
    }
    return bands;
  }

  test('is told by one weight in a hundred, evenly, together with scales above 1', () => {
    expect(bandsOf(() => 0.01).share).toBeCloseTo(0.01, 10);
    expect(
      misreadSign(
        'w',
        bandsOf(() => 0.01),
        4096,
      ),
    ).toMatch(/^w: 1\.00% of the weights have code 3, .* go up to 4096:/);
    expect(
      misreadSign(
        'w',
        bandsOf((band) => 0.007 + 0.0002 * band),
        1.5,
      ),
    ).toBeDefined();
  });

  test('is not told of small scales, of other shares, of a heap in one place', () => {
    expect(
      misreadSign(
        'w',
        bandsOf(() => 0.01),
        1,
      ),
    ).toBeUndefined();
    expect(
      misreadSign(
        'w',
        bandsOf(() => 0),
        4096,
      ),
    ).toBeUndefined();
    expect(
      misreadSign(
        'w',
        bandsOf(() => 0.2),
        4096,
      ),
    ).toBeUndefined();
    expect(
      misreadSign(
        'w',
        bandsOf((band) => (band === 3 ? 0.16 : 0)),
        4096,
      ),
    ).toBeUndefined();
  });

  test('bands of narrow and short matrices are whole rows', () => {
    expect(new PlusTwoBands(3, 10).ends(0, 3)).toEqual([3]);
    expect(new PlusTwoBands(2, 100_000).ends(0, 2)).toEqual([1, 2]);
  });
});
