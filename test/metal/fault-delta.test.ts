import { expect, test } from 'vitest';
import { FAULTS_SKIPPED, refusalWith } from './planted-fault.ts';

test.skipIf(FAULTS_SKIPPED)(
  'a fused multiply-add in the delta rule: other bits, and only hybrid models are refused',
  { timeout: 300_000 },
  async () => {
    const refusal = await refusalWith({
      file: 'hybrid.metal',
      from: 'const float updated = g * s[u] + key[u] * delta;',
      to: 'const float updated = __builtin_fmaf(key[u], delta, g * s[u]);',
    });
    expect(refusal).toMatch(
      /^Metal on .* does not run hybrid models: in its self-test \d+ of 6624 logits of a hybrid model are not/,
    );
  },
);
