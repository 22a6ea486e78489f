import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { runCli } from './run-cli.ts';

const folder = mkdtempSync(join(tmpdir(), 'bitnet-world-list-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

test('world list says what it leaves out', async () => {
  const id = 'a'.repeat(64);
  mkdirSync(join(folder, 'worlds'));
  writeFileSync(join(folder, 'worlds', `${id}.json`), '{');
  const { code, stdout, stderr } = await runCli(['world', 'list', '--json'], { env: { BITNET_WORLDS: folder } });
  expect(code).toBe(0);
  expect(JSON.parse(stdout)).toEqual([]);
  expect(stderr).toContain('1 record is broken and left out');
  expect(stderr).toContain(join(folder, 'worlds', `${id}.json`));
});
