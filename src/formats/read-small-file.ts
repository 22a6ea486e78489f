// Whole files that somebody else wrote: a model's config and card, an index of shards, a world's record, data to train on.

import { constants } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { FileAccessError } from './errors.ts';

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
  if (info.size > maxBytes) {
    const what = `the file has ${info.size} bytes, at most ${maxBytes} are read`;
    throw new FileAccessError(path, what, { fix: 'replace it: it is not what its name says' });
  }
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
