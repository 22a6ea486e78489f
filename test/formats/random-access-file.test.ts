// Reading ahead changes when bytes come, not which.

import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { FileAccessError, TruncatedFileError } from '../../src/formats/errors.ts';
import { RandomAccessFile } from '../../src/formats/random-access-file.ts';

const folder = mkdtempSync(join(tmpdir(), 'random-access-'));
afterAll(() => rmSync(folder, { recursive: true }));

const bytes = Uint8Array.from({ length: 4099 }, (_, i) => (i * 73) & 255);
const path = join(folder, 'file');
writeFileSync(path, bytes);

describe.each([{ readAhead: true }, { readAhead: false }])('with %o', (options) => {
  test('every range has its bytes', async () => {
    using file = new RandomAccessFile(path, options);
    for (const [position, length] of [
      [0, 4099],
      [8, 16],
      [13, 100],
      [4098, 1],
      [4099, 0],
      [0, 0],
    ] as const) {
      expect(await file.read(position, length)).toEqual(bytes.slice(position, position + length));
      const out = new Uint8Array(length + 2).fill(7);
      await file.readInto(out.subarray(1, length + 1), position);
      expect(out).toEqual(Uint8Array.of(7, ...bytes.slice(position, position + length), 7));
    }
  });

  test('a range may be read as any element type', async () => {
    using file = new RandomAccessFile(path, options);
    for (const position of [0, 1, 4, 8, 12, 1001]) {
      expect((await file.read(position, 64)).byteOffset % 8, `position ${position}`).toBe(0);
    }
  });

  test('or as the one that is asked for', async () => {
    using file = new RandomAccessFile(path, options);
    for (const alignment of [1, 2, 4]) {
      for (const position of [0, 1, 2, 4, 1002]) {
        const read = await file.read(position, 64, { alignment });
        expect(read.byteOffset % alignment, `position ${position} for ${alignment}`).toBe(0);
        expect(read).toEqual(bytes.slice(position, position + 64));
      }
    }
  });

  test('a range past the end says how much is missing', async () => {
    using file = new RandomAccessFile(path, options);
    for (const read of [() => file.read(4096, 8), () => file.readInto(new Uint8Array(8), 4096)]) {
      await expect(read()).rejects.toThrow(TruncatedFileError);
      await expect(read()).rejects.toThrow(/ends 5 bytes too early.*byte 4099/s);
    }
  });

  test('a file that has shrunk since it was opened is an error', async () => {
    const shrinking = join(folder, 'shrinking');
    writeFileSync(shrinking, bytes);
    using file = new RandomAccessFile(shrinking, options);
    truncateSync(shrinking, 100);
    if (options.readAhead) await file.read(0, 4099).catch((error) => expect(error).toBeInstanceOf(TruncatedFileError));
    else await expect(file.read(0, 4099)).rejects.toThrow(TruncatedFileError);
  });
});

test('what was read ahead is not copied', async () => {
  using file = new RandomAccessFile(path, { readAhead: true });
  expect((await file.read(16, 8)).buffer).toBe((await file.read(160, 8)).buffer);
  expect((await file.read(16, 8)).buffer).toBe((await file.read(13, 8, { alignment: 1 })).buffer);
});

test('memory is asked for where a copy is needed, and used', async () => {
  const given: Uint8Array[] = [];
  const allocate = async (length: number) => {
    given.push(new Uint8Array(length));
    return given.at(-1) as Uint8Array<ArrayBuffer>;
  };
  using ahead = new RandomAccessFile(path, { readAhead: true });
  await ahead.read(16, 8, { allocate });
  expect(given).toEqual([]);
  using plain = new RandomAccessFile(path);
  for (const [file, position] of [[plain, 16] as const, [ahead, 13] as const]) {
    const read = await file.read(position, 8, { allocate });
    expect(read).toBe(given.pop());
    expect(read).toEqual(bytes.slice(position, position + 8));
  }
});

test('a large file is not read ahead', async () => {
  const large = join(folder, 'large');
  writeFileSync(large, bytes);
  truncateSync(large, (64 << 20) + 1);
  using file = new RandomAccessFile(large, { readAhead: true });
  const some = await file.read(16, 8);
  expect(some).toEqual(bytes.slice(16, 24));
  expect(some.buffer.byteLength).toBe(8);
});

test('closing while the file is read ahead takes no other file its descriptor', async () => {
  const large = join(folder, 'megabytes');
  writeFileSync(large, Buffer.alloc(8 << 20, 1));
  // More than there are threads to read them.
  const closed = Array.from({ length: 24 }, () => new RandomAccessFile(large, { readAhead: true }));
  for (const file of closed) file[Symbol.dispose]();
  const others = Array.from({ length: 24 }, () => new RandomAccessFile(path));
  for (const file of closed) {
    const read = await file.read(0, 8 << 20);
    expect(read.every((byte) => byte === 1)).toBe(true);
  }
  for (const file of others) {
    expect(await file.read(0, 4099)).toEqual(bytes);
    file[Symbol.dispose]();
  }
});

test('a closed file says so', async () => {
  const file = new RandomAccessFile(path);
  file[Symbol.dispose]();
  await expect(file.read(0, 1)).rejects.toThrow(FileAccessError);
});
