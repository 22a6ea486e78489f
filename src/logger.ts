// The one logger of long-running processes. It writes JSON lines to stderr, and words where stderr is a terminal: over
// stdio, stdout is the protocol. BITNET_LOG sets the level (trace, debug, info, warn, error, silent; default info).

import { writeSync } from 'node:fs';
import { isatty } from 'node:tty';

type Level = 'info' | 'warn' | 'error';
/** What of pino's logger is used. */
type Lines = Readonly<Record<Level, (facts: Facts, message: string) => void>>;

export type Facts = Readonly<Record<string, unknown>>;

/** pino is loaded with the first line, not before a server's first answer (it costs some 30 ms). */
export class Logger {
  #pino: Promise<Lines> | undefined;

  info(message: string, facts: Facts = {}): void {
    this.#log('info', message, facts);
  }

  warn(message: string, facts: Facts = {}): void {
    this.#log('warn', message, facts);
  }

  /** `facts.err` may be an Error; its stack is kept. */
  error(message: string, facts: Facts = {}): void {
    this.#log('error', message, facts);
  }

  /** Resolves when every line so far is out. */
  async flush(): Promise<void> {
    await this.#pino;
  }

  #log(level: Level, message: string, facts: Facts): void {
    this.#pino ??= openPino();
    // Lines keep their order: they wait on the same promise.
    void this.#pino.then((pino) => pino[level](facts, message));
  }
}

async function openPino(): Promise<Lines> {
  if (isatty(2)) return linesForPeople(process.env.BITNET_LOG ?? 'info', (text) => writeSync(2, text));
  // The default export, because a bundle's chunk of a CommonJS module has no other.
  const { default: pino } = await import('pino');
  const level = process.env.BITNET_LOG ?? 'info';
  const known = level === 'silent' || level in pino.levels.values;
  const logger = pino(
    { level: known ? level : 'info', base: { name: 'bitnet-gf3', pid: process.pid } },
    pino.destination({ fd: 2, sync: true }),
  );
  if (!known)
    logger.warn(
      { BITNET_LOG: level },
      `BITNET_LOG must be one of silent, ${Object.keys(pino.levels.values).join(', ')}; using info`,
    );
  return logger;
}

const LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'];

/** `closing (reason: signal)`; a level other than info is named. */
export function linesForPeople(level: string, write: (text: string) => void): Lines {
  const known = LEVELS.includes(level);
  const least = LEVELS.indexOf(known ? level : 'info');
  const line =
    (of: Level) =>
    (facts: Facts, message: string): void => {
      if (LEVELS.indexOf(of) < least) return;
      const told = Object.entries(facts).map(([name, value]) =>
        value instanceof Error
          ? value.message
          : `${name}: ${typeof value === 'string' ? value : JSON.stringify(value)}`,
      );
      const parts = `${message}${told.length === 0 ? '' : ` (${told.join(', ')})`}`;
      write(`${of === 'info' ? '' : `${of}: `}${parts}\n`);
    };
  const lines = { info: line('info'), warn: line('warn'), error: line('error') };
  if (!known) lines.warn({}, `BITNET_LOG must be one of ${LEVELS.join(', ')}, got ${level}; using info`);
  return lines;
}
