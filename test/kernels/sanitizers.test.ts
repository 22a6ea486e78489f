// The kernels under address, undefined-behaviour and thread sanitizers: minutes, so only with SANITIZE=1.

import { expect, test } from 'vitest';
import { has, run } from './run-script.ts';

test.skipIf(process.env.SANITIZE !== '1' || !has('g++'))(
  'no sanitizer finds anything (SANITIZE=1, g++)',
  () => {
    expect(run('kernel-sanitize', [])).toContain('damaged programs: refused or run within their memory');
  },
  1_800_000,
);
