import { delimiter, resolve } from 'node:path';
import { ArgumentError } from '../errors.ts';
import { type CommandInput, defineCommand } from './command.ts';

const FLAGS = {
  http: { type: 'boolean', description: 'Serve over HTTP instead of stdio' },
  openai: { type: 'boolean', description: "With --http: OpenAI's API as well, at /v1" },
  host: { type: 'string', default: '127.0.0.1', placeholder: 'H', description: 'Address to bind' },
  port: {
    type: 'integer',
    min: 0,
    max: 65_535,
    default: 8069,
    placeholder: 'P',
    description: 'Port; 0 takes a free one',
  },
  token: {
    type: 'strings',
    placeholder: 'T',
    description:
      'Bearer token that clients must send (may be repeated); better in BITNET_TOKEN, which ps does not show',
  },
  'allow-host': {
    type: 'strings',
    placeholder: 'NAME',
    description: 'Host name that clients may use (may be repeated)',
  },
  'allow-origin': {
    type: 'strings',
    placeholder: 'NAME',
    description: 'Host name of web pages that may call (may be repeated)',
  },
  'behind-proxy': { type: 'boolean', description: "Take the client's address from the proxy's X-Forwarded-For" },
  'rate-limit': {
    type: 'integer',
    min: 1,
    placeholder: 'N',
    description: 'Requests a second of one client; default 10000 on a loopback address, 100 on others',
  },
  'max-sessions': { type: 'integer', min: 1, default: 1024, placeholder: 'N', description: 'Sessions at once' },
  'max-running': {
    type: 'integer',
    min: 1,
    default: 8,
    placeholder: 'N',
    description: 'Generations at once; more wait',
  },
  'drain-seconds': {
    type: 'number',
    min: 0,
    default: 10,
    placeholder: 'N',
    description: 'Time that running calls have to finish after SIGTERM',
  },
} as const;

export const command = defineCommand({
  name: 'serve',
  summary: 'Serve MCP on stdio, or over HTTP',
  positionals: [],
  flags: FLAGS,
  examples: [
    'serve',
    'serve --http',
    'serve --http --openai',
    'serve --http --host 0.0.0.0 --allow-host mcp.example.com   # and BITNET_TOKEN',
  ],
  notes:
    'On stdio, this is what `bitnet-gf3` alone does, too. An MCP client starts it and talks to it over stdin and stdout; ' +
    'it ends when the client closes stdin. Logs go to stderr.\n' +
    'Over HTTP: MCP at /mcp, the old SSE transport at /sse, /healthz, /metrics; with --openai, /v1/models, /v1/chat/completions and /v1/completions. docs/serving.md tells the rest.\n' +
    'BITNET_LOG: debug, info, warn, error or silent. BITNET_MODEL_ROOTS: folders that model paths may lie in (several as ' +
    'in PATH; empty: names only). BITNET_BACKEND: what computes, as --backend of infer (with openai, see infer --help).',
  run: async (input) => {
    const allowedRoots = modelRoots(process.env.BITNET_MODEL_ROOTS);
    if (input.flags.http) await serveHttp(input, allowedRoots);
    else await serveStdio(input, allowedRoots);
    return 0;
  },
});

async function serveStdio(
  { flags, output, signal }: CommandInput<typeof FLAGS>,
  allowedRoots: readonly string[] | undefined,
) {
  const network = (Object.keys(FLAGS) as (keyof typeof FLAGS)[]).filter((name) => {
    const flag = FLAGS[name];
    const unset = 'default' in flag ? flag.default : flag.type === 'boolean' ? false : undefined;
    return flags[name] !== unset;
  });
  if (network.length > 0) {
    throw new ArgumentError({ what: `--${network.join(', --')} without --http`, fix: 'add --http, or leave it out' });
  }
  if (process.stdin.isTTY) {
    output.note(
      'bitnet-gf3 serves MCP on stdio and waits for a client here. Commands: bitnet-gf3 --help. Ctrl-C ends it.',
    );
  }
  const { serveOnStdio } = await import('../mcp/stdio.ts');
  await serveOnStdio({ signal, allowedRoots });
  if (process.stdin.isTTY) output.note('stopped');
}

async function serveHttp(
  { flags, json, output, signal }: CommandInput<typeof FLAGS>,
  allowedRoots: readonly string[] | undefined,
) {
  const { isLoopback } = await import('../mcp/http/guards.ts');
  const { host, port } = flags;
  const local = isLoopback(host);
  const tokens = tokensFrom(flags.token, process.env.BITNET_TOKEN);
  if (!local && tokens.length === 0) {
    throw new ArgumentError({
      what: `--host ${host} can be reached from other machines, and no token is set`,
      fix: 'set BITNET_TOKEN (openssl rand -hex 32 makes one) or give --token; or bind 127.0.0.1',
    });
  }
  const { serveOnHttp } = await import('../mcp/http/serve-http.ts');
  const isSeen = !json && output.progressTerminal !== undefined;
  if (isSeen) {
    const wait = flags['drain-seconds'];
    signal.addEventListener('abort', () => {
      output.note(`stopping: running calls have ${wait} s to finish; Ctrl-C again ends them at once`);
    });
  }
  try {
    await serveOnHttp({
      signal,
      allowedRoots,
      host,
      port,
      tokens,
      allowedHosts: flags['allow-host'] ?? [],
      allowedOrigins: flags['allow-origin'] ?? [],
      behindProxy: flags['behind-proxy'],
      requestsPerSecond: flags['rate-limit'] ?? (local ? 10_000 : 100),
      maxSessions: flags['max-sessions'],
      maxRunning: flags['max-running'],
      openai: flags.openai,
      drainMs: 1000 * flags['drain-seconds'],
      onListening: ({ url, port: bound }) => {
        if (json) output.json({ url: `${url}/mcp`, host, port: bound, pid: process.pid });
        else
          output.note(
            `MCP at ${url}/mcp (SSE at /sse; /healthz, /metrics)${flags.openai ? `, OpenAI's API at ${url}/v1` : ''}${tokens.length > 0 ? ', token required' : ''}` +
              (isSeen ? '. Ctrl-C ends it.' : ''),
          );
      },
    });
  } catch (error) {
    throw bindError(error, host, port);
  }
  if (isSeen) output.note('stopped');
}

/** A token must be what can stand in a header; how hard it is to guess is its maker's choice. */
function tokensFrom(flags: readonly string[] | undefined, environment: string | undefined): readonly string[] {
  const tokens = [...(flags ?? []), ...(environment ? [environment] : [])];
  for (const token of tokens) {
    if (!/^[\w\-.~+/]+=*$/.test(token)) {
      throw new ArgumentError({
        what: 'a token may hold letters, digits and - . _ ~ + / only, = at its end',
        fix: 'openssl rand -hex 32 makes a good one',
      });
    }
  }
  return tokens;
}

function bindError(error: unknown, host: string, port: number): unknown {
  const code = (error as NodeJS.ErrnoException | undefined)?.code;
  const reasons: Record<string, string> = {
    EADDRINUSE: 'something else listens there',
    EACCES: 'the system does not allow it',
    EADDRNOTAVAIL: 'this machine has no such address',
    ENOTFOUND: 'the name is unknown',
  };
  const reason = reasons[code ?? ''];
  if (reason === undefined) return error;
  return new ArgumentError({
    what: `cannot listen on ${host} port ${port}: ${reason}`,
    fix:
      code === 'EADDRINUSE' || code === 'EACCES'
        ? 'choose another --port (0 takes a free one)'
        : 'choose another --host',
  });
}

/** Undefined: any path. Empty: no path, only `default` and cached hub ids. */
function modelRoots(list: string | undefined): readonly string[] | undefined {
  return list
    ?.split(delimiter)
    .filter((folder) => folder !== '')
    .map((folder) => resolve(folder));
}
