// The log of a run: one JSON object a line, appended as steps are taken. A resumed run cuts it back to the steps that its
// state has, so that it reads as if nothing had happened.

import { appendFile, open, readFile } from 'node:fs/promises';
import { WriteError } from '../formats/errors.ts';

export type LogEntry = {
  readonly step: number;
  /** Passes over the data after the step. */
  readonly epoch?: number;
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

  /** Opens a log and drops everything past `bytes`. Of a log that somebody cut or deleted, what is there is kept. */
  static async open(path: string, bytes: number): Promise<RunLog> {
    await using file = await open(path, 'a+').catch((cause) => refuse(path, cause));
    // Cutting a shorter file back to more than it has would fill it up with zero bytes.
    const { size } = await file.stat();
    const kept = size < bytes ? (await file.readFile()).lastIndexOf('\n') + 1 : bytes;
    await file.truncate(kept);
    await file.sync();
    return new RunLog(path, kept);
  }

  get bytes(): number {
    return this.#bytes;
  }

  async append(entry: LogEntry): Promise<void> {
    const line = `${JSON.stringify(entry)}\n`;
    await appendFile(this.#path, line).catch((cause) => refuse(this.#path, cause));
    this.#bytes += Buffer.byteLength(line);
  }

  /** Lines that somebody damaged are left out: the log is for people, and the model does not depend on it. */
  async entries(): Promise<LogEntry[]> {
    const text = await readFile(this.#path, 'utf8');
    return text.split('\n').flatMap((line) => {
      try {
        const entry = JSON.parse(line) as LogEntry | null;
        return typeof entry?.step === 'number' ? [entry] : [];
      } catch {
        return [];
      }
    });
  }
}

function refuse(file: string, cause: NodeJS.ErrnoException): never {
  const fix =
    cause.code === 'ENOSPC' ? 'free some disk space' : 'check that the folder can be written, or name another one';
  throw new WriteError({ file, what: `cannot write the log: ${cause.code}`, fix }, cause);
}
