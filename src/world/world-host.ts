// Worlds in a child process: a server's event loop stays free while a step is computed, and native code that crashes ends
// one request, not the server. A killed child loses the step in flight and nothing else, as the store is crash-safe.

import { type ChildProcess, fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { ArgumentError, BitnetError, CancelledError, type ErrorText, type Fault } from '../errors.ts';
import type { MorphismHooks } from './morphism.ts';
import type { InvertResult, StepRequest, StepResult, WorldsOptions } from './worlds.ts';

type Plain<Options> = Omit<Options, 'onFallback'>;

/** What the morphism tools need; `Worlds` in this process or `WorldHost` in another. */
export interface WorldService {
  step(request: StepRequest, hooks?: MorphismHooks): Promise<StepResult>;
  invert(world: string): Promise<InvertResult>;
}

/** Parent to child. */
export type WorldHostMessage =
  | { readonly kind: 'options'; readonly options: Plain<WorldsOptions> }
  | { readonly kind: 'step'; readonly id: number; readonly request: StepRequest }
  | { readonly kind: 'invert'; readonly id: number; readonly world: string }
  | { readonly kind: 'cancel'; readonly id: number };

/** Child to parent. */
export type WorldProcessMessage =
  | {
      readonly kind: 'progress';
      readonly id: number;
      readonly done: number;
      readonly total: number;
      readonly message: string;
    }
  | { readonly kind: 'result'; readonly id: number; readonly result: unknown }
  | { readonly kind: 'error'; readonly id: number; readonly error: RemoteFailure };

export type RemoteFailure = {
  readonly name: string;
  readonly text: ErrorText;
  readonly code: string;
  readonly fault: Fault;
  readonly stack?: string;
};

export function toRemoteFailure(error: unknown): RemoteFailure {
  if (error instanceof BitnetError) {
    const { name, text, code, fault } = error;
    return { name, text, code, fault };
  }
  const { name, message, stack } = error instanceof Error ? error : new Error(String(error));
  return { name, text: { what: message }, code: 'WORLD_ERROR', fault: 'job', ...(stack !== undefined && { stack }) };
}

/** An error of the child, as it was there. */
class RemoteError extends BitnetError {
  readonly code: string;
  readonly fault: Fault;

  constructor({ name, text, code, fault, stack }: RemoteFailure) {
    super(text);
    this.name = name;
    this.code = code;
    this.fault = fault;
    if (stack !== undefined) this.stack = stack;
  }
}

/** The process that computes worlds ended during a request. */
export class WorldProcessDiedError extends BitnetError {
  readonly code = 'WORLD_PROCESS_DIED';
  readonly fault = 'job';

  constructor(how: string) {
    super({
      what: `the process that takes morphism steps ended (${how}) during this request`,
      fix: 'ask again: a new one is started, and all finished steps are in the store',
    });
  }
}

type Pending = {
  readonly hooks: MorphismHooks;
  readonly resolve: (result: unknown) => void;
  readonly reject: (error: Error) => void;
};

export class WorldHost implements WorldService {
  readonly #options: Plain<WorldsOptions>;
  readonly #pending = new Map<number, Pending>();
  #child: ChildProcess | undefined;
  #nextId = 0;
  #closed = false;

  constructor(options: Plain<WorldsOptions> = {}) {
    this.#options = options;
  }

  /** Process id of the running child, for tests and diagnostics. */
  get pid(): number | undefined {
    return this.#child?.pid;
  }

  step(request: StepRequest, hooks: MorphismHooks = {}): Promise<StepResult> {
    return this.#call((id) => ({ kind: 'step', id, request }), hooks) as Promise<StepResult>;
  }

  invert(world: string): Promise<InvertResult> {
    return this.#call((id) => ({ kind: 'invert', id, world }), {}) as Promise<InvertResult>;
  }

  /** Ends the child; a step in flight ends with an error. Resolves when the process is gone. */
  async close(): Promise<void> {
    this.#closed = true;
    const child = this.#child;
    if (child === undefined) return;
    const gone = new Promise<void>((resolve) => child.once('exit', () => resolve()));
    if (child.connected) child.disconnect();
    const timer = setTimeout(() => child.kill('SIGKILL'), 500);
    await gone;
    clearTimeout(timer);
  }

  async #call(message: (id: number) => WorldHostMessage, hooks: MorphismHooks): Promise<unknown> {
    if (this.#closed) throw new CancelledError('the server is closing');
    if (hooks.signal?.aborted) throw new CancelledError('the step was cancelled');
    const child = this.#start();
    const id = this.#nextId++;
    const { signal } = hooks;
    const cancel = () => this.#send(child, { kind: 'cancel', id });
    signal?.addEventListener('abort', cancel, { once: true });
    try {
      return await new Promise((resolve, reject) => {
        this.#pending.set(id, { hooks, resolve, reject });
        this.#send(child, message(id));
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

  #start(): ChildProcess {
    if (this.#child !== undefined) return this.#child;
    // The compiled child beside this compiled file; in a test run from sources, the one in dist/.
    const here = fileURLToPath(import.meta.url);
    const file = here.endsWith('.ts') ? here.replace(/src([/\\])world/, 'dist$1world') : here;
    const child = fork(file.replace(/world-host\.[tj]s$/, 'world-process.js'), [], {
      serialization: 'advanced',
      // Its stdout is not ours: over stdio, ours is the protocol.
      stdio: ['ignore', 2, 2, 'ipc'],
      execArgv: [],
    });
    child.on('message', (message) => this.#receive(message as WorldProcessMessage));
    child.on('error', (error) => this.#died(child, error.message));
    child.on('exit', (code, signal) => this.#died(child, signal ?? `exit code ${code}`));
    this.#child = child;
    this.#send(child, { kind: 'options', options: this.#options });
    return child;
  }

  #send(child: ChildProcess, message: WorldHostMessage): void {
    // The callback takes the error of a channel that closes right now; `exit` reports it.
    if (child.connected) child.send(message, () => {});
  }

  #receive(message: WorldProcessMessage): void {
    const pending = this.#pending.get(message.id);
    if (pending === undefined) return;
    if (message.kind === 'progress') {
      pending.hooks.onProgress?.(message.done, message.total, message.message);
      return;
    }
    this.#pending.delete(message.id);
    if (message.kind === 'result') pending.resolve(message.result);
    else pending.reject(errorOf(message.error));
  }

  #died(child: ChildProcess, how: string): void {
    if (this.#child !== child) return;
    this.#child = undefined;
    const pending = [...this.#pending.values()];
    this.#pending.clear();
    for (const { reject } of pending) {
      reject(this.#closed ? new CancelledError('the server is closing') : new WorldProcessDiedError(how));
    }
  }
}

function errorOf(failure: RemoteFailure): Error {
  if (failure.code === 'CANCELLED') return new CancelledError(failure.text.what);
  if (failure.code === 'BAD_ARGUMENT') return new ArgumentError(failure.text);
  return new RemoteError(failure);
}
