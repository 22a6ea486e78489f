import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { FileAccessError } from '../../src/formats/errors.ts';
import { readSmallFile, readTextFile, readTextFileSync } from '../../src/formats/read-small-file.ts';

const folder = mkdtempSync(join(tmpdir(), 'bitnet-text-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const path = join(folder, 'card.md');
writeFileSync(path, 'größe');

test('reads up to the limit, and nothing that is no file', async () => {
  expect(await readTextFile(path, 7)).toBe('größe');
  await expect(readTextFile(path, 6)).rejects.toThrow(/has 7 bytes, at most 6/);
  expect(await readSmallFile(path, 7)).toEqual(Buffer.from('größe'));
  await expect(readTextFile(folder, 1 << 20)).rejects.toThrow(FileAccessError);
  expect(await readTextFile(join(folder, 'none'), 7)).toBeUndefined();
  await expect(readTextFile(join(path, 'below'), 7)).rejects.toMatchObject({ code: 'FILE_ACCESS', errno: 'ENOTDIR' });
});

test('at once as well', () => {
  expect(readTextFileSync(path, 7)).toBe('größe');
  expect(() => readTextFileSync(path, 6)).toThrow(/has 7 bytes, at most 6/);
  expect(() => readTextFileSync(folder, 1 << 20)).toThrow(FileAccessError);
  expect(readTextFileSync(join(folder, 'none'), 7)).toBeUndefined();
  expect(() => readTextFileSync(join(path, 'below'), 7)).toThrow(expect.objectContaining({ errno: 'ENOTDIR' }));
});

test.skipIf(process.platform === 'win32')('a pipe is refused, not waited for', async () => {
  const pipe = join(folder, 'pipe');
  execFileSync('mkfifo', [pipe]);
  await expect(readTextFile(pipe, 7)).rejects.toThrow(/not a regular file/);
  expect(() => readTextFileSync(pipe, 7)).toThrow(/not a regular file/);
});
