// How many bytes of recurrent states a model keeps to start from.

import { ArgumentError } from '../errors.ts';

/** MiB; six of the largest states we know (149.6 MiB each, Qwen3.5 27B). */
const DEFAULT_MIB = 1024;
const MOST_MIB = 1 << 20;

/** Bytes for one model. Throws ArgumentError for a variable that says no number. */
export function snapshotBudget(env: Readonly<Record<string, string | undefined>> = process.env): number {
  const { BITNET_SNAPSHOT_MIB: given = '' } = env;
  if (given === '') return DEFAULT_MIB * 2 ** 20;
  const mib = Number(given);
  if (/^\d+$/.test(given) && mib <= MOST_MIB) return mib * 2 ** 20;
  throw new ArgumentError({
    what: `BITNET_SNAPSHOT_MIB is ${JSON.stringify(given)}`,
    fix: `set it to a whole number of MiB, at most ${MOST_MIB}`,
  });
}
