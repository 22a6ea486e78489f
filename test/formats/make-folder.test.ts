import { mkdtempSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { makeFolder } from '../../src/formats/make-folder.ts';

const root = mkdtempSync(join(tmpdir(), 'bitnet-folder-'));
afterAll(() => rmSync(root, { recursive: true, force: true }));

test('makes what is missing, and takes what is there', async () => {
  const deep = join(root, 'a', 'b', 'c');
  await makeFolder(deep);
  await makeFolder(deep);
  await makeFolder(join(root, 'a', 'd'));
  expect(statSync(deep).isDirectory()).toBe(true);
  expect(statSync(join(root, 'a', 'd')).isDirectory()).toBe(true);
});

test('a file in the way, and a link that leads nowhere', async () => {
  writeFileSync(join(root, 'file'), '');
  symlinkSync(join(root, 'nowhere'), join(root, 'link'));
  await expect(makeFolder(join(root, 'file'))).rejects.toThrow(/cannot be made: ENOTDIR \(.*file\)/);
  await expect(makeFolder(join(root, 'file', 'below'))).rejects.toMatchObject({ code: 'WRITE_FAILED' });
  await expect(makeFolder(join(root, 'link'))).rejects.toMatchObject({ code: 'WRITE_FAILED' });
  await expect(makeFolder(join(root, 'link', 'below'))).rejects.toMatchObject({ code: 'WRITE_FAILED' });
});

// Node's recursive mkdir does not come back from there.
test.skipIf(process.platform !== 'linux')('where nothing can be made', async () => {
  await expect(makeFolder('/proc/none/such')).rejects.toThrow(/cannot be made: ENOENT/);
});
