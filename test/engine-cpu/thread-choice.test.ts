// How many threads help, found by measurement (kernels/include/thread_choice.h), on made-up machines.

import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';

const root = join(import.meta.dirname, '../..');
const compiler = process.env.CXX ?? 'c++';
const isThere = spawnSync(compiler, ['--version']).status === 0;

test.skipIf(!isThere)('the choice is within reach of the best on machines of every kind, also when they change', () => {
  const folder = mkdtempSync(join(tmpdir(), 'choice-'));
  try {
    const program = join(folder, 'check');
    const source = join(root, 'kernels/cpu/choice_check.cc');
    const built = spawnSync(compiler, ['-std=c++17', '-O1', source, '-o', program], { encoding: 'utf8' });
    expect(built.stderr).toBe('');
    const ran = spawnSync(program, { encoding: 'utf8' });
    expect(ran.stdout).toBe('threads are chosen well on machines of every kind\n');
    expect(ran.status).toBe(0);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});
