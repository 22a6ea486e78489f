import { expect, test } from 'vitest';
import { FAKE_MISSING } from './fake-device.ts';
import { refusalWith } from './planted-fault.ts';

test.skipIf(FAKE_MISSING !== undefined)('a wrong constant: other logits', { timeout: 120_000 }, async () => {
  const refusal = await refusalWith({
    file: 'ternary.metal',
    from: 'd.f2 = floor(d.f0 * 0.0625f);',
    to: 'd.f2 = floor(d.f0 * 0.07f);',
  });
  expect(refusal).toMatch(/its self-test differs from the reference/);
});
