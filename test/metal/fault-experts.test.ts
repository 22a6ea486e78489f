import { expect, test } from 'vitest';
import { FAULTS_SKIPPED, refusalWith } from './planted-fault.ts';

test.skipIf(FAULTS_SKIPPED)(
  'products with the first expert whatever was chosen: other bits',
  { timeout: 300_000 },
  async () => {
    const refusal = await refusalWith({
      file: 'grouped.metal',
      from: 'expert * panels + m.panel',
      to: 'm.panel',
    });
    expect(refusal).toMatch(
      /^Metal on .* does not run hybrid models: in its self-test \d+ of 6624 logits of a hybrid model are not/,
    );
  },
);
