// The root of all errors this project throws on purpose. A message says what was wrong (expected and actual),
// where (file, byte offset, tensor, argument) and how to fix it, because its reader may be a model that decides
// its next call from that text alone.

/** Who must act: `call` = the arguments were wrong (CLI exit 2); `job` = the work itself failed (exit 1). */
export type Fault = 'call' | 'job';

export type ErrorText = {
  /** What was wrong: expected and actual. */
  readonly what: string;
  /** File, byte offset, tensor, layer or argument. */
  readonly where?: string;
  /** An action; allowed values listed. */
  readonly fix?: string;
};

/** A part of a message that quotes what a stranger wrote may be as long as that; longer than any sentence of ours. */
const MAX_PART = 2000;

/** The text, its middle left out where it is too long to be read. */
function clipped(text: string): string {
  if (text.length <= MAX_PART) return text;
  return `${text.slice(0, MAX_PART - 250)} ... [${text.length} characters] ... ${text.slice(-200)}`;
}

/** The parts as one line. */
export function errorMessage({ what, where, fix }: ErrorText): string {
  return `${what}${where === undefined ? '' : ` (${where})`}${fix === undefined ? '' : `; ${fix}`}`;
}

export abstract class BitnetError extends Error {
  /** Stable literal that callers may match on. */
  abstract readonly code: string;
  abstract readonly fault: Fault;
  readonly text: ErrorText;

  constructor(given: ErrorText, options?: { cause?: unknown }) {
    const text: ErrorText = {
      what: clipped(given.what),
      ...(given.where === undefined ? {} : { where: clipped(given.where) }),
      ...(given.fix === undefined ? {} : { fix: clipped(given.fix) }),
    };
    super(errorMessage(text), options);
    this.text = text;
    this.name = new.target.name;
  }
}

/** An argument of a command, tool or library call that cannot be used. */
export class ArgumentError extends BitnetError {
  readonly code = 'BAD_ARGUMENT';
  readonly fault = 'call';
}

/** The caller's AbortSignal fired. */
export class CancelledError extends BitnetError {
  readonly code = 'CANCELLED';
  readonly fault = 'job';

  constructor(what = 'cancelled') {
    super({ what });
  }
}
