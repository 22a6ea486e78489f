// The engine in a child process: a server's event loop stays free while a model writes, and a crash of native code ends
// the requests that were running, not the server.

import { type CallHooks, ChildHost } from '../child/child-host.ts';
import { BitnetError } from '../errors.ts';
import type { EngineOptions } from './engine.ts';
import { NOTHING_KEPT, type PrefixCacheCounts } from './prefix-cache.ts';
import type { ThreadsTold } from './threads-told.ts';
import type {
  GenerateHooks,
  GenerateRequest,
  GenerateResult,
  ManyHooks,
  ManyRequest,
  ManyResult,
  TraceStep,
} from './types.ts';

/** What the child tells while it works. */
export type GenerateEvent =
  | { readonly kind: 'step'; readonly step: TraceStep }
  | { readonly kind: 'thought'; readonly text: string }
  | { readonly kind: 'prompt'; readonly done: number; readonly total: number }
  | { readonly kind: 'kept'; readonly kept: PrefixCacheCounts }
  | { readonly kind: 'threads'; readonly threads: ThreadsTold }
  | { readonly kind: 'tokens'; readonly done: number };

/** What crosses to it. Events that nobody listens to are not sent: each takes as long as a token of a small model. */
export type GenerateCall = { readonly request: GenerateRequest; readonly listens: boolean };
export type ManyCall = { readonly request: ManyRequest; readonly listens: boolean };

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

/** The engine's process did not even say that it is busy, long after the request's time was over. */
export class EngineSilentError extends BitnetError {
  readonly code = 'ENGINE_SILENT';
  readonly fault = 'job';

  constructor(limitSeconds: number, silentMs: number) {
    super({
      what: `the engine has not answered for ${Math.round(silentMs / 1000)} s after the ${limitSeconds} s of max_seconds`,
      fix: 'ask again, with a shorter prompt or a smaller model',
    });
  }
}

function limits(maxSeconds: number | undefined, signal: AbortSignal | undefined): Omit<CallHooks, 'onEvent'> {
  return {
    ...(signal !== undefined && { signal }),
    ...(maxSeconds !== undefined && {
      limitMs: 1000 * maxSeconds,
      late: (silentMs: number) => new EngineSilentError(maxSeconds, silentMs),
    }),
  };
}

export type EngineHostHooks = {
  /** Called once for each load of a model whose number of threads was left to the engine, when it has been found. */
  readonly onThreads?: (told: ThreadsTold) => void;
};

export class EngineHost {
  readonly #host: ChildHost;
  readonly #hooks: EngineHostHooks;
  #kept = NOTHING_KEPT;

  constructor(options: EngineOptions = {}, hooks: EngineHostHooks = {}) {
    this.#hooks = hooks;
    const died = (how: string) => new EngineDiedError(how);
    this.#host = new ChildHost({ beside: import.meta.url, file: 'engine-process', options, died });
  }

  /** Process id of the running child, for tests and diagnostics. */
  get pid(): number | undefined {
    return this.#host.pid;
  }

  /** What the engine keeps for later prompts, as it last told. */
  get kept(): PrefixCacheCounts {
    return this.pid === undefined ? NOTHING_KEPT : this.#kept;
  }

  async generate(
    request: GenerateRequest,
    { signal, onStep, onThought, onPrompt }: GenerateHooks = {},
  ): Promise<GenerateResult> {
    const onEvent = (event: unknown) => {
      const told = event as GenerateEvent;
      if (told.kind === 'step') onStep?.(told.step);
      else if (told.kind === 'thought') onThought?.(told.text);
      else if (told.kind === 'prompt') onPrompt?.(told.done, told.total);
      else this.#take(told);
    };
    const call: GenerateCall = { request, listens: [onStep, onThought, onPrompt].some((hook) => hook !== undefined) };
    const result = await this.#host.call('generate', call, { onEvent, ...limits(request.maxSeconds, signal) });
    return result as GenerateResult;
  }

  /** `onTokens`: tokens of all texts so far, from time to time. */
  async generateMany(
    request: ManyRequest,
    { signal, onTokens }: Pick<ManyHooks, 'signal'> & { readonly onTokens?: (done: number) => void } = {},
  ): Promise<ManyResult> {
    const onEvent = (event: unknown) => {
      const told = event as GenerateEvent;
      if (told.kind === 'tokens') onTokens?.(told.done);
      else this.#take(told);
    };
    const call: ManyCall = { request, listens: onTokens !== undefined };
    const result = await this.#host.call('generateMany', call, { onEvent, ...limits(request.maxSeconds, signal) });
    return result as ManyResult;
  }

  /** What is told of the engine itself, by whichever call. */
  #take(told: GenerateEvent): void {
    if (told.kind === 'kept') this.#kept = told.kept;
    else if (told.kind === 'threads') this.#hooks.onThreads?.(told.threads);
  }

  /** Ends the child; running requests end with an error. Resolves when the process is gone. */
  close(): Promise<void> {
    return this.#host.close();
  }
}
