// What is wrong with a schema or a grammar that a text is to follow.

import { BitnetError } from '../../errors.ts';

export class StructureError extends BitnetError {
  readonly code = 'BAD_STRUCTURE';
  readonly fault = 'call';
}

/** A schema or grammar that is sound, and takes more work than a text is worth. */
export class StructureLimitError extends BitnetError {
  readonly code = 'STRUCTURE_TOO_LARGE';
  readonly fault = 'call';
}

/** `what` has more of something than is taken. */
export function overLimit(what: string, limit: number): StructureLimitError {
  return new StructureLimitError({
    what: `the structure needs more than ${limit} ${what}`,
    fix: 'give a smaller schema or grammar: fewer alternatives, shorter repetitions, less nesting',
  });
}
