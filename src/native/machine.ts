// What decides whether a binary runs: the CPU, the system and its C library, and the program that loads it.

import { closeSync, openSync, readSync } from 'node:fs';
import { cpus, release } from 'node:os';

/** Whether this program was linked against musl (Alpine) and not the GNU C library. */
export function isMusl(): boolean {
  if (process.platform !== 'linux') return false;
  // The program's head names its loader.
  return startOf(process.execPath, 4096).includes('/ld-musl-');
}

/** As the folders of prebuilt binaries are called: linux-x64, linux-x64-musl, win32-x64, ... */
export function targetName(): string {
  return `${process.platform}-${process.arch}${isMusl() ? '-musl' : ''}`;
}

/** One line; a binary that was tried under the same one is not tried again. */
export function machineName(): string {
  const { electron } = process.versions;
  const program = electron === undefined ? process.version : `${process.version} Electron ${electron}`;
  return `${cpuModel()}, ${process.platform} ${process.arch} ${release()}, ${program}`;
}

/** As `os.cpus()` has it, which on Linux asks every core for its clock first. */
function cpuModel(): string {
  if (process.platform === 'linux') {
    const model = /^model name\s*: (.*)$/m.exec(startOf('/proc/cpuinfo', 2048))?.[1];
    if (model !== undefined) return model;
  }
  return cpus()[0]?.model ?? 'unknown';
}

/** Empty for a file that cannot be read: a sandbox without /proc. */
function startOf(path: string, bytes: number): string {
  try {
    const file = openSync(path, 'r');
    try {
      const start = Buffer.alloc(bytes);
      return start.toString('latin1', 0, readSync(file, start));
    } finally {
      closeSync(file);
    }
  } catch {
    return '';
  }
}
