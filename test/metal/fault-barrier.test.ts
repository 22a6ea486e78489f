import { expect, test } from 'vitest';
import { FAULTS_SKIPPED, refusalWith } from './planted-fault.ts';

test.skipIf(FAULTS_SKIPPED)('a missing barrier: the race is named', { timeout: 300_000 }, async () => {
  const refusal = await refusalWith({
    file: 'common.metal',
    from: '= total; }\n    threadgroup_barrier(mem_flags::mem_threadgroup);',
    to: '= total; }',
  });
  expect(refusal).toMatch(
    /element \d+ of threadgroup array \w+ is (written by thread \d+ and used without|read before anything was written)/,
  );
});
