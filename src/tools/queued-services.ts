// Services of a server with many clients: generations and training steps take turns, and somebody counts.

import type { GenerateRequest, GenerateResult } from '../generate/types.ts';
import { FairQueue, type FairQueueOptions } from './fair-queue.ts';
import type { ServiceHooks, Services } from './services.ts';

/** What is left of a call's time after a long wait: enough for some tokens and a handle to go on with. */
const LEAST_SECONDS = 1;

export class QueuedServices {
  readonly #services: Services;
  readonly #onResult: (result: GenerateResult) => void;
  readonly queue: FairQueue;

  constructor(services: Services, options: FairQueueOptions & { onResult?: (result: GenerateResult) => void }) {
    this.#services = services;
    this.#onResult = options.onResult ?? (() => {});
    this.queue = new FairQueue(options);
  }

  /** The services as this client gets them; equal names share a place in the rounds of the queue. */
  forClient(client: string): Services {
    const { allowedRoots, worlds } = this.#services;
    return {
      allowedRoots,
      generate: (request, hooks) => this.#generate(client, request, hooks),
      ...(worlds && {
        worlds: {
          step: async (request, hooks) => {
            const leave = await this.queue.enter(client, { signal: hooks?.signal });
            return worlds.step(request, hooks).finally(leave);
          },
          invert: (world) => worlds.invert(world),
        },
      }),
    };
  }

  async #generate(client: string, request: GenerateRequest, hooks: ServiceHooks): Promise<GenerateResult> {
    const start = performance.now();
    const leave = await this.queue.enter(client, { signal: hooks.signal, onPosition: hooks.onQueue });
    try {
      const waited = (performance.now() - start) / 1000;
      const { maxSeconds } = request;
      // The limit is there for the caller's time-out, which has been running since the call.
      const limit =
        maxSeconds === undefined
          ? {}
          : { maxSeconds: Math.max(maxSeconds - waited, Math.min(maxSeconds, LEAST_SECONDS)) };
      const result = await this.#services.generate({ ...request, ...limit }, hooks);
      this.#onResult(result);
      return result;
    } finally {
      leave();
    }
  }
}
