// Renames that go through on Windows, too: there a file that somebody has open (a virus scanner, an indexer, another
// process of ours that reads it) cannot be replaced for the moment, and the system says so in three ways.

import { rename } from 'node:fs/promises';

const BUSY = ['EPERM', 'EACCES', 'EBUSY'];

/** Whether a rename was refused because somebody has the file open, as Windows refuses it. */
export function isInUse(cause: unknown, platform: NodeJS.Platform = process.platform): boolean {
  return platform === 'win32' && BUSY.includes((cause as NodeJS.ErrnoException).code ?? '');
}

/** In milliseconds; together some four seconds, after which whoever has the file open means to keep it. */
const WAITS = [10, 20, 40, 80, 160, 320, 640, 1280, 1280] as const;

export type RenameOptions = {
  readonly platform?: NodeJS.Platform;
  readonly rename?: (from: string, to: string) => Promise<void>;
  readonly wait?: (ms: number) => Promise<void>;
};

/** As `rename`; on Windows one that is refused because the file is in use is tried again for a while. */
export async function renameOver(from: string, to: string, options: RenameOptions = {}): Promise<void> {
  const { platform = process.platform, rename: once = rename, wait = delay } = options;
  for (const ms of platform === 'win32' ? WAITS : []) {
    try {
      return await once(from, to);
    } catch (cause) {
      if (!isInUse(cause, platform)) throw cause;
      await wait(ms);
    }
  }
  return once(from, to);
}

const delay = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));
