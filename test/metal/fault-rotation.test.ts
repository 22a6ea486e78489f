import { expect, test } from 'vitest';
import { FAULTS_SKIPPED, refusalWith } from './planted-fault.ts';

test.skipIf(FAULTS_SKIPPED)(
  'a missing barrier between strides of a rotation: the race is named',
  { timeout: 300_000 },
  async () => {
    const refusal = await refusalWith({
      file: 'exact.metal',
      from: 'low_difference - high_difference;\n        }\n        threadgroup_barrier(mem_flags::mem_threadgroup);',
      to: 'low_difference - high_difference;\n        }',
    });
    expect(refusal).toMatch(
      /of threadgroup array tile is (written by thread \d+ and used without|read by thread \d+ and|read before)/,
    );
  },
);
