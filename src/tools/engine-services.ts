// The services of a server: models run in a child process, started by the first generation, so that the event loop
// answers everything else while one writes, and a crash of native code cannot take the server down.

import type { EngineHost } from '../generate/engine-host.ts';
import type { GenerateHooks, GenerateRequest, GenerateResult } from '../generate/types.ts';
import type { Services } from './services.ts';
import { ShortHandles } from './short-handles.ts';

export type EngineServicesOptions = {
  /** Folders that callers' model paths must lie in; any path without it. */
  readonly allowedRoots?: readonly string[];
};

export class EngineServices implements Services {
  readonly #options: EngineServicesOptions;
  readonly #handles = new ShortHandles();
  #host: Promise<EngineHost> | undefined;

  constructor(options: EngineServicesOptions = {}) {
    this.#options = options;
  }

  get allowedRoots(): readonly string[] | undefined {
    return this.#options.allowedRoots;
  }

  async generate(request: GenerateRequest, hooks: GenerateHooks): Promise<GenerateResult> {
    const { allowedRoots } = this;
    this.#host ??= import('../generate/engine-host.ts').then(
      ({ EngineHost }) => new EngineHost(allowedRoots === undefined ? {} : { allowedRoots }),
    );
    const { continuation } = request;
    const result = await (await this.#host).generate(
      { ...request, ...(continuation !== undefined && { continuation: this.#handles.expand(continuation) }) },
      hooks,
    );
    return result.continuation === undefined
      ? result
      : { ...result, continuation: this.#handles.shorten(result.continuation) };
  }

  /** Ends the engine's process; running generations end with it. */
  async close(): Promise<void> {
    const host = this.#host;
    this.#host = undefined;
    await (await host)?.close();
  }
}
