import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { verifyQatCase } from '../../src/train/verify-qat.ts';

const folder = (name: string) => fileURLToPath(new URL(`../golden/train/${name}`, import.meta.url));

test.each(['qat_step_a_s611', 'qat_step_b_s622'])(
  '%s: loss, gradients, updates and run are the reference',
  async (name) => {
    const report = await verifyQatCase(folder(name));
    expect(report.failures).toEqual([]);
    expect(report.ok).toBe(true);
    // Far inside the case's tolerances, where a sound float32 implementation is.
    expect(report.lossAbsErr).toBeLessThan(2e-6);
    expect(report.logitsMaxAbsErr).toBeLessThan(2e-5);
    expect(report.worstGradient.value).toBeLessThan(2e-5);
    expect(report.adamwMaxAbsErr.value).toBeLessThan(1e-6);
    expect(report.losses).toHaveLength(30);
  },
);

test('a signal between two passes ends it', async () => {
  const controller = new AbortController();
  const seen: number[] = [];
  const onPass = (done: number) => {
    seen.push(done);
    if (done === 2) controller.abort();
  };
  const run = verifyQatCase(folder('qat_step_a_s611'), { signal: controller.signal, onPass });
  await expect(run).rejects.toMatchObject({ code: 'CANCELLED' });
  expect(seen).toEqual([0, 1, 2]);
});
