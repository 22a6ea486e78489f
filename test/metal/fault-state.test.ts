import { expect, test } from 'vitest';
import { FAULTS_SKIPPED, refusalWith } from './planted-fault.ts';

test.skipIf(FAULTS_SKIPPED)(
  'a convolution that leaves its state one row behind: other bits',
  { timeout: 300_000 },
  async () => {
    const refusal = await refusalWith({
      file: 'hybrid.metal',
      from: 'const uint n = rows + i;',
      to: 'const uint n = rows + i - 1u;',
    });
    expect(refusal).toMatch(
      /^Metal on .* does not run hybrid models: in its self-test \d+ of 6624 logits of a hybrid model are not/,
    );
  },
);
