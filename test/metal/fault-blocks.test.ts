import { expect, test } from 'vitest';
import { FAULTS_SKIPPED, refusalWith } from './planted-fault.ts';

test.skipIf(FAULTS_SKIPPED)('attention in blocks of 32 positions: other bits', { timeout: 300_000 }, async () => {
  const refusal = await refusalWith({
    file: 'exact.metal',
    from: '#define ATTENTION_BLOCK 64u',
    to: '#define ATTENTION_BLOCK 32u',
  });
  expect(refusal).toMatch(
    /^Metal on .* does not run hybrid models: in its self-test \d+ of 6624 logits of a hybrid model are not/,
  );
});
