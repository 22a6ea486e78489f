// Work in a child process, called like functions. The parent's event loop stays free, and native code that crashes, or a
// kill, ends the calls that were running with an error that says so; the next call starts a new child.

import { type ChildProcess, fork } from 'node:child_process';
import { setPriority } from 'node:os';
import { fileURLToPath } from 'node:url';
import { ArgumentError, BitnetError, CancelledError, type ErrorText, type Fault } from '../errors.ts';

/** Parent to child. `options` comes first, once. */
export type ToChild =
  | { readonly kind: 'options'; readonly options: unknown }
  | { readonly kind: 'call'; readonly id: number; readonly method: string; readonly args: unknown }
  | { readonly kind: 'cancel'; readonly id: number }
  /** To be answered at once. */
  | { readonly kind: 'ping' };

/** Child to parent: any number of events, then a result or an error. Whatever comes says that it is alive. */
export type FromChild =
  | { readonly kind: 'pong' }
  | { readonly kind: 'event'; readonly id: number; readonly event: unknown }
  | { readonly kind: 'result'; readonly id: number; readonly result: unknown }
  | { readonly kind: 'error'; readonly id: number; readonly error: PlainError };

/** An error as it crosses: text, code and fault of ours, or the stack of one that nobody meant to throw. */
export type PlainError = {
  readonly name: string;
  readonly text: ErrorText;
  readonly code: string;
  readonly fault: Fault;
  readonly stack?: string;
};

export function toPlainError(error: unknown): PlainError {
  if (error instanceof BitnetError) {
    const { name, text, code, fault } = error;
    return { name, text, code, fault };
  }
  const { name, message, stack } = error instanceof Error ? error : new Error(String(error));
  return { name, text: { what: message }, code: 'CHILD_ERROR', fault: 'job', ...(stack !== undefined && { stack }) };
}

/** An error of the child, as it was there. */
class RemoteError extends BitnetError {
  readonly code: string;
  readonly fault: Fault;

  constructor({ name, text, code, fault }: PlainError) {
    super(text);
    this.name = name;
    this.code = code;
    this.fault = fault;
  }
}

function fromPlainError(error: PlainError): Error {
  // A defect there is one here: told and logged as such.
  if (error.stack !== undefined)
    return Object.assign(new Error(error.text.what), { name: error.name, stack: error.stack });
  if (error.code === 'CANCELLED') return new CancelledError(error.text.what);
  if (error.code === 'BAD_ARGUMENT') return new ArgumentError(error.text);
  return new RemoteError(error);
}

export type ChildHostOptions = {
  /** `import.meta.url` of the module beside which the child's file lies. */
  readonly beside: string;
  /** The child's file without its ending. */
  readonly file: string;
  /** Given to the child before its first call; anything structured cloning copies. */
  readonly options: unknown;
  /** The error of calls that were running when the child ended, with how it ended. */
  readonly died: (how: string) => Error;
  /** Whether it gives way to others where processors are few: its work is long, and nobody waits for each part of it. */
  readonly inBackground?: boolean;
  /** How long a child may say nothing when it is asked; default `SILENCE`. */
  readonly silence?: Partial<Silence>;
};

export type CallHooks = {
  readonly signal?: AbortSignal;
  readonly onEvent?: (event: unknown) => void;
  /**
   * The child keeps to time limits by itself, as long as it is not stuck in one piece of work. After so many milliseconds
   * it is asked whether it is; the call of one that does not answer fails with what `late` makes.
   */
  readonly limitMs?: number;
  readonly late?: (silentMs: number) => Error;
};

/**
 * Times without a word of a child that was asked for one: after the first, calls past their limit fail; after the second,
 * the child is ended, and the next call starts another.
 */
export type Silence = { readonly lateMs: number; readonly stuckMs: number };

/** A step of a large model in JavaScript takes many seconds, during which the child says nothing. */
export const SILENCE: Silence = { lateMs: 8000, stuckMs: 120_000 };

type Pending = {
  readonly hooks: CallHooks;
  readonly resolve: (result: unknown) => void;
  readonly reject: (error: Error) => void;
  /** Time from which on it is late, by `performance.now()`; Infinity for never. */
  readonly limitAt: number;
};

const FORK = {
  serialization: 'advanced',
  // Its stdout is not ours: over stdio, ours is the protocol.
  stdio: ['ignore', 2, 2, 'ipc'] as ('ignore' | 'ipc' | number)[],
  execArgv: [] as string[],
  // A client without a console must not get one for each child.
  windowsHide: true,
} as const;

/** Time that a child has to end by itself when its host closes. */
const CLOSE_MS = 500;

export class ChildHost {
  readonly #options: ChildHostOptions;
  readonly #pending = new Map<number, Pending>();
  #child: ChildProcess | undefined;
  #nextId = 0;
  #closed = false;
  #watch: NodeJS.Timeout | undefined;
  /** When the child was asked for a word it has not said yet. */
  #askedAt: number | undefined;

  constructor(options: ChildHostOptions) {
    this.#options = options;
  }

  /** Process id of the running child, for tests and diagnostics. */
  get pid(): number | undefined {
    return this.#child?.pid;
  }

  /** Runs `method` in the child. A fired signal is passed on; what the child makes of it is the result. */
  async call(method: string, args: unknown, hooks: CallHooks = {}): Promise<unknown> {
    if (this.#closed) throw new CancelledError('the server is closing');
    if (hooks.signal?.aborted) throw new CancelledError('the call was cancelled');
    const child = this.#start();
    const id = this.#nextId++;
    const { signal, limitMs = Number.POSITIVE_INFINITY } = hooks;
    const limitAt = performance.now() + limitMs;
    const cancel = () => this.#send(child, { kind: 'cancel', id });
    signal?.addEventListener('abort', cancel, { once: true });
    try {
      return await new Promise((resolve, reject) => {
        this.#pending.set(id, { hooks, resolve, reject, limitAt });
        this.#watchOver(child);
        this.#send(child, { kind: 'call', id, method, args });
        child.ref();
        child.channel?.ref();
      });
    } finally {
      signal?.removeEventListener('abort', cancel);
      // A child with nothing to do does not keep its parent alive.
      if (this.#pending.size === 0) {
        child.unref();
        child.channel?.unref();
      }
    }
  }

  /** Ends the child; running calls end with an error. Resolves when the process is gone. */
  async close(): Promise<void> {
    this.#closed = true;
    const child = this.#child;
    if (child === undefined) return;
    const gone = new Promise<void>((resolve) => child.once('exit', () => resolve()));
    if (child.connected) child.disconnect();
    // A child that does not notice (it is inside a long step) is not waited for.
    const timer = setTimeout(() => child.kill('SIGKILL'), CLOSE_MS);
    await gone;
    clearTimeout(timer);
  }

  #start(): ChildProcess {
    if (this.#child !== undefined) return this.#child;
    const child = fork(childFile(this.#options.beside, this.#options.file), [], FORK);
    child.on('message', (message) => this.#receive(child, message as FromChild));
    child.on('error', (error) => this.#died(child, error.message));
    child.on('exit', (code, signal) => this.#died(child, signal ?? `exit code ${code}`));
    this.#child = child;
    if (this.#options.inBackground) giveWay(child);
    this.#send(child, { kind: 'options', options: this.#options.options });
    return child;
  }

  /** Looks again when the first of the running calls is late. */
  #watchOver(child: ChildProcess): void {
    // A silent child is looked at all the time.
    if (this.#askedAt !== undefined) return;
    clearTimeout(this.#watch);
    const first = Math.min(...Array.from(this.#pending.values(), ({ limitAt }) => limitAt));
    const wait = Math.max(0, first - performance.now());
    // Longer than a timer can wait is for ever.
    if (wait < 2 ** 31) this.#watch = setTimeout(() => this.#look(child), wait).unref();
  }

  /** Asks for a word while a call is late, and ends what waits in vain. */
  #look(child: ChildProcess): void {
    if (this.#child !== child) return;
    const now = performance.now();
    const late = [...this.#pending].filter(([, { limitAt }]) => limitAt <= now);
    if (late.length === 0 && this.#askedAt === undefined) {
      this.#watchOver(child);
      return;
    }
    if (this.#askedAt === undefined) {
      this.#askedAt = now;
      this.#send(child, { kind: 'ping' });
    }
    const { lateMs, stuckMs } = { ...SILENCE, ...this.#options.silence };
    const silentMs = now - this.#askedAt;
    if (silentMs >= stuckMs) {
      // Its end is told to all that still wait.
      child.kill('SIGKILL');
      return;
    }
    for (const [id, { hooks, reject }] of silentMs < lateMs ? [] : late) {
      if (hooks.late === undefined) continue;
      this.#pending.delete(id);
      this.#send(child, { kind: 'cancel', id });
      reject(hooks.late(silentMs));
    }
    this.#watch = setTimeout(() => this.#look(child), Math.min(lateMs / 4, 500)).unref();
  }

  #send(child: ChildProcess, message: ToChild): void {
    // The callback takes the error of a channel that closes right now; `exit` reports it.
    if (child.connected) child.send(message, () => {});
  }

  #receive(child: ChildProcess, message: FromChild): void {
    if (this.#child === child) this.#askedAt = undefined;
    if (message.kind === 'pong') return;
    const pending = this.#pending.get(message.id);
    if (pending === undefined) return;
    if (message.kind === 'event') {
      pending.hooks.onEvent?.(message.event);
      return;
    }
    this.#pending.delete(message.id);
    if (message.kind === 'result') pending.resolve(message.result);
    else pending.reject(fromPlainError(message.error));
  }

  #died(child: ChildProcess, how: string): void {
    if (this.#child !== child) return;
    this.#child = undefined;
    clearTimeout(this.#watch);
    this.#askedAt = undefined;
    const pending = [...this.#pending.values()];
    this.#pending.clear();
    for (const { reject } of pending) {
      reject(this.#closed ? new CancelledError('the server is closing') : this.#options.died(how));
    }
  }
}

/** Enough for a process that answers to come first, not so much that this one starves beside what else runs. */
const BACKGROUND_PRIORITY = 3;

function giveWay({ pid }: ChildProcess): void {
  try {
    if (pid !== undefined) setPriority(pid, BACKGROUND_PRIORITY);
  } catch {
    // It is gone, or the system does not allow it.
  }
}

/** The compiled child beside a compiled module; beside a source (in a test run), the one in dist/. */
function childFile(beside: string, file: string): string {
  const here = fileURLToPath(beside);
  const folder = here.replace(/[^/\\]+$/, '');
  return `${here.endsWith('.ts') ? folder.replace(/([/\\])src([/\\][^/\\]+[/\\])$/, '$1dist$2') : folder}${file}.js`;
}
