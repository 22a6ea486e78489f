// MCP over this process's stdin and stdout, for clients that start the server themselves.

import { Writable } from 'node:stream';
import { serveStdio } from '@modelcontextprotocol/server/stdio';
import { Logger } from '../logger.ts';
import { EngineServices } from '../tools/engine-services.ts';
import { QueuedServices } from '../tools/queued-services.ts';
import { LineTransport } from './line-transport.ts';
import { createMcpServer } from './server.ts';

/**
 * As many run as over HTTP: a client that calls everything at once must not fill the memory. More wait: it is the only
 * one, and refusing a call that is here already would save no more than its arguments.
 */
const LIMITS = { slots: 8, slotsPerClient: 8, maxWaiting: 10_000 };

/** An engine that does not end by itself within this time is left to its parent's death. */
const FORCE_EXIT_MS = 2000;

export type StdioOptions = {
  readonly signal: AbortSignal;
  /** Folders that callers' model paths must lie in; any path when undefined. */
  readonly allowedRoots?: readonly string[] | undefined;
};

/** Serves until the client closes stdin, stops reading stdout, or `signal` fires. */
export async function serveOnStdio({ signal, allowedRoots }: StdioOptions): Promise<void> {
  const wire = claimStdout();
  const logger = new Logger();
  const engine = new EngineServices({ logger, ...(allowedRoots !== undefined && { allowedRoots }) });
  const services = new QueuedServices(engine, LIMITS).forClient('stdio');
  const ended = new Promise<string>((resolve) => {
    process.stdin.once('end', () => resolve('stdin ended'));
    process.stdin.once('close', () => resolve('stdin closed'));
    wire.once('error', () => resolve('stdout closed'));
    signal.addEventListener('abort', () => resolve('signal'), { once: true });
    // The SDK closes a connection by itself where it cannot go on: nothing is left that could wake this process.
    process.once('beforeExit', () => resolve('the transport closed'));
  });

  const handle = serveStdio(() => createMcpServer({ services, logger }), {
    transport: new LineTransport(process.stdin, wire),
    onerror: (error) => logger.warn('protocol error', { err: error }),
  });

  const reason = await ended;
  setTimeout(() => process.exit(0), FORCE_EXIT_MS).unref();
  logger.info('closing', { reason });
  await Promise.allSettled([handle.close(), engine.close()]);
  await logger.flush();
}

/**
 * Only the protocol may reach stdout from here on: whatever else in this process prints there, `console.log` included,
 * goes to stderr.
 */
function claimStdout(): Writable {
  const write = process.stdout.write.bind(process.stdout);
  const wire = new Writable({
    decodeStrings: false,
    write: (chunk, _encoding, done) => {
      write(chunk, done);
    },
  });
  // The SDK listens anew for each answer that waits for a slow reader; Node would take more than ten for a leak.
  wire.setMaxListeners(0);
  process.stdout.removeAllListeners('error');
  process.stdout.on('error', (error) => wire.destroy(error));
  process.stdout.write = process.stderr.write.bind(process.stderr) as typeof process.stdout.write;
  return wire;
}
