// How heavy work takes its turn. Whatever generates, trains, reads a model's weights, or may hold up the event loop for
// tens of milliseconds goes through here, so that no client can keep the others waiting with many calls.

import type { Scheme } from '../color/scheme.ts';
import type { ToolContext, TurnOf } from './services.ts';

/** What of a tool's context a turn needs; resources have it, too. */
export type TurnContext = Pick<ToolContext, 'services' | 'signal' | 'progress'>;

/**
 * Runs `work` when it is this call's turn, with the seconds that it waited. The progress of a call that waits stays
 * below 1, tells how many are before it, and has no total yet. Throws BusyError when too many wait, and CancelledError
 * when the signal fires first.
 */
export async function inTurn<T>(
  of: TurnOf,
  { services, signal, progress }: TurnContext,
  work: (waitedSeconds: number) => Promise<T> | T,
): Promise<T> {
  if (services.takeTurn === undefined) return await work(0);
  const start = performance.now();
  return await services.takeTurn(of, async () => await work((performance.now() - start) / 1000), {
    signal,
    onQueue:
      progress && ((position) => progress(1 / (2 + position), undefined, `waiting: ${position} before this call`)),
  });
}

/** Index up to which a color of scheme gay-mcp is had in a millisecond; the others are had at once at any index. */
const NEAR_INDEX = 20_000;

/** Whether colors up to `index` hold up the event loop long enough to need a turn. */
export function isLongWalk(scheme: Scheme, index: number): boolean {
  return scheme === 'gay-mcp' && index > NEAR_INDEX;
}

/** The number that an unchecked argument is, as text or not; NaN for anything else. */
export function numberIn(value: unknown): number {
  return typeof value === 'number' || typeof value === 'string' ? Number(value) : Number.NaN;
}
