// What `git clone` leaves in the place of a large file when Git LFS is not installed: three lines of text.

import { FormatError } from './errors.ts';

const FIRST_LINE = 'version https://git-lfs.github.com/spec/v1\n';

/** Pointers have about 130 bytes; the specification allows less than 1024. */
export const MAX_LFS_POINTER_BYTES = 1023;
export const LFS_FIRST_BYTES = FIRST_LINE.length;

/** A file is a Git LFS pointer, not what it stands for. */
export class LfsPointerError extends FormatError {
  readonly code = 'GIT_LFS_POINTER';

  constructor(file: string) {
    super(
      { file },
      {
        what: 'this is a Git LFS pointer: the repository was cloned without its large files',
        fix: 'run `git lfs pull` in that folder, or fetch the model with `bitnet-gf3 pull`',
      },
    );
  }
}

/** `start`: the first bytes of a file, at least LFS_FIRST_BYTES of them. */
export function isLfsPointer(start: Uint8Array): boolean {
  return (
    Buffer.from(start.buffer, start.byteOffset, start.byteLength).toString('latin1', 0, LFS_FIRST_BYTES) === FIRST_LINE
  );
}
