// The services of a server: models run in a child process, started by the first generation, so that the event loop
// answers everything else while one writes, and a crash of native code cannot take the server down.

import type { EngineHost } from '../generate/engine-host.ts';
import type { GenerateHooks, GenerateRequest, GenerateResult } from '../generate/types.ts';
import type { Services } from './services.ts';

export class EngineServices implements Services {
  #host: Promise<EngineHost> | undefined;

  async generate(request: GenerateRequest, hooks: GenerateHooks): Promise<GenerateResult> {
    this.#host ??= import('../generate/engine-host.ts').then(({ EngineHost }) => new EngineHost());
    return (await this.#host).generate(request, hooks);
  }

  /** Ends the engine's process; running generations end with it. */
  async close(): Promise<void> {
    const host = this.#host;
    this.#host = undefined;
    await (await host)?.close();
  }
}
