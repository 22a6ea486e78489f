import { expect, test } from 'vitest';
import { snapshotBudget } from '../../src/generate/snapshot-budget.ts';

test('a number of MiB, or a gibibyte', () => {
  expect(snapshotBudget({})).toBe(2 ** 30);
  expect(snapshotBudget({ BITNET_SNAPSHOT_MIB: '' })).toBe(2 ** 30);
  expect(snapshotBudget({ BITNET_SNAPSHOT_MIB: '0' })).toBe(0);
  expect(snapshotBudget({ BITNET_SNAPSHOT_MIB: '4096' })).toBe(2 ** 32);
});

test.each(['many', '-1', '1.5', '1e3', ' 7', '99999999999'])('not %j', (given) => {
  expect(() => snapshotBudget({ BITNET_SNAPSHOT_MIB: given })).toThrow(/BITNET_SNAPSHOT_MIB is .*whole number of MiB/);
});
