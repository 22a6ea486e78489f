// The folder that files are to be written to.

import { mkdir, stat } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { WriteError } from './errors.ts';

/**
 * Makes the folder and those above it, as far as they are missing. Node's own `recursive` never ends where the system
 * says ENOENT of a folder that does exist, as in /proc. Throws WriteError.
 */
export async function makeFolder(path: string): Promise<void> {
  const missing: string[] = [];
  for (let folder = resolve(path); ; folder = dirname(folder)) {
    const code = await codeOfMaking(folder);
    if (code === undefined || code === 'EEXIST') break;
    if (code !== 'ENOENT' || folder === dirname(folder)) throw refused(path, code);
    missing.push(folder);
  }
  for (const folder of missing.reverse()) {
    const code = await codeOfMaking(folder);
    // Another process may have made it meanwhile.
    if (code !== undefined && code !== 'EEXIST') throw refused(path, code);
  }
  // What was there may be a file, or a link that leads nowhere.
  const there = await stat(path).catch(() => undefined);
  if (there?.isDirectory() !== true) throw refused(path, 'ENOTDIR');
}

async function codeOfMaking(folder: string): Promise<string | undefined> {
  try {
    await mkdir(folder);
    return undefined;
  } catch (cause) {
    return (cause as NodeJS.ErrnoException).code ?? String(cause);
  }
}

function refused(path: string, code: string): WriteError {
  return new WriteError({
    file: path,
    what: `the folder cannot be made: ${code}`,
    fix: code === 'ENOTDIR' ? 'a file is in the way: give another folder' : 'give a folder that you may write to',
  });
}
