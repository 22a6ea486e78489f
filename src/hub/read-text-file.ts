// Small text files that somebody else wrote: a model's card, a world's record.

import { constants } from 'node:fs';
import { open } from 'node:fs/promises';
import { BitnetError } from '../errors.ts';

/** A file that is no small text: a pipe, a folder, or too large. */
export class NotATextFileError extends BitnetError {
  readonly code = 'NOT_A_TEXT_FILE';
  readonly fault = 'job';
}

/**
 * UTF-8 text of a regular file of at most `maxBytes`. Never waits for a pipe's writer and never reads more, even of a
 * file that grows meanwhile. Throws `NotATextFileError`, or the system's error (ENOENT, EACCES).
 */
export async function readTextFile(path: string, maxBytes: number): Promise<string> {
  await using file = await open(path, constants.O_RDONLY | (constants.O_NONBLOCK ?? 0));
  const info = await file.stat();
  if (!info.isFile())
    throw new NotATextFileError({ what: 'this is not a regular file', where: path, fix: 'remove it' });
  if (info.size > maxBytes) {
    throw new NotATextFileError({
      what: `the file has ${info.size} bytes, at most ${maxBytes} are read`,
      where: path,
      fix: 'replace it: it is not what its name says',
    });
  }
  const bytes = Buffer.alloc(info.size);
  let length = 0;
  while (length < bytes.length) {
    const { bytesRead } = await file.read(bytes, length, bytes.length - length, length);
    if (bytesRead === 0) break;
    length += bytesRead;
  }
  return bytes.toString('utf8', 0, length);
}
