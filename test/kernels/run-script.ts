import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { expect } from 'vitest';

const scripts = join(import.meta.dirname, '../../scripts');

export const has = (command: string) => spawnSync(command, ['--version']).status === 0;

/** What a script in `scripts` prints, which must not fail. */
export function run(script: string, args: readonly string[], env: Record<string, string> = {}): string {
  const done = spawnSync(join(scripts, script), args, { encoding: 'utf8', env: { ...process.env, ...env } });
  expect(done.status, done.stdout + done.stderr).toBe(0);
  return done.stdout;
}
