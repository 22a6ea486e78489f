import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve, sep } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { refusalOf } from '../../src/formats/errors.ts';
import { makeFolder, makeFolderSync } from '../../src/formats/make-folder.ts';

const root = mkdtempSync(join(tmpdir(), 'bitnet-folder-'));
afterAll(() => rmSync(root, { recursive: true, force: true }));

/** Both forms, called alike. */
const FORMS = [
  ['makeFolder', makeFolder],
  ['makeFolderSync', async (path: string, options?: { mode: number }) => makeFolderSync(path, options)],
] as const;

describe.each(FORMS)('%s', (name, make) => {
  const here = join(root, name);

  test('makes what is missing, and takes what is there', async () => {
    const deep = join(here, 'a', 'b', 'c');
    await make(deep);
    await make(deep);
    await make(join(here, 'a', 'd'), { mode: 0o700 });
    expect(statSync(deep).isDirectory()).toBe(true);
    expect(statSync(join(here, 'a', 'd')).isDirectory()).toBe(true);
    if (process.platform !== 'win32') expect(statSync(join(here, 'a', 'd')).mode & 0o777).toBe(0o700);
    await make('/');
  });

  test('a file in the way, and a link that leads nowhere', async () => {
    writeFileSync(join(here, 'file'), '');
    symlinkSync(join(here, 'nowhere'), join(here, 'link'));
    const inTheWay = /cannot be made: a file is in the way \(ENOTDIR\) \(.*file.*\); give another folder/;
    await expect(make(join(here, 'file'))).rejects.toThrow(inTheWay);
    await expect(make(join(here, 'file', 'below', 'it'))).rejects.toThrow(inTheWay);
    await expect(make(join(here, 'link'))).rejects.toMatchObject({ code: 'WRITE_FAILED' });
    await expect(make(join(here, 'link', 'below'))).rejects.toMatchObject({ code: 'WRITE_FAILED' });
    await expect(make(join(here, 'x'.repeat(300)))).rejects.toThrow('the name is too long (ENAMETOOLONG)');
  });

  // Node's asynchronous recursive mkdir does not come back from there.
  test.skipIf(process.platform !== 'linux')('where nothing can be made', async () => {
    await expect(make('/proc/none/such')).rejects.toThrow(/cannot be made: there is no such place \(ENOENT\)/);
  });
});

test.each([
  ['EROFS', 'the disk is read-only (EROFS)', 'give another folder'],
  ['ENOSPC', 'the disk is full (ENOSPC)', 'free some space on it'],
  ['EACCES', 'no permission (EACCES)', 'give a folder that you may write to'],
  ['ENODEV', 'there is no such drive (ENODEV)', 'give a folder that you may write to'],
  ['EXOTIC', 'EXOTIC', 'give a folder that you may write to'],
])('%s is said in words', (code, reason, fix) => {
  expect(refusalOf(Object.assign(new Error('x'), { code }))).toEqual({ reason, fix });
});

test('nobody else makes folders with `recursive`', () => {
  const src = resolve(import.meta.dirname, '../../src');
  const files = readdirSync(src, { recursive: true, encoding: 'utf8' }).filter((file) => file.endsWith('.ts'));
  const found = files.filter((file) => /\bmkdir(Sync)?\([^;]*recursive/s.test(readFileSync(join(src, file), 'utf8')));
  // Its room may not import formats; the synchronous form ends.
  expect(found.map((file) => file.split(sep).join('/'))).toEqual(['engine/metal/tuning.ts']);
});
