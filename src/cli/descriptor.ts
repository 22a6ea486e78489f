// stdout and stderr without Node's streams, whose code takes 4 ms to load: a tenth of the time to a first token. A stream
// to a pipe, file or terminal writes at once on all systems but Windows, and so does this. A stream takes over where that
// cannot be: on Windows, whose consoles want another encoding, and when nobody empties a pipe that does not block.

import { fstatSync, statSync, writeSync } from 'node:fs';
import { devNull } from 'node:os';

export class Descriptor {
  readonly #fd: 1 | 2;
  readonly #failed: (error: NodeJS.ErrnoException) => void;
  #stream: NodeJS.WriteStream | undefined;

  /** `failed` is called when what is behind the descriptor takes no more. */
  constructor(fd: 1 | 2, failed: (error: NodeJS.ErrnoException) => void) {
    this.#fd = fd;
    this.#failed = failed;
    if (process.platform === 'win32') this.#open();
  }

  write(text: string): void {
    if (this.#stream !== undefined) {
      this.#stream.write(text);
      return;
    }
    const bytes = Buffer.from(text);
    let done = 0;
    try {
      while (done < bytes.length) done += writeSync(this.#fd, bytes, done);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'EAGAIN') this.#open().write(bytes.subarray(done));
      else this.#failed(error as NodeJS.ErrnoException);
    }
  }

  get isTTY(): boolean {
    try {
      // Only these can be terminals; a stream would have to be opened to know.
      if (this.#stream === undefined && !mayBeTerminal(this.#fd)) return false;
    } catch {
      return false;
    }
    return this.#open().isTTY;
  }

  /** Of a terminal. */
  get columns(): number {
    return this.#open().columns;
  }

  /** Resolves when what was written has left the process. */
  async flush(): Promise<void> {
    const stream = this.#stream;
    if (stream !== undefined) await new Promise<void>((resolve) => stream.write('', () => resolve()));
  }

  #open(): NodeJS.WriteStream {
    if (this.#stream === undefined) {
      this.#stream = this.#fd === 1 ? process.stdout : process.stderr;
      this.#stream.on('error', this.#failed);
    }
    return this.#stream;
  }
}

function mayBeTerminal(fd: number): boolean {
  const info = fstatSync(fd);
  return info.isCharacterDevice() && info.rdev !== statSync(devNull).rdev;
}
