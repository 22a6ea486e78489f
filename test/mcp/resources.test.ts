// Resources, templates, completions, prompts and skills as both protocol eras see them.

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Client, StreamableHTTPClientTransport } from '@modelcontextprotocol/client';
import { createMcpHandler } from '@modelcontextprotocol/server';
import { decode } from 'fast-png';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { Logger } from '../../src/logger.ts';
import { createMcpServer } from '../../src/mcp/server.ts';
import { ALL_TOOLS } from '../../src/tools/all-tools.ts';
import { callTool } from '../../src/tools/call-tool.ts';
import { EngineServices } from '../../src/tools/engine-services.ts';
import { WorldStore } from '../../src/world/world-store.ts';

const worlds = mkdtempSync(join(tmpdir(), 'bitnet-resources-'));
beforeAll(() => {
  vi.stubEnv('BITNET_WORLDS', worlds);
  // The native kernels would be compiled first, which may take a minute.
  vi.stubEnv('BITNET_BACKEND', 'wasm');
});
afterAll(() => {
  vi.unstubAllEnvs();
  rmSync(worlds, { recursive: true, force: true });
});

const services = new EngineServices();
const handler = createMcpHandler(() => createMcpServer({ services, logger: new Logger() }));
afterAll(() => services.close());

async function connect(mode: 'legacy' | 'auto'): Promise<Client> {
  const client = new Client({ name: 'test', version: '0' }, { versionNegotiation: { mode } });
  const fetch = (url: URL | string, init?: RequestInit) => handler.fetch(new Request(url, init));
  await client.connect(new StreamableHTTPClientTransport(new URL('http://localhost/mcp'), { fetch }));
  return client;
}

/** Calls that a prompt asks for: "N. tool with {json} - it shows ..." or "Call tool with {json}. ...". */
function callsOf(text: string): { tool: string; args: Record<string, unknown> }[] {
  return [...text.matchAll(/(?:^\d+\.|Call) (\w+) with (\{.*?\})(?: - |\. Then)/gm)].map(([, tool, args]) => {
    return { tool: tool!, args: JSON.parse(args!) };
  });
}

describe.each([
  { era: '2025-11-25', mode: 'legacy' },
  { era: '2026-07-28', mode: 'auto' },
] as const)('$era', ({ era, mode }) => {
  let client: Client;
  beforeAll(async () => {
    client = await connect(mode);
    expect(client.getNegotiatedProtocolVersion()).toBe(era);
  });
  afterAll(() => client.close());

  const text = async (uri: string) => {
    const { contents } = await client.readResource({ uri });
    return (contents[0] as { text: string }).text;
  };

  test('lists every resource, and each can be read', async () => {
    const { resources } = await client.listResources();
    const uris = resources.map(({ uri }) => uri);
    for (const uri of [
      'bitnet-gf3://models',
      'bitnet-gf3://models/default',
      'bitnet-gf3://triads',
      'bitnet-gf3://worlds',
      'bitnet-gf3://schemas/color_at.json',
      'ui://bitnet-gf3/view.html',
      'skill://mlx-bitnet-gf3/SKILL.md',
      'skill://gay-mcp/SKILL.md',
      'skill://geb/SKILL.md',
    ]) {
      expect(uris).toContain(uri);
    }
    expect(new Set(uris).size).toBe(uris.length);
    for (const { uri, mimeType, name } of resources) {
      expect(name).toBeTruthy();
      const { contents } = await client.readResource({ uri });
      expect(contents.length, uri).toBeGreaterThan(0);
      if (mimeType !== undefined) expect(contents[0]!.mimeType, uri).toBe(mimeType);
    }
  });

  test('lists the templates', async () => {
    const { resourceTemplates } = await client.listResourceTemplates();
    expect(resourceTemplates.map(({ uriTemplate }) => uriTemplate).sort()).toEqual([
      'bitnet-gf3://models/{model}',
      'bitnet-gf3://models/{model}/trits/{layer}/{row}/{column}',
      'bitnet-gf3://schemas/{file}',
      'bitnet-gf3://traces/{scheme}/{seed}/{tokens}.png',
      'bitnet-gf3://worlds/{world}',
      'skill://{+path}',
    ]);
  });

  test('completes what it can', async () => {
    const complete = async (uri: string, name: string, value: string) => {
      const ref = { type: 'ref/resource' as const, uri };
      return (await client.complete({ ref, argument: { name, value } })).completion.values;
    };
    expect(await complete('bitnet-gf3://models/{model}', 'model', 'def')).toEqual(['default']);
    expect(await complete('bitnet-gf3://schemas/{file}', 'file', 'col')).toEqual(['color_at.json']);
    expect(await complete('bitnet-gf3://traces/{scheme}/{seed}/{tokens}.png', 'scheme', 'gay')).toEqual([
      'gay-mcp',
      'gay.jl',
    ]);
    const ref = { type: 'ref/prompt' as const, name: 'tour' };
    const { completion } = await client.complete({ ref, argument: { name: 'seed', value: '10' } });
    expect(completion.values).toEqual(['1069']);
  });

  test('models: names, no paths', async () => {
    const models = JSON.parse(await text('bitnet-gf3://models')) as Record<string, unknown>[];
    expect(models[0]).toEqual({ name: 'default', kind: 'folder', source: 'embedded' });
    const { contents } = await client.readResource({ uri: 'bitnet-gf3://models/default' });
    expect(contents.map(({ mimeType }) => mimeType)).toEqual(['application/json', 'text/markdown']);
    expect(JSON.parse((contents[0] as { text: string }).text).model_type).toBeTruthy();
  });

  test('triads: each with its balance', async () => {
    const { skills, sets } = JSON.parse(await text('bitnet-gf3://triads')) as {
      skills: { name: string }[];
      sets: Record<string, unknown>[];
    };
    expect(skills.map(({ name }) => name)).toContain('forward-forward-learning');
    expect(sets[0]).toMatchObject({ kind: 'triad', sum: 0, residue: 0, conserved: true, completing_trit: 0 });
    expect(sets[1]).toMatchObject({ kind: 'open triad', conserved: false, completing_trit: 1 });
  });

  test('worlds: the records, without paths', async () => {
    const store = await WorldStore.open(worlds);
    const base = { id: 'b'.repeat(64), model: 'default', folder: '/secret/place' };
    const root = {
      format: 1,
      id: '1'.repeat(64),
      parent: null,
      base,
      stepCount: 0,
      created: '2026-01-01T00:00:00Z',
    } as const;
    await store.add(root);
    await store.add({
      ...root,
      id: '2'.repeat(64),
      parent: root.id,
      stepCount: 1,
      morphism: { text: ['a b'], lr: 0.1, optimizer: 'sgd', steps: 1, conserve: false },
      report: { lossBefore: 2, lossAfter: 1, flips: 3, tritDeltaSum: 0 },
      created: '2026-01-02T00:00:00Z',
    });
    const all = await text('bitnet-gf3://worlds');
    expect(all).not.toContain('/secret/place');
    expect(JSON.parse(all)).toMatchObject([{ world: root.id, parent: null, step_count: 0 }, { parent: root.id }]);
    for (const name of ['latest', '222222', '2'.repeat(64)]) {
      expect(JSON.parse(await text(`bitnet-gf3://worlds/${name}`))).toMatchObject({
        step_count: 1,
        loss_after: 1,
        flips: 3,
      });
    }
    await expect(text('bitnet-gf3://worlds/..%2F..%2Fetc')).rejects.toThrow('is not a world id');
    const ref = { type: 'ref/resource' as const, uri: 'bitnet-gf3://worlds/{world}' };
    const { completion } = await client.complete({ ref, argument: { name: 'world', value: '1' } });
    expect(completion.values).toEqual([root.id]);
    expect((await client.listResources()).resources.map(({ uri }) => uri)).toContain(`bitnet-gf3://worlds/${root.id}`);
  });

  test('weights: the window is the layer', async () => {
    const layer = 'model.layers.0.self_attn.k_proj.weight';
    const read = (row: number, column: number) =>
      text(`bitnet-gf3://models/default/trits/${encodeURIComponent(layer)}/${row}/${column}`);
    const tool = ALL_TOOLS.find(({ name }) => name === 'analyze_layer')!;
    const { structured } = await callTool(tool, { layer }, { services });
    const [{ shape, counts }] = structured.layers as [{ shape: [number, number]; counts: Record<string, number> }];
    const [rows, columns] = shape;
    let symbols = '';
    for (let row = 0; row < rows; row += 128) {
      for (let column = 0; column < columns; column += 128) {
        const lines = (await read(row, column)).split('\n');
        expect(lines.length).toBe(Math.min(128, rows - row));
        for (const line of lines) expect(line.length).toBe(Math.min(128, columns - column));
        symbols += lines.join('');
      }
    }
    const count = (symbol: string) => symbols.split(symbol).length - 1;
    expect({ minus: count('-'), ergodic: count('o'), plus: count('+') }).toEqual(counts);
    // A window that begins elsewhere shows the same weights.
    expect((await read(3, 5)).split('\n')[0]!.slice(0, 100)).toBe((await read(0, 0)).split('\n')[3]!.slice(5, 105));
    await expect(read(rows, 0)).rejects.toThrow(`row must be an integer from 0 to ${rows - 1}`);
    await expect(text('bitnet-gf3://models/default/trits/no.such/0/0')).rejects.toThrow('no ternary layer matches');
  });

  test('a trace as a picture', async () => {
    const { contents } = await client.readResource({ uri: 'bitnet-gf3://traces/trace/1069/12.png' });
    expect(contents[0]!.mimeType).toBe('image/png');
    const { width, height } = decode(Buffer.from((contents[0] as { blob: string }).blob, 'base64'));
    expect(Math.min(width, height)).toBeGreaterThan(100);
  });

  test.each([
    ['bitnet-gf3://traces/trace/1069/5000.png', 'tokens must be from 1 to 4096'],
    ['bitnet-gf3://traces/trace/x/5.png', 'seed must'],
    ['bitnet-gf3://traces/rainbow/1/5.png', 'use one of trace, gay-mcp, gay.jl'],
    ['bitnet-gf3://schemas/none.json', 'schemas: '],
    ['bitnet-gf3://models/no%2Fsuch', 'no/such'],
    ['bitnet-gf3://models/%E0%A4%A', 'not encoded right'],
    ['bitnet-gf3://nothing', 'not found'],
    ['skill://geb/../../package.json', 'not found'],
  ])('%s is refused and says why', async (uri, message) => {
    await expect(client.readResource({ uri })).rejects.toThrow(message);
  });

  test('a folder outside the allowed roots is not read', async () => {
    const closed = new EngineServices({ allowedRoots: [] });
    const server = createMcpHandler(() => createMcpServer({ services: closed, logger: new Logger() }));
    const other = new Client({ name: 'test', version: '0' }, { versionNegotiation: { mode } });
    const fetch = (url: URL | string, init?: RequestInit) => server.fetch(new Request(url, init));
    await other.connect(new StreamableHTTPClientTransport(new URL('http://localhost/mcp'), { fetch }));
    const uri = `bitnet-gf3://models/${encodeURIComponent(process.cwd())}`;
    await expect(other.readResource({ uri })).rejects.toThrow('outside the folders that may be read');
    await other.close();
  });

  test('prompts: every call that they ask for works', async () => {
    const { prompts } = await client.listPrompts();
    expect(prompts.map(({ name }) => name)).toEqual(['tour', 'explain_trace']);
    const asked: string[] = [];
    for (const [name, args] of [
      ['tour', {}],
      ['tour', { beginning: 'The "cat"', seed: '7' }],
      ['explain_trace', { beginning: 'A dog', max_tokens: '5' }],
    ] as const) {
      const { messages } = await client.getPrompt({ name, arguments: args });
      expect(messages.length).toBe(1);
      const { content } = messages[0]!;
      const calls = callsOf(content.type === 'text' ? content.text : '');
      expect(calls.length).toBeGreaterThan(0);
      for (const { tool, args } of calls) {
        asked.push(tool);
        const declared = ALL_TOOLS.find((candidate) => candidate.name === tool);
        expect(declared, tool).toBeDefined();
        expect(declared!.input.safeParse(args).error, tool).toBeUndefined();
        // The texts are the same in both eras; running them once tells all. Training and the way back have tests of
        // their own.
        const runs = mode === 'auto' && !tool.startsWith('morphism');
        if (runs) await callTool(declared!, args, { services });
      }
    }
    for (const { name } of ALL_TOOLS) expect(asked).toContain(name);
    await expect(
      client.getPrompt({ name: 'explain_trace', arguments: { beginning: 'x', max_tokens: 'many' } }),
    ).rejects.toThrow('max_tokens');
  });

  test('tools with a view say where it is; the page is a valid MCP App resource', async () => {
    const { tools } = await client.listTools();
    const withView = tools.filter(({ _meta }) => _meta?.ui !== undefined).map(({ name }) => name);
    expect(withView).toEqual(['generate_with_trace', 'analyze_layer', 'palette', 'morphism_step']);
    const { contents } = await client.readResource({ uri: 'ui://bitnet-gf3/view.html' });
    expect(contents[0]).toMatchObject({ mimeType: 'text/html;profile=mcp-app', _meta: { ui: { csp: {} } } });
    expect((contents[0] as { text: string }).text).toMatch(/^<!doctype html>/);
  });

  test('declares what it has', () => {
    const capabilities = client.getServerCapabilities();
    const fixed = { listChanged: false };
    expect(capabilities).toMatchObject({ tools: fixed, resources: fixed, prompts: fixed, completions: {} });
    expect(Object.keys(capabilities?.extensions ?? {}).sort()).toEqual([
      'io.modelcontextprotocol/skills',
      'io.modelcontextprotocol/ui',
    ]);
  });
});
