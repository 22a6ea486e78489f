// Where a command prints: results on stdout, everything else on stderr, and what the terminal behind each can show.

import { type ColorDepth, colorDepth } from '../color/terminal.ts';
import { wrap } from './wrap.ts';

/** What stands behind a descriptor: a stream of Node will do. */
export type Printer = {
  write(text: string): unknown;
  readonly isTTY: boolean;
  /** Of a terminal. */
  readonly columns: number;
  /** Resolves when what was written has left the process. */
  flush?(): Promise<void>;
};

export class Output {
  readonly #stdout: Printer;
  readonly #stderr: Printer;
  readonly #environment: NodeJS.ProcessEnv;
  #colorDepth: ColorDepth | undefined;

  constructor(stdout: Printer, stderr: Printer, environment: NodeJS.ProcessEnv) {
    this.#stdout = stdout;
    this.#stderr = stderr;
    this.#environment = environment;
  }

  get colorDepth(): ColorDepth {
    this.#colorDepth ??= colorDepth(this.#environment, this.#stdout);
    return this.#colorDepth;
  }

  /** Cells of a line of the terminal behind stdout; Infinity where there is none. */
  get width(): number {
    return widthOf(this.#stdout);
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

  /** A remark for people on stderr; one line, unless the terminal is narrower. */
  note(text: string): void {
    this.#stderr.write(`${wrap(text, widthOf(this.#stderr), '  ')}\n`);
  }

  /** The terminal to draw progress on, if stderr is one. */
  get progressTerminal(): Printer | undefined {
    return this.#stderr.isTTY ? this.#stderr : undefined;
  }

  /** Resolves when what was written has left the process. */
  async flush(): Promise<void> {
    await this.#stdout.flush?.();
  }
}

function widthOf(printer: Printer): number {
  // Some pseudo terminals say 0: nobody has told them.
  return printer.isTTY ? printer.columns || 80 : Number.POSITIVE_INFINITY;
}
