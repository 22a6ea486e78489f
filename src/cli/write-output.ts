// Files that commands write for a person: whole or not at all, and never in place of a folder or a device.

import { statSync } from 'node:fs';
import { realpath, stat } from 'node:fs/promises';
import { extname } from 'node:path';
import { ArgumentError } from '../errors.ts';
import { writeFileAtomically } from '../formats/atomic-file.ts';

/** Puts `content` at `path`; through a link, at what it points to. Throws ArgumentError and WriteError. */
export async function writeOutput(path: string, content: string | Uint8Array): Promise<void> {
  // A new file has no real path yet. Whatever else is wrong with the path, the write itself reports.
  const target = await realpath(path).catch(() => path);
  const there = await stat(target).catch(() => undefined);
  if (there !== undefined && !there.isFile()) {
    throw new ArgumentError({
      what: `cannot write here: this is ${there.isDirectory() ? 'a folder' : 'not a regular file'}`,
      where: path,
      fix: 'give the name of a file',
    });
  }
  const bytes = typeof content === 'string' ? new TextEncoder().encode(content) : content;
  await writeFileAtomically(target, (sink) => sink.write(bytes));
}

/** Throws ArgumentError when a picture's name promises another format than the one there is. */
export function refuseOtherThanPng(path: string): void {
  refuseSuffix(path, '.png', 'pictures are written as PNG');
}

/** Throws ArgumentError when a file's name promises another format than `suffix`'s. */
export function refuseSuffix(path: string, suffix: string, what: string): void {
  const given = extname(path);
  if (given.toLowerCase() === suffix) return;
  // A folder or a device has a worse fault than its name; the write tells it.
  if (statSync(path, { throwIfNoEntry: false })?.isFile() === false) return;
  const named = `${given === '' ? path : path.slice(0, -given.length)}${suffix}`;
  throw new ArgumentError({
    what: `${what}, and this name ends in ${given === '' ? 'nothing' : given}`,
    where: path,
    fix: `name it ${named}`,
  });
}
