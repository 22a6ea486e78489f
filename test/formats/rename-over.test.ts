// On Windows a file that somebody has open cannot be replaced for the moment.

import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, expect, test, vi } from 'vitest';
import { isDeviceName } from '../../src/formats/atomic-file.ts';
import { isInUse, renameOver } from '../../src/formats/rename-over.ts';

const refusal = (code: string) => Object.assign(new Error(code), { code });

/** A rename that is refused some times. */
function refusing(code: string, times: number) {
  let calls = 0;
  const waits: number[] = [];
  return {
    waits,
    calls: () => calls,
    rename: async () => {
      calls += 1;
      if (calls <= times) throw refusal(code);
    },
    wait: async (ms: number) => {
      waits.push(ms);
    },
  };
}

test.each(['EPERM', 'EACCES', 'EBUSY'])('%s is waited out, longer each time', async (code) => {
  const fake = refusing(code, 4);
  await renameOver('a', 'b', { platform: 'win32', ...fake });
  expect(fake.calls()).toBe(5);
  expect(fake.waits).toEqual([10, 20, 40, 80]);
});

test('not for ever: the last refusal is told', async () => {
  const fake = refusing('EBUSY', 1000);
  await expect(renameOver('a', 'b', { platform: 'win32', ...fake })).rejects.toThrow('EBUSY');
  expect(fake.calls()).toBe(10);
  expect(fake.waits.reduce((sum, ms) => sum + ms, 0)).toBeLessThan(5000);
});

test.each<[NodeJS.Platform, string]>([
  ['linux', 'EACCES'],
  ['darwin', 'EPERM'],
  ['win32', 'ENOENT'],
  ['win32', 'EISDIR'],
])('on %s %s is told at once', async (platform, code) => {
  const fake = refusing(code, 1000);
  await expect(renameOver('a', 'b', { platform, ...fake })).rejects.toThrow(code);
  expect(fake.calls()).toBe(1);
  expect(isInUse(refusal(code), platform)).toBe(false);
});

afterEach(() => vi.resetModules());

test('an atomic write goes through a target that is in use for a while, and leaves nothing beside it', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'rename-over-'));
  const target = join(folder, 'model ü.bin');
  writeFileSync(target, 'old');
  let refusals = 3;
  vi.doMock('node:fs/promises', async (original) => {
    const real = await original<typeof import('node:fs/promises')>();
    const rename: typeof real.rename = async (from, to) => {
      refusals -= 1;
      if (refusals >= 0) throw refusal('EPERM');
      await real.rename(from, to);
    };
    return { ...real, rename };
  });
  const platform = vi.spyOn(process, 'platform', 'get').mockReturnValue('win32');
  try {
    const { writeFileAtomically } = await import('../../src/formats/atomic-file.ts');
    await writeFileAtomically(target, (sink) => sink.write(Buffer.from('new')));
    expect(readFileSync(target, 'utf8')).toBe('new');
    expect(readdirSync(folder)).toEqual(['model ü.bin']);
    refusals = 1000;
    const failed = writeFileAtomically(target, (sink) => sink.write(Buffer.from('newer')));
    await expect(failed).rejects.toThrow(/another program has the file open: close it there/);
    expect(readFileSync(target, 'utf8')).toBe('new');
    expect(readdirSync(folder)).toEqual(['model ü.bin']);
  } finally {
    platform.mockRestore();
    vi.doUnmock('node:fs/promises');
    rmSync(folder, { recursive: true });
  }
});

test.each(['NUL', 'nul.png', 'C:\\x\\Con.json', 'out/aux', 'COM1.txt', 'lpt9', 'nul .png', 'D:prn'])(
  '%s is a device on Windows',
  (path) => {
    expect(isDeviceName(path, 'win32')).toBe(true);
    expect(isDeviceName(path, 'linux')).toBe(false);
  },
);

test.each(['null.png', 'console.json', 'com0', 'com10', 'x.nul', 'nul/a.png', 'auxiliary'])('%s is none', (path) => {
  expect(isDeviceName(path, 'win32')).toBe(false);
});
