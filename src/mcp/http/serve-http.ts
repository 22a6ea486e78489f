// `serve --http`: the tools over HTTP, until a signal ends it.

import { Logger } from '../../logger.ts';
import { EngineServices } from '../../tools/engine-services.ts';
import { QueuedServices } from '../../tools/queued-services.ts';
import { remoteErrorText, remoteModelName } from '../error-text.ts';
import { createMcpServer } from '../server.ts';
import type { ToolEnvironment } from '../tool-registration.ts';
import { isLoopback } from './guards.ts';
import { HttpServer, type HttpServerOptions } from './http-server.ts';
import { InstantCalls } from './instant-calls.ts';
import { Metrics } from './metrics.ts';
import type { SessionOwner } from './sessions.ts';

export type ServeHttpOptions = Pick<
  HttpServerOptions,
  | 'host'
  | 'port'
  | 'tokens'
  | 'allowedHosts'
  | 'allowedOrigins'
  | 'behindProxy'
  | 'drainMs'
  | 'maxSessions'
  | 'requestsPerSecond'
> & {
  readonly signal: AbortSignal;
  /** Folders that callers' model paths must lie in; undefined: any on a loopback address, none on others. */
  readonly allowedRoots: readonly string[] | undefined;
  /** Generations that run at once; the engine computes them together. */
  readonly maxRunning: number;
  /** Serves OpenAI's API as well. */
  readonly openai: boolean;
  readonly onListening: (server: { url: string; port: number }) => void;
};

/** An engine that does not end by itself within this time is left to its parent's death. */
const FORCE_EXIT_MS = 2000;
const MAX_WAITING = 256;
const SESSION_IDLE_MS = 30 * 60_000;

/** Throws what binding the address throws. */
export async function serveOnHttp(options: ServeHttpOptions): Promise<void> {
  const { openai, ...serverOptions } = options;
  const { signal, host, maxRunning, onListening } = options;
  const logger = new Logger();
  const metrics = new Metrics();
  // Who calls over a network may name models, not look around in the file system.
  const allowedRoots = options.allowedRoots ?? (isLoopback(host) ? undefined : []);
  const engine = new EngineServices({ logger, shortHandles: false, ...(allowedRoots && { allowedRoots }) });
  const queued = new QueuedServices(engine, {
    slots: maxRunning,
    guests: true,
    maxWaiting: MAX_WAITING,
    onResult: ({ usage }) => metrics.tokens(usage),
  });
  const errorText = remoteErrorText(allowedRoots);
  const environmentOf = ({ client, seat = client }: SessionOwner): ToolEnvironment => ({
    services: queued.forClient(seat),
    logger,
    errorText,
    modelName: (name) => remoteModelName(name, allowedRoots),
    onCall: (call) => metrics.call(call),
  });
  const { engine: engineQueue, worlds: worldQueue, server: serverQueue } = queued.queues;
  const server = new HttpServer({
    ...serverOptions,
    sessionIdleMs: SESSION_IDLE_MS,
    maxSessionsPerClient: Math.ceil(options.maxSessions / 4),
    metrics,
    gauges: () => ({
      bitnet_prefix_cache_tokens: {
        help: 'Tokens whose sequences are kept for later prompts.',
        value: engine.kept.tokens,
      },
      bitnet_prefix_cache_state_bytes: {
        help: 'Recurrent states and windows of those sequences.',
        value: engine.kept.stateBytes,
      },
      bitnet_prefix_cache_prompts: { help: 'Prompts since the engine started.', value: engine.kept.prompts },
      bitnet_prefix_cache_hits: { help: 'Those that began with a kept sequence.', value: engine.kept.hits },
      bitnet_generations_running: { help: 'Generations that run.', value: engineQueue.running },
      bitnet_generations_waiting: { help: 'Those that wait for their turn.', value: engineQueue.waiting },
      bitnet_steps_running: { help: 'Training steps that are being taken.', value: worldQueue.running },
      bitnet_steps_waiting: { help: 'Those that wait for their turn.', value: worldQueue.waiting },
      bitnet_analyses_running: { help: 'Analyses and pictures that are being made.', value: serverQueue.running },
      bitnet_analyses_waiting: { help: 'Those that wait for their turn.', value: serverQueue.waiting },
    }),
    createServer: ({ only, ...owner }) => createMcpServer(environmentOf(owner), only),
    instant: new InstantCalls(environmentOf),
    ...(openai && { openai: { environmentOf } }),
    onError: (error) => logger.error('request failed', { err: error }),
  });
  try {
    onListening(await server.listen());
    await new Promise<void>((resolve) => {
      if (signal.aborted) resolve();
      else signal.addEventListener('abort', () => resolve(), { once: true });
    });
    logger.info('closing', { drainMs: options.drainMs });
    setTimeout(() => process.exit(0), options.drainMs + FORCE_EXIT_MS).unref();
    await server.close();
  } finally {
    await engine.close();
    await logger.flush();
  }
}
