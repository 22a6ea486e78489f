// On Windows a child of a program without a console gets a window of its own unless told otherwise.

import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';

const src = join(import.meta.dirname, '../../src');

test('every file that starts processes hides their windows', () => {
  const starting = readdirSync(src, { recursive: true, encoding: 'utf8' })
    .filter((file) => file.endsWith('.ts') && !file.startsWith('app'))
    .map((file) => [file, readFileSync(join(src, file), 'utf8')] as const)
    .filter(([, text]) => text.includes("'node:child_process'"));
  expect(starting.map(([file]) => file)).toContain(join('child', 'child-host.ts'));
  for (const [file, text] of starting) {
    const calls = text.match(/(?<![.\w])(?:spawn|spawnSync|execFile|execFileSync|fork)\(/g) ?? [];
    const hidden = text.match(/windowsHide: true/g) ?? [];
    expect(hidden.length, file).toBeGreaterThanOrEqual(calls.length);
  }
});
