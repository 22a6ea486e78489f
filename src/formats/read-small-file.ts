// Whole files that somebody else wrote: a model's config and card, an index of shards, a world's record, data to train on.

import { constants } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { FileAccessError } from './errors.ts';
import { RandomAccessFile } from './random-access-file.ts';

/** As `readSmallFile`, as UTF-8 text. */
export async function readTextFile(path: string, maxBytes: number): Promise<string | undefined> {
  return (await readSmallFile(path, maxBytes))?.toString('utf8');
}

/**
 * The bytes of a regular file of at most `maxBytes`; undefined where there is none. Never waits for a pipe's writer and
 * never reads more, even of a file that grows meanwhile. Throws FileAccessError.
 */
export async function readSmallFile(path: string, maxBytes: number): Promise<Buffer | undefined> {
  let handle: FileHandle;
  try {
    handle = await open(path, constants.O_RDONLY | (constants.O_NONBLOCK ?? 0));
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    if (code === 'ENOENT') return undefined;
    throw new FileAccessError(path, `the file cannot be opened: ${code ?? String(cause)}`, { cause });
  }
  await using file = handle;
  const info = await file.stat();
  if (!info.isFile()) throw new FileAccessError(path, 'this is not a regular file', { fix: 'replace it' });
  checkSize(path, info.size, maxBytes);
  const bytes = Buffer.alloc(info.size);
  let length = 0;
  while (length < bytes.length) {
    const { bytesRead } = await file.read(bytes, length, bytes.length - length, length).catch((cause: unknown) => {
      const { code } = cause as NodeJS.ErrnoException;
      throw new FileAccessError(path, `reading failed: ${code ?? String(cause)}`, { cause });
    });
    if (bytesRead === 0) break;
    length += bytesRead;
  }
  return bytes.subarray(0, length);
}

/** As `readTextFile`, at once: what a first token waits for does not go through other threads. */
export function readTextFileSync(path: string, maxBytes: number): string | undefined {
  return readSmallFileSync(path, maxBytes)?.toString('utf8');
}

/** As `readSmallFile`, at once. */
export function readSmallFileSync(path: string, maxBytes: number): Buffer | undefined {
  let opened: RandomAccessFile;
  try {
    opened = new RandomAccessFile(path);
  } catch (error) {
    if (error instanceof FileAccessError && error.errno === 'ENOENT') return undefined;
    throw error;
  }
  using file = opened;
  checkSize(path, file.size, maxBytes);
  const bytes = Buffer.alloc(file.size);
  file.readIntoSync(bytes, 0);
  return bytes;
}

function checkSize(path: string, size: number, maxBytes: number): void {
  if (size <= maxBytes) return;
  const what = `the file has ${size} bytes, at most ${maxBytes} are read`;
  throw new FileAccessError(path, what, { fix: 'replace it: it is not what its name says' });
}
