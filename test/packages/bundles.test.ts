// The plugin for Claude Code and the bundle for Claude Desktop: what is committed is what the sources give, and both
// run where no dependency is installed.

import { cpSync, existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { decode } from 'fast-png';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { bundleProgram } from '../../scripts/package-bundle.mjs';
import { iconPng } from '../../scripts/package-icon.mjs';
import { packMcpb, stageMcpb } from '../../scripts/package-mcpb.mjs';
import { PLUGIN_SERVER, UP } from '../../scripts/package-plugin.mjs';
import { ALL_TOOLS } from '../../src/tools/all-tools.ts';
import { childrenOf, ROOT } from '../mcp/server-process.ts';
import { run, temporaryFolder, useAsServer } from './packed-program.ts';

const readJson = (path: string) => JSON.parse(readFileSync(join(ROOT, path), 'utf8'));
const { name, version, mcpName } = readJson('package.json');

describe('the plugin', () => {
  test('holds the bundle of these sources (npm run package:plugin writes it)', async () => {
    const files = await bundleProgram({ outdir: PLUGIN_SERVER, up: UP, write: false });
    expect(readdirSync(PLUGIN_SERVER).sort()).toEqual([...files.keys()].sort());
    const stale = [...files].filter(([file, text]) => readFileSync(join(PLUGIN_SERVER, file), 'utf8') !== text);
    expect(stale.map(([file]) => file)).toEqual([]);
  });

  test('its manifests agree with the package', () => {
    const plugin = readJson('.claude-plugin/plugin.json');
    const marketplace = readJson('.claude-plugin/marketplace.json');
    expect(plugin.version).toBe(version);
    expect(marketplace.plugins).toMatchObject([{ name: plugin.name, source: './', description: plugin.description }]);
    const { args } = plugin.mcpServers['bitnet-gf3'];
    expect(existsSync(args[0].replace(/^\$\{CLAUDE_PLUGIN_ROOT\}/, ROOT))).toBe(true);
    expect(existsSync(join(ROOT, plugin.icon))).toBe(true);
  });

  test('its icon is drawn by our script, square and large enough', () => {
    const file = readFileSync(join(ROOT, 'plugin/icon.png'));
    const { width, height, data } = decode(file);
    expect([width, height]).toEqual([512, 512]);
    expect(Buffer.compare(Buffer.from(decode(iconPng()).data), Buffer.from(data))).toBe(0);
  });

  test('runs from a copy that has no dependencies', async () => {
    using folder = temporaryFolder();
    const kept = ['.claude-plugin', 'plugin', 'models', 'skills', 'schemas', 'kernels/wasm', 'package.json'];
    for (const path of kept) cpSync(join(ROOT, path), join(folder.path, path), { recursive: true });
    const program = join(folder.path, 'plugin/server/bitnet-gf3.js');
    const used = await useAsServer(process.execPath, [program], '/');
    expect(used).toEqual({ tools: ALL_TOOLS.map((tool) => tool.name), version });
    const args = ['infer', 'Once', '--max-tokens', '2', '--backend', 'wasm', '--threads', '2'];
    const told = run(process.execPath, [program, ...args], '/');
    expect(told.stderr + told.stdout).toMatch(/wasm .*2 threads/);
    expect(told.status).toBe(0);
    expect(run(process.execPath, [program, 'nonsense'], '/').status).toBe(2);
  });
});

describe('the bundle for Claude Desktop', () => {
  const folder = temporaryFolder();
  const file = join(folder.path, 'bitnet-gf3.mcpb');
  const installed = join(folder.path, 'installed');
  beforeAll(async () => {
    packMcpb(await stageMcpb(join(folder.path, 'stage')), file);
    const mcpb = join(ROOT, 'node_modules/@anthropic-ai/mcpb/dist/cli/cli.js');
    const unpacked = run(process.execPath, [mcpb, 'unpack', file, installed], folder.path);
    expect(unpacked.status, unpacked.stderr).toBe(0);
  }, 120_000);
  afterAll(() => folder[Symbol.dispose]());

  test('is small, and holds no training data, sources or native code', () => {
    expect(statSync(file).size).toBeLessThan(12e6);
    const paths = readdirSync(installed, { recursive: true, encoding: 'utf8' });
    expect(paths.filter((path) => /(^|\/)(src|test|node_modules|master)(\/|$)|\.(node|cc|h|ts)$/.test(path))).toEqual(
      [],
    );
  });

  test('its manifest names the tools that the server has', () => {
    const manifest = JSON.parse(readFileSync(join(installed, 'manifest.json'), 'utf8'));
    expect(manifest).toMatchObject({ manifest_version: '0.3', name, version, server: { type: 'node' } });
    expect(manifest.tools.map((tool: { name: string }) => tool.name)).toEqual(ALL_TOOLS.map((tool) => tool.name));
    expect(existsSync(join(installed, manifest.server.entry_point))).toBe(true);
    expect(existsSync(join(installed, manifest.icon))).toBe(true);
  });

  test('runs as Claude Desktop starts it', async () => {
    const { server } = JSON.parse(readFileSync(join(installed, 'manifest.json'), 'utf8'));
    const args = server.mcp_config.args.map((arg: string) => arg.replace(/^\$\{__dirname\}/, installed));
    const used = await useAsServer(process.execPath, args, '/');
    expect(used).toEqual({ tools: ALL_TOOLS.map((tool) => tool.name), version });
  });

  // Electron's executable need not start as Node: there the model runs in a thread, with WebAssembly.
  test.skipIf(process.platform !== 'linux')('runs without child processes where none can be had', async () => {
    const program = join(installed, 'server/bitnet-gf3.js');
    const children: number[][] = [];
    const used = await useAsServer(process.execPath, [program], '/', { BITNET_CHILD: 'thread' }, (pid) =>
      children.push(childrenOf(pid)),
    );
    expect(used).toEqual({ tools: ALL_TOOLS.map((tool) => tool.name), version });
    expect(children).toEqual([[]]);
    // The same program with processes, to know that the look above sees them.
    await useAsServer(process.execPath, [program], '/', {}, (pid) => children.push(childrenOf(pid)));
    expect(children[1]!.length).toBe(1);
  });
});

test('server.json says what the MCP registry wants', () => {
  const server = readJson('server.json');
  expect(server.$schema).toBe('https://static.modelcontextprotocol.io/schemas/2025-12-11/server.schema.json');
  expect(server.name).toBe(mcpName);
  expect(server.name).toMatch(/^[a-zA-Z0-9.-]+\/[a-zA-Z0-9._-]+$/);
  expect(server.description.length).toBeLessThanOrEqual(100);
  expect(server.title.length).toBeLessThanOrEqual(100);
  expect(server.version).toBe(version);
  expect(server.packages).toMatchObject([
    { registryType: 'npm', identifier: name, version, transport: { type: 'stdio' } },
  ]);
});
