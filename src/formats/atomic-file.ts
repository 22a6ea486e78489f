// Files that appear whole or not at all: written beside their place under another name, flushed, then renamed. A reader
// (or a crash, or Ctrl-C) never meets half a checkpoint.

import { randomBytes } from 'node:crypto';
import { type FileHandle, open, stat, unlink } from 'node:fs/promises';
import { basename, dirname, join, win32 } from 'node:path';
import { CancelledError } from '../errors.ts';
import { refusalOf, WriteError } from './errors.ts';
import { isInUse, renameOver } from './rename-over.ts';

/** Of the writers of files of tensors. */
export type WriteOptions = {
  readonly signal?: AbortSignal;
  /** Told when a tensor has been written. */
  readonly onTensor?: (done: number, total: number) => void;
};

/** Appends bytes to the file being written. */
export type AtomicSink = { write(bytes: Uint8Array): Promise<void>; readonly written: number };

/**
 * Calls `produce` with a sink and puts what it wrote at `path`, replacing a file there, but never a device or a pipe. If
 * `produce` fails or `signal` fires, `path` is as it was and the temporary file is gone.
 */
export async function writeFileAtomically(
  path: string,
  produce: (sink: AtomicSink) => Promise<void>,
  signal?: AbortSignal,
): Promise<void> {
  if (isDeviceName(path)) {
    const fix = 'choose another name';
    throw new WriteError({ file: path, what: 'cannot write here: Windows keeps this name for a device', fix });
  }
  // A folder is refused by the rename; a device or a pipe would be gone by it, and whoever else uses it with it.
  const there = await stat(path).catch(() => undefined);
  if (there !== undefined && !there.isFile() && !there.isDirectory()) {
    const fix = 'give the name of a file';
    throw new WriteError({ file: path, what: 'cannot write here: this is not a regular file', fix });
  }
  const folder = dirname(path);
  const temporary = join(folder, `.${basename(path).slice(0, 200)}.${randomBytes(6).toString('hex')}.tmp`);
  let handle: FileHandle;
  try {
    handle = await open(temporary, 'wx');
  } catch (cause) {
    const isMissing = (cause as NodeJS.ErrnoException).code === 'ENOENT';
    const { reason, fix: other } = refusalOf(cause);
    const fix = isMissing ? 'check that the folder exists and can be written' : other;
    throw new WriteError({ file: path, what: `cannot write here: ${reason}`, fix }, cause);
  }
  try {
    try {
      await produce(new HandleSink(handle, path, signal));
      await handle.sync();
    } finally {
      await handle.close();
    }
    if (signal?.aborted) throw new CancelledError();
    try {
      await renameOver(temporary, path);
    } catch (cause) {
      const fix = isInUse(cause)
        ? 'another program has the file open: close it there, or choose another path'
        : 'choose a path that is not a folder';
      throw new WriteError({ file: path, what: `cannot put the file here: ${refusalOf(cause).reason}`, fix }, cause);
    }
  } catch (error) {
    await unlink(temporary).catch(() => undefined);
    throw error;
  }
  await syncFolder(folder);
}

/** NUL, CON, COM1 and others are devices on Windows in every folder, with any ending. */
export function isDeviceName(path: string, platform: NodeJS.Platform = process.platform): boolean {
  return (
    platform === 'win32' &&
    /^(?:con|prn|aux|nul|conin\$|conout\$|(?:com|lpt)[1-9\u00b9\u00b2\u00b3])[ .]*(?:\..*)?$/i.test(
      win32.basename(path),
    )
  );
}

class HandleSink implements AtomicSink {
  written = 0;
  readonly #handle: FileHandle;
  readonly #path: string;
  readonly #signal: AbortSignal | undefined;

  constructor(handle: FileHandle, path: string, signal: AbortSignal | undefined) {
    this.#handle = handle;
    this.#path = path;
    this.#signal = signal;
  }

  async write(bytes: Uint8Array): Promise<void> {
    if (this.#signal?.aborted) throw new CancelledError();
    for (let done = 0; done < bytes.byteLength; ) {
      try {
        const length = Math.min(bytes.byteLength - done, 1 << 30);
        done += (await this.#handle.write(bytes, done, length)).bytesWritten;
      } catch (cause) {
        const { reason, fix } = refusalOf(cause);
        const offset = this.written + done;
        throw new WriteError({ file: this.#path, offset, what: `writing failed: ${reason}`, fix }, cause);
      }
    }
    this.written += bytes.byteLength;
  }
}

/** The rename itself is durable only once the folder is flushed. Systems that cannot open folders do it on their own. */
async function syncFolder(folder: string): Promise<void> {
  let handle: FileHandle | undefined;
  try {
    handle = await open(folder, 'r');
    await handle.sync();
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? '';
    if (!['EISDIR', 'EPERM', 'EACCES', 'EINVAL', 'ENOTSUP'].includes(code)) throw error;
  } finally {
    await handle?.close();
  }
}
