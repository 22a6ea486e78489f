// What a server's log says of the threads that `auto` came to.

import type { ThreadsFound } from '../engine/backend.ts';
import { type CoreLimits, coreLimits, limitText } from '../engine/cpu/cores.ts';

export type ThreadsTold = {
  readonly model: string;
  /** Threads that write a text, of those that were tried. */
  readonly generation: number;
  /** Threads that read a prompt; null where none was long enough to tell yet. */
  readonly prompts: number | null;
  /** The most that were tried. */
  readonly of: number;
  /** Why not more. */
  readonly reason: string;
};

export function threadsTold(
  model: string,
  { generation = 1, prompt }: ThreadsFound,
  of = 1,
  limits: CoreLimits = coreLimits(),
): ThreadsTold {
  const limit = limits.usable > of ? `the engine runs ${of} at most` : limitText(limits);
  const isLess = [generation, prompt ?? of].some((count) => count < of);
  return {
    model,
    generation,
    prompts: prompt ?? null,
    of,
    reason: isLess ? `more were not faster; ${limit}` : limit,
  };
}
