// What `git clone` leaves in the place of a large file where Git LFS is not installed: a text of three lines that says
// which bytes belong there. It is no damage, and downloading the same way again gives the same.
// Source: https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md, with the two older addresses that it names.

import { closeSync, openSync, readSync, statSync } from 'node:fs';
import { FormatError } from './errors.ts';

/** A pointer's first key and address; the specification wants them first. */
const START = /^version https?:\/\/(?:git-lfs\.github\.com|hawser\.github\.com|git-media\.io)\//;

/** Bytes that tell a pointer from anything else. */
export const LFS_POINTER_BYTES = 64;

/** Whether a file that begins with these bytes (`LFS_POINTER_BYTES` are enough) is a Git LFS pointer. */
export function isLfsPointer(start: Uint8Array | string): boolean {
  const text = typeof start === 'string' ? start.slice(0, LFS_POINTER_BYTES) : latin1(start);
  return START.test(text);
}

export const LFS_POINTER_WHAT = 'this is a Git LFS pointer, which stands for a file that was not fetched';
export const LFS_POINTER_FIX =
  'run `git lfs pull` in the folder of the clone, or download the model with `bitnet-gf3 pull`';

/** Throws LfsPointerError where the file is a pointer; a file that cannot be read is somebody else's business. */
export function refuseLfsPointer(path: string): void {
  const start = new Uint8Array(LFS_POINTER_BYTES);
  let fd: number | undefined;
  try {
    // Files of /proc that wait for what comes have no size.
    if (!statSync(path).isFile() || statSync(path).size < LFS_POINTER_BYTES) return;
    fd = openSync(path, 'r');
    readSync(fd, start, 0, LFS_POINTER_BYTES, 0);
  } catch {
    return;
  } finally {
    if (fd !== undefined) closeSync(fd);
  }
  if (isLfsPointer(start)) throw new LfsPointerError(path);
}

/** A Git LFS pointer lies where a file of a model belongs. */
export class LfsPointerError extends FormatError {
  readonly code = 'LFS_POINTER';

  constructor(file: string) {
    super({ file }, { what: LFS_POINTER_WHAT, fix: LFS_POINTER_FIX });
  }
}

function latin1(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, Math.min(bytes.byteLength, LFS_POINTER_BYTES)).toString('latin1');
}
