// The plugin for Claude Code and the bundle for Claude Desktop: both run where no dependency is installed, with native
// code where it came prebuilt, and a plugin that is older than it says is found out.

import { existsSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { decode } from 'fast-png';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { bundleProgram } from '../../scripts/package-bundle.mjs';
import { iconPng } from '../../scripts/package-icon.mjs';
import { packMcpb, stageMcpb } from '../../scripts/package-mcpb.mjs';
import { stagePlugin, UP, whyStale } from '../../scripts/package-plugin.mjs';
import { whyNotCurrent } from '../../scripts/prebuild.mjs';
import { CUBINS, findCubin, kernelSources } from '../../src/engine/cuda/kernels.ts';
import { targetName } from '../../src/native/machine.ts';
import { ALL_TOOLS } from '../../src/tools/all-tools.ts';
import { childrenOf, ROOT } from '../mcp/server-process.ts';
import { run, temporaryFolder, useAsServer } from './packed-program.ts';

const readJson = (path: string) => JSON.parse(readFileSync(join(ROOT, path), 'utf8'));
const { name, version, mcpName } = readJson('package.json');
/** The workflow and .ci/run build them first (npm run prebuilds). */
const whyNoPrebuilt = whyNotCurrent(targetName());
const whyNoCubins = whyNotCurrent('cuda');

/** CUDA where no compiler is: the text for the driver, and machine code if it was made here. */
function expectCudaKernels(root: string): void {
  expect(readFileSync(join(root, 'kernels/cuda/kernels.ptx'), 'latin1').slice(-2)).toBe('\n\0');
  expect(kernelSources(root)).toBeUndefined();
  for (const capability of whyNoCubins === undefined ? CUBINS : []) {
    expect(findCubin(capability, root)).toHaveProperty('bytes');
  }
}

describe('the plugin', () => {
  const folder = temporaryFolder();
  const plugin = join(folder.path, 'plugin');
  beforeAll(async () => {
    await stagePlugin(plugin);
  }, 120_000);
  afterAll(() => folder[Symbol.dispose]());

  const change = (path: string, from: string | RegExp, to: string) => {
    const before = readFileSync(join(plugin, path), 'utf8');
    writeFileSync(join(plugin, path), before.replace(from, to));
    return () => writeFileSync(join(plugin, path), before);
  };

  test('made twice it has the same bytes, and is of these sources', async () => {
    const server = join(plugin, 'plugin', 'server');
    const files = await bundleProgram({ outdir: server, up: UP, write: false });
    expect(readdirSync(server).sort()).toEqual([...files.keys()].sort());
    for (const [file, text] of files) expect(readFileSync(join(server, file), 'utf8') === text, file).toBe(true);
    expect(await whyStale(plugin)).toBeUndefined();
  });

  test('one that is older than the version it claims is told', async () => {
    const undo = change('plugin/server/bitnet-gf3.js', /$/, '\n');
    expect(await whyStale(plugin)).toBe(
      `the plugin is older than the version ${version} that it claims: bitnet-gf3.js`,
    );
    undo();
    const undoVersion = change('.claude-plugin/plugin.json', `"${version}"`, '"0.0.1"');
    expect(await whyStale(plugin)).toBe(`the plugin is of version 0.0.1, the package of ${version}`);
    undoVersion();
    rmSync(join(plugin, 'plugin/server/world-process.js'));
    expect(await whyStale(plugin)).toContain('that it claims: world-process.js');
    await stagePlugin(plugin);
    expect(await whyStale(join(folder.path, 'none'))).toContain('holds no plugin');
  });

  test('its manifests agree with the package, there and in the package from npm', () => {
    const published = readJson('.claude-plugin/plugin.json');
    expect(published.version).toBe(version);
    const marketplace = readJson('.claude-plugin/marketplace.json');
    const { name: id, description } = published;
    const source = { source: 'npm', package: name, version };
    expect(marketplace.plugins).toMatchObject([{ name: id, source, description }]);
    const staged = JSON.parse(readFileSync(join(plugin, '.claude-plugin/plugin.json'), 'utf8'));
    const stagedMarketplace = JSON.parse(readFileSync(join(plugin, '.claude-plugin/marketplace.json'), 'utf8'));
    expect(stagedMarketplace.plugins).toMatchObject([{ name: id, source: './', description }]);
    for (const [manifest, root] of [
      [published, ROOT],
      [staged, plugin],
    ] as const) {
      const { args } = manifest.mcpServers['bitnet-gf3'];
      expect(existsSync(args[0].replace(/^\$\{CLAUDE_PLUGIN_ROOT\}/, root)), args[0]).toBe(true);
      expect(existsSync(join(root, manifest.icon))).toBe(true);
    }
  });

  test('its icon is drawn by our script, square and large enough', () => {
    const file = readFileSync(join(ROOT, 'plugin/icon.png'));
    const { width, height, data } = decode(file);
    expect([width, height]).toEqual([512, 512]);
    expect(Buffer.compare(Buffer.from(decode(iconPng()).data), Buffer.from(data))).toBe(0);
  });

  test('runs where no dependency is installed', async () => {
    const program = join(plugin, 'plugin/server/bitnet-gf3.js');
    const used = await useAsServer(process.execPath, [program], '/');
    expect(used).toEqual({ tools: ALL_TOOLS.map((tool) => tool.name), version });
    const args = ['infer', 'Once', '--max-tokens', '2', '--backend', 'wasm', '--threads', '2'];
    const told = run(process.execPath, [program, ...args], '/');
    expect(told.stderr + told.stdout).toMatch(/wasm .*2 threads/);
    expect(told.status).toBe(0);
    expect(run(process.execPath, [program, 'nonsense'], '/').status).toBe(2);
  });

  test.skipIf(whyNoPrebuilt !== undefined)('runs native code where it came prebuilt', () => {
    const program = join(plugin, 'plugin/server/bitnet-gf3.js');
    const told = run(process.execPath, [program, 'infer', 'Once', '--max-tokens', '2', '--backend', 'cpu'], '/');
    expect(told.stderr).toMatch(/\/s \(cpu /);
  });

  test.runIf(whyNoPrebuilt !== undefined)(`skipped: native code in the plugin (${whyNoPrebuilt})`, () => {
    expect(whyNoPrebuilt).toBeTypeOf('string');
  });

  test('brings the CUDA kernels', () => expectCudaKernels(plugin));

  test.runIf(whyNoCubins !== undefined)(`skipped: their machine code in the plugin (${whyNoCubins})`, () => {
    expect(whyNoCubins).toBeTypeOf('string');
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

  test('is small, and holds no training data, sources or native code but what is prebuilt', () => {
    expect(statSync(file).size).toBeLessThan(16e6);
    const paths = readdirSync(installed, { recursive: true, encoding: 'utf8' });
    expect(paths.filter((path) => /(^|\/)(src|test|node_modules|master)(\/|$)|\.(cc|h|mm|ts)$/.test(path))).toEqual([]);
    expect(paths.filter((path) => path.endsWith('.node') && !path.startsWith('prebuilds/'))).toEqual([]);
  });

  test('brings the CUDA kernels', () => expectCudaKernels(installed));

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
