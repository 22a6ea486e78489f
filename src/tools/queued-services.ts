// Services of a server with many calls at once: heavy work takes turns, and somebody counts.

import { setImmediate as otherEvents } from 'node:timers/promises';
import type { GenerateResult } from '../generate/types.ts';
import { FairQueue, type FairQueueOptions } from './fair-queue.ts';
import type { Services, TurnOf } from './services.ts';

/** `Worlds` does one thing at a time. */
const WORLD_SLOTS = 1;
/** One of a client's reads its file while the other computes; a third is for whoever comes next. More take more memory. */
const SERVER_SLOTS = 3;
const SERVER_SLOTS_PER_CLIENT = 2;

/** Of `slots`, those that one client may have. */
const ENGINE_SHARE = 1 / 2;

export type QueuedServicesOptions = Pick<FairQueueOptions, 'slots' | 'maxWaiting'> & {
  /** Of the engine's slots, those that one client may have; default half of them. */
  readonly slotsPerClient?: number;
  /** Whether a client that has nothing running may have one beyond `slots`, and as many clients again; default not. */
  readonly guests?: boolean;
  readonly onResult?: (result: Pick<GenerateResult, 'usage'>) => void;
};

export class QueuedServices {
  readonly #services: Services;
  readonly #onResult: (result: Pick<GenerateResult, 'usage'>) => void;
  /** `slots` are those of the engine; `maxWaiting` holds for each. */
  readonly queues: Readonly<Record<TurnOf, FairQueue>>;

  constructor(services: Services, options: QueuedServicesOptions) {
    const { slots, maxWaiting, guests = false, onResult = () => {} } = options;
    this.#services = services;
    this.#onResult = onResult;
    this.queues = {
      engine: new FairQueue({
        slots,
        slotsPerClient: options.slotsPerClient ?? Math.ceil(slots * ENGINE_SHARE),
        // Whoever has nothing running yet need not wait for the end of what others run.
        guestSlots: guests ? slots : 0,
        maxWaiting,
      }),
      worlds: new FairQueue({ slots: WORLD_SLOTS, maxWaiting }),
      server: new FairQueue({ slots: SERVER_SLOTS, slotsPerClient: SERVER_SLOTS_PER_CLIENT, maxWaiting }),
    };
  }

  /** The services as this client gets them; equal names share a place in the rounds of the queues. */
  forClient(client: string): Services {
    const { allowedRoots, worlds, desk, generateMany } = this.#services;
    return {
      allowedRoots,
      ...(worlds && { worlds }),
      ...(desk && { desk }),
      generate: async (request, hooks) => {
        const result = await this.#services.generate(request, hooks);
        this.#onResult(result);
        return result;
      },
      ...(generateMany && {
        generateMany: async (request, hooks) => {
          const result = await generateMany.call(this.#services, request, hooks);
          this.#onResult(result);
          return result;
        },
      }),
      takeTurn: async (of, work, { signal, onQueue }) => {
        const leave = await this.queues[of].enter(client, { signal, onPosition: onQueue });
        try {
          // A turn that follows another at once would be one event with it: whoever else is there goes between.
          if (of === 'server') await otherEvents();
          return await work();
        } finally {
          leave();
        }
      },
    };
  }
}
