// Calls that are answered on the spot.
//
// For every stateless request the SDK makes a server, a transport, abort signals and a web response, and checks each
// message several times: ten times the work of a color. So calls of tools that wait for nothing take a shorter way, but
// only where there is nothing for the SDK to decide: the request has no part that is not listed here, and its envelope
// is, to the letter, one that the SDK accepted before. Everything else goes through the SDK, and a test compares the
// answers of both ways.

import type { IncomingHttpHeaders } from 'node:http';
import { CLIENT_INFO_META_KEY, PROTOCOL_VERSION_META_KEY, SERVER_INFO_META_KEY } from '@modelcontextprotocol/server';
import { ALL_TOOLS } from '../../tools/all-tools.ts';
import { MAX_ARGUMENT_ELEMENTS, serverInfo } from '../server.ts';
import { answerText, type ToolEnvironment } from '../tool-registration.ts';
import type { SessionOwner } from './sessions.ts';

type Fields = Readonly<Record<string, unknown>>;

/** What the SDK has seen to be one. */
type Envelope = { readonly [CLIENT_INFO_META_KEY]?: { readonly name: string } };

const VERSION = '2026-07-28';

/** Clients send the same envelope with every request; what is longer or comes after these is left to the SDK. */
const MAX_ENVELOPES = 1000;
const MAX_ENVELOPE_LENGTH = 2000;

/** In so few bytes there are no more elements than the SDK lets pass: the shortest is `1,`. It counts larger ones. */
const MAX_BODY_BYTES = 2 * MAX_ARGUMENT_ELEMENTS;

/** Calls of these are answered on the spot, or at the desk, whose answers come as text that goes out as it is. */
const TOOLS = new Map(
  ALL_TOOLS.flatMap((tool) => (tool.isInstant === undefined && tool.isAside === undefined ? [] : [[tool.name, tool]])),
);

export class InstantCalls {
  readonly #environmentOf: (owner: SessionOwner) => ToolEnvironment;
  readonly #envelopes = new Set<string>();
  #serverInfo: ReturnType<typeof serverInfo> | undefined;

  constructor(environmentOf: (owner: SessionOwner) => ToolEnvironment) {
    this.#environmentOf = environmentOf;
  }

  /** The JSON text of the answer to a stateless request; undefined: the SDK must see it. */
  async stateless(
    headers: IncomingHttpHeaders,
    body: unknown,
    owner: SessionOwner,
    signal: () => AbortSignal,
  ): Promise<string | undefined> {
    const call = instantCall(body);
    if (
      call === undefined ||
      !isShort(headers) ||
      headers['mcp-protocol-version'] !== VERSION ||
      headers['mcp-method'] !== 'tools/call' ||
      headers['mcp-name'] !== call.tool.name ||
      !this.#envelopes.has(JSON.stringify(call.envelope))
    ) {
      return undefined;
    }
    const client = (call.envelope as Envelope)[CLIENT_INFO_META_KEY]?.name ?? '';
    this.#serverInfo ??= serverInfo();
    const more = { resultType: 'complete', _meta: { [SERVER_INFO_META_KEY]: this.#serverInfo } };
    const hooks = { client, more, ...(call.waits && { signal: signal() }) };
    return answer(call.id, await answerText(call.tool, call.args, this.#environmentOf(owner), hooks));
  }

  /** The SDK has given the request a result: its envelope is sound. */
  accept(body: unknown): void {
    if (this.#envelopes.size >= MAX_ENVELOPES) return;
    const envelope = instantCall(body)?.envelope as Fields | undefined;
    if (envelope?.[PROTOCOL_VERSION_META_KEY] !== VERSION) return;
    const text = JSON.stringify(envelope);
    if (text.length <= MAX_ENVELOPE_LENGTH) this.#envelopes.add(text);
  }

  /** Whether a request in a session of the 2025 protocol, which has no envelope, can be answered here. */
  isForSession(headers: IncomingHttpHeaders, body: unknown): boolean {
    const call = instantCall(body);
    // One that waits can be cancelled by a notification, of which the SDK hears.
    return call !== undefined && !call.waits && call.envelope === undefined && isShort(headers);
  }

  /** The JSON text of the answer to such a request; `client` is the name that the session's client gave itself. */
  async inSession(body: unknown, owner: SessionOwner, client: string): Promise<string | undefined> {
    const call = instantCall(body);
    if (call === undefined) return undefined;
    return answer(call.id, await answerText(call.tool, call.args, this.#environmentOf(owner), { client }));
  }
}

/** `result` is JSON. */
function answer(id: string | number, result: string): string {
  return `{"result":${result},"jsonrpc":"2.0","id":${JSON.stringify(id)}}`;
}

/** A body that comes in chunks does not say. */
function isShort(headers: IncomingHttpHeaders): boolean {
  return Number(headers['content-length']) <= MAX_BODY_BYTES;
}

/** The call that a message is, if it is one of an instant tool and nothing more. */
function instantCall(body: unknown) {
  if (!hasOnly(body, ['jsonrpc', 'id', 'method', 'params'])) return undefined;
  const { jsonrpc, id, method, params } = body;
  if (jsonrpc !== '2.0' || method !== 'tools/call') return undefined;
  if (typeof id !== 'string' && !Number.isSafeInteger(id)) return undefined;
  if (!hasOnly(params, ['name', 'arguments', '_meta'])) return undefined;
  const { name, arguments: args = {}, _meta: envelope } = params;
  const tool = TOOLS.get(name as string);
  if (tool === undefined || !isObject(args)) return undefined;
  const waits = tool.isInstant?.(args) !== true;
  if (waits && tool.isAside?.(args) !== true) return undefined;
  // The SDK leaves it out.
  if (Object.hasOwn(args, '__proto__')) return undefined;
  return { id: id as string | number, tool, args, envelope, waits };
}

function isObject(value: unknown): value is Fields {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function hasOnly(value: unknown, keys: readonly string[]): value is Fields {
  if (!isObject(value)) return false;
  for (const key of Object.keys(value)) if (!keys.includes(key)) return false;
  return true;
}
