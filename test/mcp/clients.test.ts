// Real clients against the built server over every transport: each lists every tool and calls every tool's example.

import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { Client as ModernClient, StreamableHTTPClientTransport as ModernHttp } from '@modelcontextprotocol/client';
import { StdioClientTransport as ModernTransport } from '@modelcontextprotocol/client/stdio';
import { Client as LegacyClient } from '@modelcontextprotocol/sdk/client/index.js';
import { SSEClientTransport as LegacySse } from '@modelcontextprotocol/sdk/client/sse.js';
import { StdioClientTransport as LegacyTransport } from '@modelcontextprotocol/sdk/client/stdio.js';
import { StreamableHTTPClientTransport as LegacyHttp } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import type { Transport as LegacyTransportType } from '@modelcontextprotocol/sdk/shared/transport.js';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { ALL_TOOLS } from '../../src/tools/all-tools.ts';
import { morphismInvertTool } from '../../src/tools/morphism-invert.ts';
import { morphismStepTool } from '../../src/tools/morphism-step.ts';
import { DONE, finish, openMockServer, piece, sleep } from '../generate/openai/mock-server.ts';
import { type RunningServer, startProcess } from './http-harness.ts';
import { serverFromMcpJson } from './server-process.ts';

type Result = {
  readonly isError?: boolean;
  readonly content: {
    readonly type: string;
    readonly text?: string;
    readonly data?: string;
    readonly mimeType?: string;
  }[];
  readonly structuredContent?: Record<string, unknown>;
};

type ListedTool = {
  readonly name: string;
  readonly title?: string | undefined;
  readonly annotations?: object | undefined;
  readonly outputSchema?: object | undefined;
};

type Connection = {
  list(): Promise<ListedTool[]>;
  call(name: string, args: Record<string, unknown>, onProgress?: (p: { progress: number }) => void): Promise<Result>;
  instructions(): string | undefined;
  close(): Promise<void>;
};

const info = { name: 'interop', version: '0' };

const TOKEN = 'a-token-of-the-test';
const headers = { authorization: `Bearer ${TOKEN}` };

let worlds: string;
/** The HTTP server that is connected to. */
let http: RunningServer;
/** What a server that is started gets in its environment. */
let environment: Record<string, string> = {};
beforeAll(async () => {
  worlds = await mkdtemp(join(tmpdir(), 'worlds-'));
  http = await startProcess([], { BITNET_TOKEN: TOKEN, BITNET_WORLDS: worlds });
});
afterAll(async () => {
  await http.close();
  await rm(worlds, { recursive: true, force: true });
});

const stdio = () => ({
  ...serverFromMcpJson(),
  env: { ...(process.env as Record<string, string>), BITNET_WORLDS: worlds, ...environment },
  stderr: 'ignore' as const,
});

const legacy = (transport: () => unknown) => async (): Promise<Connection> => {
  const client = new LegacyClient(info);
  // The 1.x classes were written without exactOptionalPropertyTypes.
  await client.connect(transport() as LegacyTransportType);
  return {
    list: async () => (await client.listTools()).tools,
    call: async (name, args, onprogress) =>
      (await client.callTool({ name, arguments: args }, undefined, onprogress && { onprogress })) as Result,
    instructions: () => client.getInstructions(),
    close: () => client.close(),
  };
};

const modern =
  (mode: 'legacy' | { pin: string }, transport: () => ModernTransport | ModernHttp) =>
  async (): Promise<Connection> => {
    const client = new ModernClient(info, { versionNegotiation: { mode } });
    await client.connect(transport());
    return {
      list: async () => (await client.listTools()).tools,
      call: async (name, args, onprogress) =>
        (await client.callTool({ name, arguments: args }, onprogress && { onprogress })) as Result,
      instructions: () => client.getInstructions(),
      close: () => client.close(),
    };
  };

const url = (path: string) => new URL(`${http.url}${path}`);
const modernStdio = () => new ModernTransport(stdio());
const modernHttp = () => new ModernHttp(url('/mcp'), { requestInit: { headers } });

/** The server stays with the client, so that a handle can be a short name. */
const STAYS = { shortHandles: true };
const MAY_CHANGE = { shortHandles: false };

describe.each([
  { client: '1.x SDK, stdio', connect: legacy(() => new LegacyTransport(stdio())), ...STAYS },
  { client: '2.x SDK, 2025 protocol, stdio', connect: modern('legacy', modernStdio), ...STAYS },
  { client: '2.x SDK, 2026-07-28, stdio', connect: modern({ pin: '2026-07-28' }, modernStdio), ...STAYS },
  {
    client: '1.x SDK, Streamable HTTP',
    connect: legacy(() => new LegacyHttp(url('/mcp'), { requestInit: { headers } })),
    ...MAY_CHANGE,
  },
  {
    client: '1.x SDK, HTTP+SSE',
    connect: legacy(() => new LegacySse(url('/sse'), { requestInit: { headers } })),
    ...MAY_CHANGE,
  },
  { client: '2.x SDK, 2025 protocol, HTTP', connect: modern('legacy', modernHttp), ...MAY_CHANGE },
  { client: '2.x SDK, 2026-07-28, HTTP', connect: modern({ pin: '2026-07-28' }, modernHttp), ...MAY_CHANGE },
])('$client', ({ connect, shortHandles }) => {
  let connection: Connection;
  beforeAll(async () => {
    connection = await connect();
  });
  afterAll(() => connection.close());

  test('gets the instructions, short enough for every client', () => {
    const instructions = connection.instructions() ?? '';
    expect(Buffer.byteLength(instructions)).toBeGreaterThan(0);
    expect(Buffer.byteLength(instructions)).toBeLessThanOrEqual(2048);
    for (const { name } of ALL_TOOLS) expect(instructions).toContain(name);
  });

  test('lists every tool with title, annotations and output schema', async () => {
    const tools = await connection.list();
    expect(tools.map(({ name }) => name)).toEqual(ALL_TOOLS.map(({ name }) => name));
    for (const tool of tools) {
      expect(tool.title, tool.name).toBeTruthy();
      const { readOnly } = ALL_TOOLS.find(({ name }) => name === tool.name)!.hints;
      expect(tool.annotations, tool.name).toMatchObject({ readOnlyHint: readOnly, openWorldHint: false });
      expect(tool.outputSchema, tool.name).toMatchObject({ type: 'object' });
    }
  });

  test.each(ALL_TOOLS.map((tool) => ({ name: tool.name, tool })))('calls $name', async ({ tool }) => {
    if (tool === morphismInvertTool) await connection.call(morphismStepTool.name, morphismStepTool.example);
    // The clients check structuredContent against the schema that was listed; this is the declaration's own.
    const result = await connection.call(tool.name, tool.example);
    expect(result.isError ?? false).toBe(false);
    expect(tool.output.safeParse(result.structuredContent).error).toBeUndefined();
    expect(result.content[0]).toMatchObject({ type: 'text', text: tool.summarize(result.structuredContent!) });
    expect(JSON.parse(result.content[1]!.text!)).toEqual(result.structuredContent);
  });

  test('gets a PNG when it asks for one', async () => {
    const { content } = await connection.call('palette', { n: 3, image: true });
    const image = content.find(({ type }) => type === 'image');
    expect(image?.mimeType).toBe('image/png');
    expect(Buffer.from(image!.data!, 'base64').subarray(1, 4).toString()).toBe('PNG');
  });

  test('keeps every bit of a seed', async () => {
    const { structuredContent } = await connection.call('color_at', { index: 0, seed: '18446744073709551615' });
    expect(structuredContent?.seed).toBe('18446744073709551615');
  });

  test('hears progress that only rises, when it asks', async () => {
    const heard: number[] = [];
    // An engine that writes until the client has heard enough: it drops what comes with the result.
    await using engine = await openMockServer();
    engine.answer = async (response) => {
      response.writeHead(200, { 'content-type': 'text/event-stream' });
      while (heard.length < 3 && !response.destroyed) {
        response.write(`data: ${JSON.stringify(piece(' on'))}\n\n`);
        await sleep(20);
      }
      response.end(`data: ${JSON.stringify(finish('stop'))}\n\n${DONE}`);
    };
    const shared = http;
    environment = { BITNET_BACKEND: 'openai', BITNET_OPENAI_BASE_URL: engine.url };
    const server = await startProcess([], { BITNET_TOKEN: TOKEN, ...environment });
    try {
      http = server;
      const writing = await connect();
      const args = { prompt: 'The king', model: 'm', max_tokens: 100_000 };
      await writing.call('generate_with_trace', args, ({ progress }) => heard.push(progress));
      await writing.close();
    } finally {
      http = shared;
      environment = {};
      await server.close();
    }
    expect(heard.length).toBeGreaterThan(1);
    expect(heard).toEqual([...heard].sort((a, b) => a - b));
    expect(new Set(heard).size).toBe(heard.length);
  });

  test('a wrong call is a result that says what to do', async () => {
    const result = await connection.call('color_at', { indx: 1 });
    expect(result.isError).toBe(true);
    expect(result.content[0]?.text).toContain('did you mean index?');
    const unknown = await connection.call('generate_with_trace', { prompt: 'x', model: '/nowhere' });
    expect(unknown.isError).toBe(true);
    expect(unknown.content[0]?.text).toContain('/nowhere');
    expect(unknown.content[0]?.text).not.toContain('    at ');
  });

  test('goes on where a generation ended', async () => {
    const args = { prompt: 'Once upon a time', max_tokens: 6 };
    const first = (await connection.call('generate_with_trace', args)).structuredContent!;
    const second = (await connection.call('generate_with_trace', { continuation: first.continuation, max_tokens: 6 }))
      .structuredContent!;
    const whole = (await connection.call('generate_with_trace', { ...args, max_tokens: 12 })).structuredContent!;
    expect(second.output).toBe(whole.output);
    const colors = (trace: unknown) => (trace as { color: string }[]).map(({ color }) => color);
    expect([...colors(first.trace), ...colors(second.trace)]).toEqual(colors(whole.trace));
    expect(String(first.continuation).length < 20).toBe(shortHandles);
  });
});
