import { execFileSync } from 'node:child_process';
import { lstatSync, mkdtempSync, readdirSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { writeFileAtomically } from '../../src/formats/atomic-file.ts';

const root = mkdtempSync(join(tmpdir(), 'bitnet-atomic-'));
afterAll(() => rmSync(root, { recursive: true, force: true }));

test.skipIf(process.platform === 'win32')('what is no file is not replaced', async () => {
  const pipe = join(root, 'pipe');
  execFileSync('mkfifo', [pipe]);
  const link = join(root, 'link');
  symlinkSync(pipe, link);
  for (const path of [pipe, link]) {
    const written = writeFileAtomically(path, (sink) => sink.write(Uint8Array.of(1)));
    await expect(written).rejects.toThrow(/not a regular file/);
  }
  expect(lstatSync(pipe).isFIFO()).toBe(true);
  expect(lstatSync(link).isSymbolicLink()).toBe(true);
  expect(readdirSync(root).sort()).toEqual(['link', 'pipe']);
});
