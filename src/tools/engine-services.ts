// The services of a server: models run in a child process, started by the first generation, so that the event loop
// answers everything else while one writes, and a crash of native code cannot take the server down.

import type { EngineHost } from '../generate/engine-host.ts';
import { NOTHING_KEPT, type PrefixCacheCounts } from '../generate/prefix-cache.ts';
import type { GenerateHooks, GenerateRequest, GenerateResult, ManyRequest, ManyResult } from '../generate/types.ts';
import type { Logger } from '../logger.ts';
import type { MorphismHooks } from '../world/morphism.ts';
import type { WorldHost, WorldService } from '../world/world-host.ts';
import type { InvertResult, StepRequest, StepResult } from '../world/worlds.ts';
import type { DeskHost } from './desk-host.ts';
import type { Desk, ManyServiceHooks, Services } from './services.ts';
import { ShortHandles } from './short-handles.ts';

export type EngineServicesOptions = {
  /** Folders that callers' model paths must lie in; any path without it. */
  readonly allowedRoots?: readonly string[];
  /**
   * Whether continuation handles are short names that only this process knows (default). Off, they carry the whole
   * state, and any server with the same model can go on: what stateless servers behind a load balancer need.
   */
  readonly shortHandles?: boolean;
  /** Told of each model how many threads help it. */
  readonly logger?: Pick<Logger, 'info'>;
};

export class EngineServices implements Services {
  readonly #options: EngineServicesOptions;
  readonly #handles = new ShortHandles();
  #host: Promise<EngineHost> | undefined;
  #running: EngineHost | undefined;
  #worldHost: Promise<WorldHost> | undefined;
  #deskHost: Promise<DeskHost> | undefined;

  constructor(options: EngineServicesOptions = {}) {
    this.#options = options;
  }

  get allowedRoots(): readonly string[] | undefined {
    return this.#options.allowedRoots;
  }

  /** What the engine keeps for later prompts. */
  get kept(): PrefixCacheCounts {
    return this.#running?.kept ?? NOTHING_KEPT;
  }

  async generate(request: GenerateRequest, hooks: GenerateHooks): Promise<GenerateResult> {
    const { continuation } = request;
    const host = await this.#engine();
    const result = await host.generate(
      { ...request, ...(continuation !== undefined && { continuation: this.#handles.expand(continuation) }) },
      hooks,
    );
    return this.#shortened(result);
  }

  async generateMany(request: ManyRequest, hooks: ManyServiceHooks): Promise<ManyResult> {
    const result = await (await this.#engine()).generateMany(request, hooks);
    return { ...result, results: result.results.map((one) => this.#shortened(one)) };
  }

  #shortened(result: GenerateResult): GenerateResult {
    return result.continuation === undefined || this.#options.shortHandles === false
      ? result
      : { ...result, continuation: this.#handles.shorten(result.continuation) };
  }

  async #engine(): Promise<EngineHost> {
    const { allowedRoots } = this;
    const { logger } = this.#options;
    this.#host ??= import('../generate/engine-host.ts').then(
      ({ EngineHost }) =>
        new EngineHost(allowedRoots === undefined ? {} : { allowedRoots }, {
          onThreads: (told) => logger?.info('threads found', { ...told }),
        }),
    );
    this.#running = await this.#host;
    return this.#running;
  }

  /** Steps are taken in a process of their own, started by the first. */
  readonly worlds: WorldService = {
    step: async (request: StepRequest, hooks?: MorphismHooks): Promise<StepResult> =>
      (await this.#worlds()).step(request, hooks),
    invert: async (world: string): Promise<InvertResult> => (await this.#worlds()).invert(world),
  };

  /** A process of its own as well, started by the first that needs it. */
  readonly desk: Desk = {
    call: async (tool, args, context) => (await this.#desk()).call(tool, args, context),
    tritWindow: async (request, signal) => (await this.#desk()).tritWindow(request, signal),
    traceColors: async (request) => (await this.#desk()).traceColors(request),
  };

  #desk(): Promise<DeskHost> {
    const { allowedRoots } = this;
    this.#deskHost ??= import('./desk-host.ts').then(
      ({ DeskHost }) => new DeskHost(allowedRoots === undefined ? {} : { allowedRoots }),
    );
    return this.#deskHost;
  }

  #worlds(): Promise<WorldHost> {
    const { allowedRoots } = this;
    this.#worldHost ??= import('../world/world-host.ts').then(
      ({ WorldHost }) => new WorldHost(allowedRoots === undefined ? {} : { allowedRoots }),
    );
    return this.#worldHost;
  }

  /** Ends the processes; running generations and steps end with them. */
  async close(): Promise<void> {
    const host = this.#host;
    const worldHost = this.#worldHost;
    this.#host = undefined;
    const deskHost = this.#deskHost;
    this.#worldHost = undefined;
    this.#deskHost = undefined;
    await Promise.all([host, worldHost, deskHost].map(async (one) => (await one)?.close()));
  }
}
