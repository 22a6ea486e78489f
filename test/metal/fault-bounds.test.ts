import { expect, test } from 'vitest';
import { FAULTS_SKIPPED, refusalWith } from './planted-fault.ts';

test.skipIf(FAULTS_SKIPPED)(
  'a read past the end: named with buffer, kernel and thread',
  { timeout: 300_000 },
  async () => {
    const refusal = await refusalWith({
      file: 'dense.metal',
      from: 'w[min(row + i, a.rows - 1u) * a.groups + g];\n            if (TYPE',
      to: 'w[min(row + i, a.rows) * a.groups + g + 1u];\n            if (TYPE',
    });
    expect(refusal).toMatch(
      /^Metal: access at byte \d+ of w \(0\), which has \d+ \(dense_bf16\w*, threadgroup \(\d+, \d+, \d+\), thread \d+\)/,
    );
  },
);
