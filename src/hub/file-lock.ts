// One download of a file at a time, whoever else wants it: a lock is a file that its holder touches every few seconds.
// Process ids say nothing between containers and machines that share a cache, so a lock counts as left behind when it
// has not been touched for a while by the watcher's own clock.

import { randomUUID } from 'node:crypto';
import { open, readFile, rename, rm, stat, utimes } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { CancelledError } from '../errors.ts';

/** How often a holder touches its lock. */
const TOUCH_MS = 1500;
/** Untouched for so long it belongs to nobody: several touches, because a busy machine may miss some. */
const LEFT_BEHIND_MS = 10_000;
const LOOK_MS = 250;

export type LockOptions = {
  readonly signal?: AbortSignal | undefined;
  /** Called once when another holder has to be waited for, and with every look while it is. */
  readonly onWait?: (isFirst: boolean) => void;
  /** Tests shorten it. */
  readonly leftBehindMs?: number;
};

/** Takes the lock at `path`, waiting for whoever has it. Throws CancelledError, and what the system says of the folder. */
export async function lockFile(path: string, options: LockOptions = {}): Promise<AsyncDisposable> {
  const { signal, onWait, leftBehindMs = LEFT_BEHIND_MS } = options;
  const mine = randomUUID();
  let watched: { state: string; since: number } | undefined;
  for (let looks = 0; ; looks++) {
    if (signal?.aborted) throw new CancelledError();
    if (await made(path, mine)) break;
    const state = await stateOf(path);
    if (state === undefined) continue;
    if (watched?.state !== state) watched = { state, since: performance.now() };
    else if (performance.now() - watched.since > leftBehindMs) {
      await takeAway(path, mine);
      watched = undefined;
      continue;
    }
    onWait?.(looks === 0);
    await sleep(LOOK_MS, undefined, { signal }).catch(() => {});
  }
  const touching = setInterval(() => {
    const now = new Date();
    void utimes(path, now, now).catch(() => {});
  }, TOUCH_MS);
  touching.unref();
  return {
    [Symbol.asyncDispose]: async () => {
      clearInterval(touching);
      // Whoever thought that we were gone may hold it now.
      if ((await readFile(path, 'utf8').catch(() => '')) === mine) await rm(path, { force: true });
    },
  };
}

async function made(path: string, mine: string): Promise<boolean> {
  try {
    await using handle = await open(path, 'wx');
    await handle.writeFile(mine);
    return true;
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'EEXIST') return false;
    // Windows says this of a file that is being removed.
    if ((code === 'EPERM' || code === 'EBUSY') && (await stateOf(path)) !== undefined) return false;
    throw error;
  }
}

/** Differs after each touch, and for each holder. */
async function stateOf(path: string): Promise<string | undefined> {
  return stat(path).then(
    ({ mtimeMs, ino }) => `${ino} ${mtimeMs}`,
    () => undefined,
  );
}

/** By a rename, so that of several who find the same lock only one takes it. */
async function takeAway(path: string, mine: string): Promise<void> {
  const aside = `${path}.${mine}`;
  await rename(path, aside).catch(() => {});
  await rm(aside, { force: true });
}
