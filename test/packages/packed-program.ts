// A packed program in a folder of its own, far from this repository's node_modules, used as its users do.

import { type SpawnSyncReturns, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Client } from '@modelcontextprotocol/client';
import { StdioClientTransport } from '@modelcontextprotocol/client/stdio';
import { expect } from 'vitest';

export function temporaryFolder(): { readonly path: string; [Symbol.dispose](): void } {
  const path = mkdtempSync(join(tmpdir(), 'bitnet-package-'));
  return { path, [Symbol.dispose]: () => rmSync(path, { recursive: true, force: true }) };
}

export function run(command: string, args: readonly string[], cwd: string): SpawnSyncReturns<string> {
  return spawnSync(command, args, { cwd, encoding: 'utf8', timeout: 240_000, shell: process.platform === 'win32' });
}

/** The first twelve colors of any trace of seed 1069, scheme trace. */
export const FIRST_COLORS = ['#6404C3', '#EB6AF7', '#7F1747', '#4A4744'];

/** Connects, and does what an agent would: lists, reads a skill, asks for a color and for text. */
export async function useAsServer(
  command: string,
  args: readonly string[],
  cwd: string,
  env: Record<string, string> = {},
  /** Gets the server's process id while its model is loaded. */
  look: (pid: number) => void = () => {},
) {
  const client = new Client({ name: 'package test', version: '0' }, { versionNegotiation: { mode: 'legacy' } });
  const transport = new StdioClientTransport({
    command,
    args: [...args],
    cwd,
    env: { PATH: process.env.PATH ?? '', ...env },
    stderr: 'pipe',
  });
  await client.connect(transport);
  try {
    const tools = (await client.listTools()).tools.map(({ name }) => name);
    const { resources } = await client.listResources();
    expect(resources.map(({ uri }) => uri)).toContain('skill://mlx-bitnet-gf3/SKILL.md');
    expect(resources.map(({ uri }) => uri)).toContain('bitnet-gf3://models/default');
    const color = await client.callTool({ name: 'color_at', arguments: { index: 1 } });
    expect(color.structuredContent).toMatchObject({ hex: FIRST_COLORS[0] });
    const triad = await client.callTool({
      name: 'balance_triad',
      arguments: { skills: ['mlx-bitnet-gf3', 'worlding'] },
    });
    expect(triad.structuredContent).toMatchObject({ conserved: true });
    const written = await client.callTool({
      name: 'generate_with_trace',
      arguments: { prompt: 'Once upon a time', max_tokens: 4 },
    });
    expect(written.isError ?? false, JSON.stringify(written.content)).toBe(false);
    const { trace } = written.structuredContent as { trace: { color: string }[] };
    expect(trace.map(({ color }) => color)).toEqual(FIRST_COLORS);
    look(transport.pid!);
    return { tools, version: client.getServerVersion()?.version };
  } finally {
    await client.close();
  }
}
