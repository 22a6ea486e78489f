// The one logger of long-running processes. It writes JSON lines to stderr: over stdio, stdout is the protocol.
// BITNET_LOG sets the level (trace, debug, info, warn, error, silent; default info).

import type { Logger as Pino } from 'pino';

export type Facts = Readonly<Record<string, unknown>>;

/** pino is loaded with the first line, not before a server's first answer (it costs some 30 ms). */
export class Logger {
  #pino: Promise<Pino> | undefined;

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

  #log(level: 'info' | 'warn' | 'error', message: string, facts: Facts): void {
    this.#pino ??= openPino();
    // Lines keep their order: they wait on the same promise.
    void this.#pino.then((pino) => pino[level](facts, message));
  }
}

async function openPino(): Promise<Pino> {
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
