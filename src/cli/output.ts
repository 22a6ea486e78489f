// Where a command prints: results on stdout, everything else on stderr, and what the terminal behind each can show.

import type { WriteStream } from 'node:tty';
import { type ColorDepth, colorDepth } from '../color/terminal.ts';

export class Output {
  readonly #stdout: NodeJS.WriteStream;
  readonly #stderr: NodeJS.WriteStream;
  readonly colorDepth: ColorDepth;

  constructor(stdout: NodeJS.WriteStream, stderr: NodeJS.WriteStream, environment: NodeJS.ProcessEnv) {
    this.#stdout = stdout;
    this.#stderr = stderr;
    this.colorDepth = colorDepth(environment, stdout);
  }

  write(text: string): void {
    this.#stdout.write(text);
  }

  line(text = ''): void {
    this.#stdout.write(`${text}\n`);
  }

  json(document: unknown): void {
    this.#stdout.write(`${JSON.stringify(document, null, 2)}\n`);
  }

  /** A line for people on stderr. */
  note(text: string): void {
    this.#stderr.write(`${text}\n`);
  }

  /** The terminal to draw progress on, if stderr is one. */
  get progressTerminal(): WriteStream | undefined {
    return this.#stderr.isTTY ? (this.#stderr as WriteStream) : undefined;
  }

  /** Resolves when what was written has left the process. */
  async flush(): Promise<void> {
    await new Promise<void>((resolve) => this.#stdout.write('', () => resolve()));
  }
}
