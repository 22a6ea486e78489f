// The kernels beyond this machine's Node: NEON under an emulator, and everything under sanitizers. Each part needs
// tools that not every machine has, and says which when it is skipped. The sanitizers take minutes: SANITIZE=1.

import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { expect, test } from 'vitest';

const scripts = join(import.meta.dirname, '../../scripts');
const has = (command: string) => spawnSync(command, ['--version']).status === 0;

function run(script: string, args: readonly string[], env: Record<string, string> = {}): string {
  const done = spawnSync(join(scripts, script), args, { encoding: 'utf8', env: { ...process.env, ...env } });
  expect(done.status, done.stdout + done.stderr).toBe(0);
  return done.stdout;
}

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

test.skipIf(process.env.SANITIZE !== '1' || !has('g++'))(
  'no sanitizer finds anything (SANITIZE=1, g++)',
  () => {
    expect(run('kernel-sanitize', [])).toContain('damaged programs: refused or run within their memory');
  },
  1_800_000,
);
