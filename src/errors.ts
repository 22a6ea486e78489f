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

/** The parts as one line. */
export function errorMessage({ what, where, fix }: ErrorText): string {
  return `${what}${where === undefined ? '' : ` (${where})`}${fix === undefined ? '' : `; ${fix}`}`;
}

export abstract class BitnetError extends Error {
  /** Stable literal that callers may match on. */
  abstract readonly code: string;
  abstract readonly fault: Fault;
  readonly text: ErrorText;

  constructor(text: ErrorText, options?: { cause?: unknown }) {
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
