import { expect, test } from 'vitest';
import { FAULTS_SKIPPED, refusalWith } from './planted-fault.ts';

test.skipIf(FAULTS_SKIPPED)(
  'a missing barrier between the simdgroups that sum and the threads that add: the race is named',
  { timeout: 300_000 },
  async () => {
    const refusal = await refusalWith({
      file: 'grouped.metal',
      from: 'p.lane);\n        }\n        threadgroup_barrier(mem_flags::mem_threadgroup);',
      to: 'p.lane);\n        }',
    });
    expect(refusal).toMatch(/of threadgroup array sums is (written by thread \d+ and used without|read before)/);
  },
);
