import { expect, test } from 'vitest';
import { FAULTS_SKIPPED, refusalWith } from './planted-fault.ts';

test.skipIf(FAULTS_SKIPPED)(
  'a guard off by one: what it wrote into the padding shows',
  { timeout: 300_000 },
  async () => {
    const refusal = await refusalWith({
      file: 'ternary.metal',
      from: 'if (lane < 4u && row < m.rows) {',
      to: 'if (lane < 4u && row <= m.rows) {',
    });
    expect(refusal).toMatch(/its self-test differs from the reference/);
  },
);
