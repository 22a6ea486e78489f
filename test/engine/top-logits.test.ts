import fc from 'fast-check';
import { expect, test } from 'vitest';
import { MAX_TOP } from '../../src/engine/backend.ts';
import { jsBackend } from '../../src/engine/js/backend.ts';
import { topLogits } from '../../src/engine/top-logits.ts';
import { randomProgram } from '../generate/helpers.ts';

const rowOf = fc
  .array(fc.oneof(fc.integer({ min: -3, max: 3 }), fc.double({ min: -200, max: 80, noNaN: true })), {
    minLength: 1,
    maxLength: 300,
  })
  .map((list) => Float32Array.from(list));

test('the front of a stable sort, and the sum of the weights', () => {
  fc.assert(
    fc.property(rowOf, fc.integer({ min: 1, max: MAX_TOP }), (row, wanted) => {
      const top = Math.min(wanted, row.length);
      const sorted = [...row.keys()].sort((a, b) => row[b]! - row[a]! || a - b).slice(0, top);
      const found = topLogits(row, 1, top);
      expect([...found.ids]).toEqual(sorted);
      expect([...found.logits]).toEqual(sorted.map((id) => row[id]));
      const mass = row.reduce((sum, logit) => sum + Math.exp(logit - row[sorted[0]!]!), 0);
      expect(found.mass[0]! / mass).toBeCloseTo(1, 5);
      // Whole units, so that any order of adding gives the same.
      expect(found.mass[0]! * 2 ** 32).toBe(Math.round(found.mass[0]! * 2 ** 32));
      expect(topLogits(row.toReversed(), 1, 1).mass[0]).toBe(found.mass[0]);
    }),
  );
});

test.each([Number.NaN, Number.POSITIVE_INFINITY])('a row with %f has no sum', (bad) => {
  for (const at of [0, 1, 20]) {
    const row = Float32Array.from({ length: 40 }, (_, i) => i / 10);
    row[at] = bad;
    expect(topLogits(row, 1, 1).mass[0]).toBeNaN();
  }
});

test('negative infinity weighs nothing; all of it has no sum', () => {
  const low = Number.NEGATIVE_INFINITY;
  expect(topLogits(Float32Array.of(low, 1, low), 1, 2)).toEqual({
    ids: Int32Array.of(1, 0),
    logits: Float32Array.of(1, low),
    mass: Float64Array.of(1),
  });
  expect(topLogits(Float32Array.of(low, low), 1, 1).mass[0]).toBeNaN();
});

test('a step tells what is asked for', async () => {
  const program = randomProgram();
  const run = async (asked: { top?: number; withoutLogits?: boolean }) => {
    const executable = await jsBackend.load(program, {});
    const rows = { sequences: Int32Array.of(0, 0, 0), positions: Int32Array.of(0, 1, 2) };
    executable.createSequence();
    return executable.step({ ...rows, tokens: Int32Array.of(0, 5, 9), outputRows: Int32Array.of(0, 2), ...asked });
  };
  const plain = await run({});
  expect(plain.top.mass).toHaveLength(0);
  expect((await run({ top: 3 })).logits).toEqual(plain.logits);
  const bare = await run({ top: 3, withoutLogits: true });
  expect(bare.logits).toHaveLength(0);
  expect(bare.top).toEqual(topLogits(plain.logits, 2, 3));
  for (const top of [-1, 1.5, MAX_TOP + 1]) await expect(run({ top })).rejects.toThrow(/ask for 0 to/);
});
