import { expect, test } from 'vitest';
import { FAULTS_SKIPPED, refusalWith } from './planted-fault.ts';

test.skipIf(FAULTS_SKIPPED)(
  'a fused multiply-add in a grouped product: other bits, and only group-scaled models are refused',
  { timeout: 300_000 },
  async () => {
    const refusal = await refusalWith({
      file: 'grouped.metal',
      from: 'total += float(sum) * scale;',
      to: 'total = __builtin_fmaf(float(sum), scale, total);',
    });
    expect(refusal).toMatch(
      /^Metal on .* does not run group-scaled models: in its self-test \d+ of 1344 logits .* are not the reference's/,
    );
  },
);
