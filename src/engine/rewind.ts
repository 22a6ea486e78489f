// Cutting and forking sequences, as every backend checks it.

import type { Executable, SequenceId } from './backend.ts';

/** Throws RangeError for a length that the sequence does not have, or cannot go back to. */
export function checkRewind(
  executable: Pick<Executable, 'sequenceLength' | 'rewindLimit'>,
  what: string,
  sequence: SequenceId,
  to: number,
): void {
  const length = executable.sequenceLength(sequence);
  if (!(to >= 0 && to <= length)) throw new RangeError(`${what} ${to} of ${length}`);
  const limit = executable.rewindLimit(sequence);
  if (to !== 0 && to < limit) {
    throw new RangeError(`${what} ${to} of ${length}: what is needed there exists from ${limit} on`);
  }
}
