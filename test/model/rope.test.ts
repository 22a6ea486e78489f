// The rotation tables of a program grow as far as a backend asks, and are complete for everybody else.

import { expect, test } from 'vitest';
import { resolveModel } from '../../src/hub/resolve-model.ts';
import { openModel } from '../../src/model/open-model.ts';
import { ropeTables } from '../../src/model/rope.ts';

const open = async () => (await openModel(await resolveModel('default'), { name: 'default', head: 'full' })).program;

test('rows come as they are asked for, with the bits of the complete table', async () => {
  const { rope, contextLength } = await open();
  const half = rope.rotaryDim / 2;
  const whole = ropeTables(10_000, rope.rotaryDim, contextLength);
  for (const end of [0, 1, 7, 5, 300]) {
    const { cos, sin } = rope.upTo!(end);
    expect(cos.length).toBe(contextLength * half);
    expect(cos.subarray(0, end * half)).toEqual(whole.cos.subarray(0, end * half));
    expect(sin.subarray(0, end * half)).toEqual(whole.sin.subarray(0, end * half));
  }
  // cos is nowhere 0 by itself.
  expect(
    rope.upTo!(0)
      .cos.subarray(300 * half)
      .every((value) => value === 0),
  ).toBe(true);
  const { cos } = rope.upTo!(0);
  expect(rope.sin).toEqual(whole.sin);
  expect(rope.cos).toEqual(whole.cos);
  // A backend that was given the arrays before has them still.
  expect(cos).toBe(rope.cos);
  expect(rope.upTo!(10 * contextLength).cos).toBe(cos);
});

test('whoever takes the tables gets all of them', async () => {
  const { rope, contextLength } = await open();
  const copy = { ...rope };
  expect(copy.cos).toEqual(ropeTables(10_000, rope.rotaryDim, contextLength).cos);
});
