import { expect, test } from 'vitest';
import { FAULTS_SKIPPED, refusalWith } from './planted-fault.ts';

test.skipIf(FAULTS_SKIPPED)('a wrong constant: other logits', { timeout: 300_000 }, async () => {
  const refusal = await refusalWith({
    file: 'ternary.metal',
    from: 'd.f2 = floor(d.f0 * 0.0625f);',
    to: 'd.f2 = floor(d.f0 * 0.07f);',
  });
  expect(refusal).toMatch(/its self-test differs from the reference/);
});
