// The log of a run: one JSON object a line, appended as steps are taken. A resumed run cuts it back to the steps that its
// state has, so that it reads as if nothing had happened.

import { appendFile, mkdir, open, readFile } from 'node:fs/promises';
import { dirname } from 'node:path';

export type LogEntry = {
  readonly step: number;
  /** Training loss of the step's batch, before the step. Nats per token. */
  readonly loss?: number;
  /** Mean over the held-out sequences. */
  readonly evalLoss?: number;
  readonly lr?: number;
  readonly weightDecay?: number;
  readonly gradientNorm?: number;
  /** Share of ternary weights whose trit the step changed. */
  readonly flipShare?: number;
  /** Tokens of the batch. */
  readonly tokens?: number;
};

export class RunLog {
  readonly #path: string;
  #bytes: number;

  private constructor(path: string, bytes: number) {
    this.#path = path;
    this.#bytes = bytes;
  }

  /** Opens a log and drops everything past `bytes`. */
  static async open(path: string, bytes: number): Promise<RunLog> {
    await mkdir(dirname(path), { recursive: true });
    const file = await open(path, 'a');
    await file.truncate(bytes);
    await file.sync();
    await file.close();
    return new RunLog(path, bytes);
  }

  get bytes(): number {
    return this.#bytes;
  }

  async append(entry: LogEntry): Promise<void> {
    const line = `${JSON.stringify(entry)}\n`;
    await appendFile(this.#path, line);
    this.#bytes += Buffer.byteLength(line);
  }

  async entries(): Promise<LogEntry[]> {
    const text = await readFile(this.#path, 'utf8');
    return text
      .split('\n')
      .filter((line) => line !== '')
      .map((line) => JSON.parse(line) as LogEntry);
  }
}
