// The engine in a child process. The parent's event loop stays free while a model writes; a crash of native code or a
// kill of the child ends the requests that were running, with an error that says so, and the next one starts a new
// child.

import { type ChildProcess, fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { ArgumentError, BitnetError, CancelledError, type ErrorText, type Fault } from '../errors.ts';
import type { EngineOptions } from './engine.ts';
import type { GenerateHooks, GenerateRequest, GenerateResult, TraceStep } from './types.ts';

/** Parent to child. */
export type HostMessage =
  | { readonly kind: 'options'; readonly options: EngineOptions }
  | { readonly kind: 'generate'; readonly id: number; readonly request: GenerateRequest }
  | { readonly kind: 'cancel'; readonly id: number };

/** Child to parent. */
export type EngineMessage =
  | { readonly kind: 'step'; readonly id: number; readonly step: TraceStep }
  | { readonly kind: 'prompt'; readonly id: number; readonly done: number; readonly total: number }
  | { readonly kind: 'result'; readonly id: number; readonly result: GenerateResult }
  | { readonly kind: 'error'; readonly id: number; readonly error: PlainError };

export type PlainError = {
  readonly name: string;
  readonly message: string;
  readonly code?: string;
  readonly fault?: Fault;
  readonly text?: ErrorText;
  readonly stack?: string;
};

/** The engine's process ended while it worked for this request. */
export class EngineDiedError extends BitnetError {
  readonly code = 'ENGINE_DIED';
  readonly fault = 'job';

  constructor(how: string) {
    super({
      what: `the engine process ended (${how}) while it worked on this request`,
      fix: 'ask again: a new engine is started; if it happens every time, try the backend "js" and report it',
    });
  }
}

/** An error of the child, as it was there. */
class EngineError extends BitnetError {
  readonly code: string;
  readonly fault: Fault;

  constructor(error: PlainError) {
    super(error.text ?? { what: error.message });
    this.name = error.name;
    this.code = error.code ?? 'ENGINE_ERROR';
    this.fault = error.fault ?? 'job';
    if (error.stack !== undefined) this.stack = error.stack;
  }
}

export function toPlainError(error: unknown): PlainError {
  if (error instanceof BitnetError) {
    const { name, message, code, fault, text } = error;
    return { name, message, code, fault, text };
  }
  const { name, message, stack } = error instanceof Error ? error : new Error(String(error));
  return { name, message, ...(stack === undefined ? {} : { stack }) };
}

function fromPlainError(error: PlainError): Error {
  if (error.code === 'CANCELLED') return new CancelledError(error.message);
  if (error.code === 'BAD_ARGUMENT' && error.text !== undefined) return new ArgumentError(error.text);
  return new EngineError(error);
}

type Pending = {
  readonly hooks: GenerateHooks;
  readonly resolve: (result: GenerateResult) => void;
  readonly reject: (error: Error) => void;
};

/** Whether the child keeps its parent's event loop alive: only while it works for somebody. */
function holdParent(child: ChildProcess, hold: boolean): void {
  if (hold) {
    child.ref();
    child.channel?.ref();
  } else {
    child.unref();
    child.channel?.unref();
  }
}

export class EngineHost {
  readonly #options: EngineOptions;
  readonly #pending = new Map<number, Pending>();
  #child: ChildProcess | undefined;
  #nextId = 0;
  #closed = false;

  constructor(options: EngineOptions = {}) {
    this.#options = options;
  }

  /** Process id of the running child, for tests and diagnostics. */
  get pid(): number | undefined {
    return this.#child?.pid;
  }

  generate(request: GenerateRequest, hooks: GenerateHooks = {}): Promise<GenerateResult> {
    if (this.#closed) return Promise.reject(new CancelledError('the engine is closed'));
    if (hooks.signal?.aborted) return Promise.reject(new CancelledError('the generation was cancelled'));
    const child = this.#start();
    const id = this.#nextId++;
    const { signal } = hooks;
    const cancel = () => this.#send(child, { kind: 'cancel', id });
    signal?.addEventListener('abort', cancel, { once: true });
    return new Promise<GenerateResult>((resolve, reject) => {
      this.#pending.set(id, { hooks, resolve, reject });
      this.#send(child, { kind: 'generate', id, request });
      holdParent(child, true);
    }).finally(() => {
      signal?.removeEventListener('abort', cancel);
      if (this.#pending.size === 0) holdParent(child, false);
    });
  }

  /** Ends the child; running requests end with an error. Resolves when the process is gone. */
  async close(): Promise<void> {
    this.#closed = true;
    const child = this.#child;
    if (child === undefined) return;
    const gone = new Promise<void>((resolve) => child.once('exit', () => resolve()));
    if (child.connected) child.disconnect();
    // A child that does not notice (it is inside a long step) is not waited for.
    const timer = setTimeout(() => child.kill('SIGKILL'), 500);
    await gone;
    clearTimeout(timer);
  }

  #start(): ChildProcess {
    if (this.#child !== undefined) return this.#child;
    // The compiled child beside this compiled file; in a test run from sources, the one in dist/.
    const here = fileURLToPath(import.meta.url);
    const file = here.endsWith('.ts') ? here.replace(/src([/\\])generate/, 'dist$1generate') : here;
    const child = fork(file.replace(/engine-host\.[tj]s$/, 'engine-process.js'), [], {
      serialization: 'advanced',
      // Its stdout is not ours: over stdio, ours is the protocol.
      stdio: ['ignore', 2, 2, 'ipc'],
      execArgv: [],
    });
    child.on('message', (message) => this.#receive(message as EngineMessage));
    child.on('error', (error) => this.#died(child, error.message));
    child.on('exit', (code, signal) => this.#died(child, signal ?? `exit code ${code}`));
    this.#child = child;
    this.#send(child, { kind: 'options', options: this.#options });
    return child;
  }

  #send(child: ChildProcess, message: HostMessage): void {
    // The callback takes the error of a channel that closes right now; `exit` reports it.
    if (child.connected) child.send(message, () => {});
  }

  #receive(message: EngineMessage): void {
    const pending = this.#pending.get(message.id);
    if (pending === undefined) return;
    switch (message.kind) {
      case 'step':
        pending.hooks.onStep?.(message.step);
        break;
      case 'prompt':
        pending.hooks.onPrompt?.(message.done, message.total);
        break;
      case 'result':
        this.#pending.delete(message.id);
        pending.resolve(message.result);
        break;
      case 'error':
        this.#pending.delete(message.id);
        pending.reject(fromPlainError(message.error));
    }
  }

  #died(child: ChildProcess, how: string): void {
    if (this.#child !== child) return;
    this.#child = undefined;
    const pending = [...this.#pending.values()];
    this.#pending.clear();
    for (const { reject } of pending)
      reject(this.#closed ? new CancelledError('the engine was closed') : new EngineDiedError(how));
  }
}
