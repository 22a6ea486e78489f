// A regular file read at given positions. Nothing is read ahead and nothing is kept, unless asked for: a 5 GB checkpoint
// costs its header.

import { closeSync, constants, fstatSync, openSync, read as readCallback, readSync } from 'node:fs';
import { type Allocate, plainMemory } from '../tensor/allocate.ts';
import { FileAccessError, TruncatedFileError } from './errors.ts';

/** Largest piece asked of the system at once: read(2) and Node both stop near 2^31. */
const MAX_READ = 1 << 30;

/**
 * Files up to this size are read ahead when asked. One read beside other work is then faster than a hundred in turn; of a
 * larger file the memory of each tensor should go when nobody needs it any more.
 */
const READ_AHEAD_BYTES = 64 << 20;

/** Read ahead by as many threads as Node has: most of the time goes into new memory, page by page. */
const PIECE_BYTES = 2 << 20;

export type OpenOptions = {
  /** All of the file is wanted soon: reading it begins at once, if it is small. */
  readonly readAhead?: boolean;
};

export class RandomAccessFile implements Disposable {
  readonly path: string;
  /** Bytes in the file when it was opened. */
  readonly size: number;
  #fd: number;
  /** All of the file, when it is being read ahead. */
  #whole: Promise<Uint8Array<ArrayBuffer>> | undefined;

  constructor(path: string, { readAhead = false }: OpenOptions = {}) {
    let fd: number;
    try {
      // Non-blocking, so that opening a FIFO returns at once and is refused below instead of waiting for a writer.
      fd = openSync(path, constants.O_RDONLY | (constants.O_NONBLOCK ?? 0));
    } catch (cause) {
      const errno = (cause as NodeJS.ErrnoException).code;
      const what =
        errno === 'ENOENT' ? 'there is no such file' : `the file cannot be opened: ${errno ?? String(cause)}`;
      throw new FileAccessError(path, what, { cause });
    }
    try {
      const stat = fstatSync(fd);
      if (!stat.isFile()) throw new FileAccessError(path, 'this is not a regular file');
      this.size = stat.size;
    } catch (error) {
      closeSync(fd);
      throw error;
    }
    this.path = path;
    this.#fd = fd;
    if (readAhead && this.size <= READ_AHEAD_BYTES) {
      const bytes = new Uint8Array(this.size);
      const pieces = Array.from({ length: Math.ceil(this.size / PIECE_BYTES) }, (_, i) => i * PIECE_BYTES);
      const filled = pieces.map((start) => this.#fill(bytes.subarray(start, start + PIECE_BYTES), start));
      this.#whole = Promise.all(filled).then(() => bytes);
      // Whoever reads sees it.
      this.#whole.catch(() => {});
    }
  }

  /** Fills `out` with the bytes from `position` on; a file that ends earlier is an error. */
  async readInto(out: Uint8Array, position: number): Promise<void> {
    const whole = await this.#whole;
    if (whole === undefined) await this.#fill(out, position);
    else out.set(this.#part(whole, position, out.byteLength));
  }

  /**
   * The bytes from `position` on, not to be written to: of a file that was read ahead they are no copy. They lie at a
   * multiple of `alignment`, by default one for any element type. A file that ends earlier is an error.
   */
  async read(
    position: number,
    length: number,
    { alignment = 8, allocate = plainMemory }: { readonly alignment?: number; readonly allocate?: Allocate } = {},
  ): Promise<Uint8Array<ArrayBuffer>> {
    const whole = await this.#whole;
    if (whole !== undefined && position % alignment === 0) return this.#part(whole, position, length);
    const out = await allocate(length);
    await this.readInto(out, position);
    return out;
  }

  #part(whole: Uint8Array<ArrayBuffer>, position: number, length: number): Uint8Array<ArrayBuffer> {
    const part = whole.subarray(position, position + length);
    if (part.byteLength < length) this.#progress(0, position + part.byteLength, length - part.byteLength);
    return part;
  }

  async #fill(out: Uint8Array, position: number): Promise<void> {
    for (let done = 0; done < out.byteLength; ) {
      const length = Math.min(out.byteLength - done, MAX_READ);
      const fd = this.#openFd();
      const count = await new Promise<number>((resolve, reject) => {
        readCallback(fd, out, done, length, position + done, (error, bytesRead) => {
          if (error === null) resolve(bytesRead);
          else
            reject(new FileAccessError(this.path, `reading failed: ${error.code ?? error.message}`, { cause: error }));
        });
      });
      done += this.#progress(count, position + done, out.byteLength - done);
    }
  }

  /** As `readInto`, blocking. */
  readIntoSync(out: Uint8Array, position: number): void {
    for (let done = 0; done < out.byteLength; ) {
      let count: number;
      try {
        count = readSync(this.#openFd(), out, done, Math.min(out.byteLength - done, MAX_READ), position + done);
      } catch (cause) {
        if (cause instanceof FileAccessError) throw cause;
        throw new FileAccessError(this.path, `reading failed: ${(cause as NodeJS.ErrnoException).code}`, { cause });
      }
      done += this.#progress(count, position + done, out.byteLength - done);
    }
  }

  [Symbol.dispose](): void {
    if (this.#fd < 0) return;
    const fd = this.#fd;
    this.#fd = -1;
    // Not while another thread reads from it: the number may be another file's by then.
    if (this.#whole === undefined) closeSync(fd);
    else {
      const close = () => closeSync(fd);
      this.#whole.then(close, close);
    }
  }

  #openFd(): number {
    if (this.#fd < 0) throw new FileAccessError(this.path, 'the file was already closed by this program');
    return this.#fd;
  }

  #progress(count: number, offset: number, missing: number): number {
    if (count > 0) return count;
    throw new TruncatedFileError({ file: this.path, offset, what: `the file ends ${missing} bytes too early` });
  }
}
