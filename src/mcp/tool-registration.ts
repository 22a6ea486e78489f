// Tools on the wire. Arguments are checked once, by callTool, whose messages a model can act on; the SDK only gets the
// schemas to show.

import type { CallToolResult, McpServer, ServerContext, StandardSchemaWithJSON } from '@modelcontextprotocol/server';
import { BitnetError, CancelledError } from '../errors.ts';
import type { Facts, Logger } from '../logger.ts';
import { callTool, type ToolResult } from '../tools/call-tool.ts';
import { type JsonSchema, jsonSchemaOf, type Tool, type ToolContext } from '../tools/define-tool.ts';
import { inTurn } from '../tools/in-turn.ts';
import type { AsideResult, Services } from '../tools/services.ts';
import { appMeta } from './apps.ts';
import { localErrorText, type Teller } from './error-text.ts';

/** Beyond this many characters the JSON is only in structuredContent: the text would fill a model's context. */
const MAX_JSON_TEXT = 16_384;

/**
 * Clients whose model gets no result above 25,000 tokens, by the beginning of the name they give themselves. JSON of
 * numbers has more than 2 characters a token, and the text beside it needs some room.
 */
const LIMITED_CLIENTS = /^(claude|anthropic)/i;
const LIMITED_CHARACTERS = 36_000;

/** Clients redraw on every notification; more often than this nobody sees. */
const PROGRESS_INTERVAL_MS = 50;

export type ToolEnvironment = {
  readonly services: Services;
  readonly logger: Logger;
  /** What clients read of an error; default: for a client on this machine. */
  readonly errorText?: Teller;
  /** A model's name as clients read it that need not have written it; default: as it is. */
  readonly modelName?: (name: string) => string;
  /** Told of every call when it has ended. */
  readonly onCall?: (call: ToolCall) => void;
};

export type ToolCall = {
  readonly tool: string;
  /** `error`: the arguments or the job were at fault; `failed`: we were. */
  readonly outcome: 'ok' | 'error' | 'cancelled' | 'failed';
  readonly seconds: number;
};

export function registerTool(server: McpServer, tool: Tool, environment: ToolEnvironment): void {
  const { readOnly, idempotent, destructive = false } = tool.hints;
  const { input, output } = schemasOf(tool);
  server.registerTool(
    tool.name,
    {
      title: tool.title,
      description: tool.description,
      inputSchema: input,
      outputSchema: output,
      annotations: {
        readOnlyHint: readOnly,
        idempotentHint: idempotent,
        ...(!readOnly && { destructiveHint: destructive }),
        openWorldHint: false,
      },
      ...appMeta(tool.name),
    },
    (args, context) =>
      answerCall(tool, args, environment, {
        client: server.server.getClientVersion()?.name ?? '',
        ...requestHooks(context),
      }),
  );
}

export type CallHooks = Pick<ToolContext, 'signal' | 'progress'> & {
  /** The name that the client gives itself. */
  readonly client: string;
};

/** The result of a call as clients get it, whatever became of it. */
export async function answerCall(
  tool: Tool,
  args: unknown,
  environment: ToolEnvironment,
  hooks: CallHooks,
): Promise<CallToolResult> {
  const { content, json, structured, isError } = await answered(tool, args, environment, hooks);
  return {
    content: [...content],
    ...(json !== undefined && { structuredContent: structured ?? (JSON.parse(json) as Record<string, unknown>) }),
    ...(isError && { isError }),
  };
}

/** The same as JSON, with `more` beside it: the structured part is not taken apart again to be written. */
export async function answerText(
  tool: Tool,
  args: unknown,
  environment: ToolEnvironment,
  { more = {}, ...hooks }: CallHooks & { readonly more?: Readonly<Record<string, unknown>> },
): Promise<string> {
  const { content, json, isError } = await answered(tool, args, environment, hooks);
  const rest = JSON.stringify({ ...(isError && { isError }), ...more }).slice(1);
  const structured = json === undefined ? '' : `,"structuredContent":${json}`;
  return `{"content":${JSON.stringify(content)}${structured}${rest === '}' ? '' : ','}${rest}`;
}

type Answered = {
  readonly content: CallToolResult['content'];
  /** The structured result, as JSON; and as it is, where it was made here. */
  readonly json?: string;
  readonly structured?: Record<string, unknown>;
  readonly isError?: true;
};

async function answered(
  tool: Tool,
  args: unknown,
  environment: ToolEnvironment,
  { client, ...hooks }: CallHooks,
): Promise<Answered> {
  const { services, onCall } = environment;
  const start = performance.now();
  let outcome: ToolCall['outcome'] = 'ok';
  try {
    const resultBudget = LIMITED_CLIENTS.test(client) ? LIMITED_CHARACTERS : undefined;
    const { desk } = services;
    const result =
      desk !== undefined && isAside(tool, args)
        ? await inTurn('server', { services, ...hooks }, () => desk.call(tool.name, args, { resultBudget, ...hooks }))
        : withJson(await callTool(tool, args, { services, resultBudget, ...hooks }));
    if (hooks.signal?.aborted) outcome = 'cancelled';
    // What is done aside has no model of which anything could be doubtful.
    const { structured }: Partial<ToolResult> = result;
    if (structured !== undefined) logWarnings(structured, environment.logger);
    return { ...result, content: contentOf(result) };
  } catch (error) {
    outcome = outcomeOf(error);
    const text = tell(error, environment, { tool: tool.name, sent: new Set(Object.values(args ?? {})) });
    return { content: [{ type: 'text', text }], isError: true };
  } finally {
    onCall?.({ tool: tool.name, outcome, seconds: (performance.now() - start) / 1000 });
  }
}

function isAside(tool: Tool, args: unknown): boolean {
  return typeof args === 'object' && args !== null && tool.isAside?.(args as Record<string, unknown>) === true;
}

function withJson(result: ToolResult): ToolResult & AsideResult {
  return { ...result, json: JSON.stringify(result.structured) };
}

const warned = new Set<string>();
/** Texts that are kept to be logged once; beyond that nothing new is logged. */
const MAX_WARNED = 1000;

/** What a result says of doubtful files is of use to whoever runs the server, too: once. */
function logWarnings(structured: Readonly<Record<string, unknown>>, logger: Logger): void {
  const { warnings } = structured;
  if (!Array.isArray(warnings)) return;
  for (const warning of warnings.map(String)) {
    if (warned.has(warning) || warned.size >= MAX_WARNED) continue;
    warned.add(warning);
    logger.warn('a model has doubtful files', { warning });
  }
}

/** What the client reads of an error. What it does not, where that is of use to whoever runs the server, goes to the log. */
export function tell(
  error: unknown,
  { logger, errorText = localErrorText }: ToolEnvironment,
  { sent, ...from }: Facts & { readonly sent: ReadonlySet<unknown> },
): string {
  const text = errorText(error, sent);
  if (!(error instanceof BitnetError)) {
    logger.error('a request failed', { ...from, err: error });
  } else if (error.fault === 'job') {
    const whole = localErrorText(error, sent);
    if (text !== whole) logger.info('an error was told without its paths', { ...from, text: whole });
  }
  return text;
}

function outcomeOf(error: unknown): ToolCall['outcome'] {
  if (error instanceof CancelledError) return 'cancelled';
  return error instanceof BitnetError ? 'error' : 'failed';
}

/** Each tool's schemas are made once a process, not once a connection, and not before a client asks what there is. */
const schemaCache = new WeakMap<Tool, { input: StandardSchemaWithJSON; output: StandardSchemaWithJSON }>();

function schemasOf(tool: Tool) {
  let schemas = schemaCache.get(tool);
  if (schemas === undefined) {
    schemas = {
      input: shownSchema(() => jsonSchemaOf(tool.input, 'input')),
      output: shownSchema(() => jsonSchemaOf(tool.output, 'output')),
    };
    schemaCache.set(tool, schemas);
  }
  return schemas;
}

/** A schema that is shown and lets everything pass. */
function shownSchema(make: () => JsonSchema): StandardSchemaWithJSON {
  let json: JsonSchema | undefined;
  const show = () => {
    json ??= make();
    return { ...json };
  };
  return {
    '~standard': {
      version: 1,
      vendor: 'bitnet-gf3',
      validate: (value: unknown) => ({ value }),
      jsonSchema: { input: show, output: show },
    },
  };
}

/** A request's signal and, where it asks for progress, what tells it. */
export function requestHooks({ mcpReq }: ServerContext): Pick<ToolContext, 'signal' | 'progress'> {
  const progressToken = mcpReq._meta?.progressToken;
  if (progressToken === undefined) return { signal: mcpReq.signal };
  let last = Number.NEGATIVE_INFINITY;
  let furthest = -1;
  return {
    signal: mcpReq.signal,
    progress: (done, total, message) => {
      const now = performance.now();
      // The protocol wants every value to be above the last.
      if (done <= furthest || (done !== total && now - last < PROGRESS_INTERVAL_MS)) return;
      last = now;
      furthest = done;
      // A client that went away ends the request by its signal; a lost notification needs no second report.
      mcpReq
        .notify({ method: 'notifications/progress', params: { progressToken, progress: done, total, message } })
        .catch(() => {});
    },
  };
}

function contentOf({ json, text, images }: AsideResult): CallToolResult['content'] {
  return [
    { type: 'text', text },
    // For clients that show a model only the text.
    ...(json.length <= MAX_JSON_TEXT ? [{ type: 'text' as const, text: json }] : []),
    ...images.map(({ png }) => ({
      type: 'image' as const,
      data: Buffer.from(png.buffer, png.byteOffset, png.byteLength).toString('base64'),
      mimeType: 'image/png',
    })),
  ];
}
