// The kernels beyond this machine's Node: NEON under an emulator. Says which tools it needs when it is skipped.

import { expect, test } from 'vitest';
import { has, run } from './run-script.ts';

const arm = has('aarch64-linux-gnu-g++') && has('qemu-aarch64-static');

test.skipIf(!arm)(
  'NEON, sdot and smmla compute what plain C++ does (g++-aarch64-linux-gnu, qemu-user-static)',
  () => {
    const output = run('kernel-selftest', ['--quick'], {
      CXX: 'aarch64-linux-gnu-g++',
      LINK_EXTRA: '-static',
      RUN: 'qemu-aarch64-static -cpu max',
    });
    for (const isa of ['neon-i8mm', 'neon-dot', 'neon'])
      expect(output).toMatch(new RegExp(`^${isa} +same bits as scalar$`, 'm'));
    expect(output).toContain('products the golden numbers');
  },
  600_000,
);
