// The bundle for Claude Desktop: build/bitnet-gf3.mcpb, one file that a user opens to install. It holds the bundled
// program, the embedded model, the skills, WebAssembly, and the native code that is prebuilt here.
//   npm run package:mcpb
import { spawnSync } from 'node:child_process';
import { cpSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { bundleProgram, copyBesideProgram, ROOT, sizeText } from './package-bundle.mjs';

const STAGE = join(ROOT, 'build', 'mcpb');

/** Tools and prompts come from the declarations, so that Claude Desktop shows before the start what is there. */
export async function mcpbManifest() {
  const { name, version, license, description } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8'));
  const { ALL_TOOLS } = await import(pathToFileURL(join(ROOT, 'dist', 'tools', 'all-tools.js')).href);
  const firstSentence = (text) => text.slice(0, text.indexOf('. ') + 1) || text;
  return {
    manifest_version: '0.3',
    name,
    display_name: 'BitNet GF(3)',
    version,
    description,
    long_description:
      'Runs a small ternary (BitNet b1.58) language model on this computer and reads it through GF(3): each token with ' +
      'its log-probability, color and trit, each layer with its counts of -1, 0 and +1. Nothing leaves the computer.',
    author: { name: 'the bitnet-gf3-mcp authors' },
    license,
    icon: 'icon.png',
    keywords: ['bitnet', 'ternary', 'language-model', 'gf3'],
    server: {
      type: 'node',
      entry_point: 'server/bitnet-gf3.js',
      // biome-ignore lint/suspicious/noTemplateCurlyInString: Claude Desktop fills it in
      mcp_config: { command: 'node', args: ['${__dirname}/server/bitnet-gf3.js'], env: {} },
    },
    tools: ALL_TOOLS.map((tool) => ({ name: tool.name, description: firstSentence(tool.description) })),
    // Prompts have arguments and texts of their own, which the server gives.
    prompts_generated: true,
    compatibility: { platforms: ['darwin', 'win32', 'linux'], runtimes: { node: '>=20.19' } },
  };
}

/** Fills the staging folder and returns its path. */
export async function stageMcpb(folder = STAGE) {
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  await bundleProgram({ outdir: join(folder, 'server'), up: '../' });
  copyBesideProgram(folder);
  cpSync(join(ROOT, 'plugin', 'icon.png'), join(folder, 'icon.png'));
  writeFileSync(join(folder, 'manifest.json'), `${JSON.stringify(await mcpbManifest(), null, 2)}\n`);
  return folder;
}

/** The packer's own command line, as publishers run it. */
function mcpb(...args) {
  const cli = join(ROOT, 'node_modules', '@anthropic-ai', 'mcpb', 'dist', 'cli', 'cli.js');
  const { status, stdout, stderr } = spawnSync(process.execPath, [cli, ...args], { encoding: 'utf8' });
  if (status !== 0) throw new Error(`mcpb ${args[0]} failed:\n${stdout}${stderr}`);
}

/** Validates and packs the staged folder; returns the file. */
export function packMcpb(folder, output) {
  mcpb('validate', join(folder, 'manifest.json'));
  rmSync(output, { force: true });
  mcpb('pack', folder, output);
  return output;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const file = packMcpb(await stageMcpb(), join(ROOT, 'build', 'bitnet-gf3.mcpb'));
  process.stderr.write(`${file}: ${sizeText(statSync(file).size)}\n`);
}
