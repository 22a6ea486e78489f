// The folder that files are to be written to. The one place where folders are made: Node's own `recursive`, in its
// asynchronous form, never ends where the system says ENOENT of a folder whose parent does exist, as in /proc.

import { mkdirSync, statSync } from 'node:fs';
import { mkdir, stat } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { refusalOf, WriteError } from './errors.ts';

export type FolderOptions = {
  /** Permissions of the folders that are made; as for mkdir, less the process's umask. */
  readonly mode?: number;
};

/**
 * Makes the folder and those above it, as far as they are missing. Throws WriteError, which says why it could not be
 * made: read-only, full, a file in the way, no permission.
 */
export async function makeFolder(path: string, { mode = 0o777 }: FolderOptions = {}): Promise<void> {
  const isThere = (folder: string) =>
    stat(folder).then(
      (info) => info.isDirectory(),
      () => false,
    );
  const steps = foldersToMake(path);
  for (let step = steps.next(); step.done !== true; ) {
    const folder = step.value;
    const code = await mkdir(folder, { mode }).then(() => undefined, codeOf);
    // Some systems refuse to make what is there for another reason than that.
    step = steps.next(code !== undefined && code !== 'ENOENT' && (await isThere(folder)) ? 'EEXIST' : code);
  }
  // What was there may be a file, or a link that leads nowhere.
  if (!(await isThere(path))) throw refused(path, 'ENOTDIR');
}

/** As `makeFolder`, at once. */
export function makeFolderSync(path: string, { mode = 0o777 }: FolderOptions = {}): void {
  const isThere = (folder: string): boolean => {
    try {
      return statSync(folder).isDirectory();
    } catch {
      return false;
    }
  };
  const codeOfMaking = (folder: string): string | undefined => {
    try {
      mkdirSync(folder, { mode });
      return undefined;
    } catch (cause) {
      return codeOf(cause);
    }
  };
  const steps = foldersToMake(path);
  for (let step = steps.next(); step.done !== true; ) {
    const code = codeOfMaking(step.value);
    step = steps.next(code !== undefined && code !== 'ENOENT' && isThere(step.value) ? 'EEXIST' : code);
  }
  if (!isThere(path)) throw refused(path, 'ENOTDIR');
}

/** The folders to make, one after the other; after each it wants to hear the code of what went wrong, if anything. */
function* foldersToMake(path: string): Generator<string, void, string | undefined> {
  const missing: string[] = [];
  for (let folder = resolve(path); ; folder = dirname(folder)) {
    const code = yield folder;
    if (code === undefined || code === 'EEXIST') break;
    if (code !== 'ENOENT' || folder === dirname(folder)) throw refused(path, code);
    missing.push(folder);
  }
  for (const folder of missing.reverse()) {
    const code = yield folder;
    // Another process may have made it meanwhile.
    if (code !== undefined && code !== 'EEXIST') throw refused(path, code);
  }
}

function codeOf(cause: unknown): string {
  return (cause as NodeJS.ErrnoException).code ?? String(cause);
}

function refused(path: string, code: string): WriteError {
  const { reason, fix } = refusalOf(code);
  return new WriteError({ file: path, what: `the folder cannot be made: ${reason}`, fix });
}
