// Worlds in a child process: a server's event loop stays free while a step is computed, and native code that crashes ends
// one request, not the server. A killed child loses the step in flight and nothing else, as the store is crash-safe.

import { ChildHost } from '../child/child-host.ts';
import { BitnetError } from '../errors.ts';
import type { MorphismHooks } from './morphism.ts';
import type { InvertResult, StepRequest, StepResult, WorldsOptions } from './worlds.ts';

/** What the morphism tools need; `Worlds` in this process or `WorldHost` in another. */
export interface WorldService {
  step(request: StepRequest, hooks?: MorphismHooks): Promise<StepResult>;
  invert(world: string): Promise<InvertResult>;
}

/** What crosses to the child: everything but functions. */
export type WorldHostOptions = Omit<WorldsOptions, 'onFallback'>;

/** What the child tells while it works. */
export type StepEvent = { readonly done: number; readonly total: number; readonly message: string };

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

export class WorldHost implements WorldService {
  readonly #host: ChildHost;

  constructor(options: WorldHostOptions = {}) {
    const died = (how: string) => new WorldProcessDiedError(how);
    this.#host = new ChildHost({ beside: import.meta.url, file: 'world-process', inBackground: true, options, died });
  }

  /** Process id of the running child, for tests and diagnostics. */
  get pid(): number | undefined {
    return this.#host.pid;
  }

  async step(request: StepRequest, { signal, onProgress }: MorphismHooks = {}): Promise<StepResult> {
    const onEvent = (event: unknown) => {
      const { done, total, message } = event as StepEvent;
      onProgress?.(done, total, message);
    };
    const result = await this.#host.call('step', request, { onEvent, ...(signal !== undefined && { signal }) });
    return result as StepResult;
  }

  async invert(world: string): Promise<InvertResult> {
    return (await this.#host.call('invert', world)) as InvertResult;
  }

  /** Ends the child; a step in flight ends with an error. Resolves when the process is gone. */
  close(): Promise<void> {
    return this.#host.close();
  }
}
