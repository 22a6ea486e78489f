// Every instruction set of x86-64 against plain C++, AMX emulated. Says which tools it needs when it is skipped.

import { expect, test } from 'vitest';
import { has, run } from './run-script.ts';

const x64 = process.arch === 'x64' && has('g++');

test.skipIf(!x64)(
  'x86-64 kernels compute what plain C++ does, AMX emulated; group-scaled products and layouts are the golden ones (g++)',
  () => {
    const output = run('kernel-selftest', ['--quick'], { EMULATE_AMX: '1' });
    expect(output).toMatch(/^scalar +same bits as scalar$/m);
    const [, usable] = /usable here: ([^;]+);/.exec(output)!;
    for (const isa of usable!.split(' ')) expect(output).toMatch(new RegExp(`^${isa} +same bits as scalar$`, 'm'));
    expect(output).toContain('repacking gives the codes of every source, products the golden numbers');
  },
  600_000,
);
