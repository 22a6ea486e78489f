// The Claude Code plugin: build/plugin, a folder that is a plugin and the marketplace that has it. Claude Code installs a
// plugin by copying its folder and builds nothing, so all that runs is in it: the bundled program, the embedded model, the
// skills, WebAssembly, and the native code that is prebuilt here. Same sources, same bytes; made for a version and attached
// to it, never committed.
//   npm run package:plugin              writes it
//   npm run package:plugin -- --check   says whether the one that is there is of these sources and this version
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { bundleProgram, copyBesideProgram, ROOT, sizeText } from './package-bundle.mjs';

export const PLUGIN = join(ROOT, 'build', 'plugin');

/** From plugin/server to the plugin's root, which is the package's for the program. */
export const UP = '../../';

const SERVER = ['plugin', 'server'];
const readJson = (...path) => JSON.parse(readFileSync(join(...path), 'utf8'));

/** The manifests of the package from npm, made those of a folder that holds the bundle. */
function manifests() {
  const plugin = readJson(ROOT, '.claude-plugin', 'plugin.json');
  const marketplace = readJson(ROOT, '.claude-plugin', 'marketplace.json');
  const [server] = Object.values(plugin.mcpServers);
  // biome-ignore lint/suspicious/noTemplateCurlyInString: Claude Code fills it in
  server.args = ['${CLAUDE_PLUGIN_ROOT}/plugin/server/bitnet-gf3.js'];
  for (const entry of marketplace.plugins) entry.source = './';
  return new Map([
    ['plugin.json', `${JSON.stringify(plugin, null, 2)}\n`],
    ['marketplace.json', `${JSON.stringify(marketplace, null, 2)}\n`],
  ]);
}

/** Writes the plugin and returns its folder. */
export async function stagePlugin(folder = PLUGIN) {
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(join(folder, '.claude-plugin'), { recursive: true });
  for (const [name, text] of manifests()) writeFileSync(join(folder, '.claude-plugin', name), text);
  await bundleProgram({ outdir: join(folder, ...SERVER), up: UP });
  copyBesideProgram(folder, ['plugin/icon.png', 'schemas', 'README.md']);
  return folder;
}

/** What is wrong with a plugin that was made before, in one sentence: it is older than the version it claims, say. */
export async function whyStale(folder = PLUGIN) {
  if (!existsSync(join(folder, '.claude-plugin', 'plugin.json'))) return `${folder} holds no plugin`;
  const { version } = readJson(ROOT, 'package.json');
  const claimed = readJson(folder, '.claude-plugin', 'plugin.json').version;
  if (claimed !== version) return `the plugin is of version ${claimed}, the package of ${version}`;
  for (const [name, text] of manifests()) {
    if (readFileSync(join(folder, '.claude-plugin', name), 'utf8') !== text)
      return `the plugin's ${name} is an older one`;
  }
  const files = await bundleProgram({ outdir: join(folder, ...SERVER), up: UP, write: false });
  const stale = [...files].filter(([name, text]) => {
    const path = join(folder, ...SERVER, name);
    return !existsSync(path) || readFileSync(path, 'utf8') !== text;
  });
  if (stale.length === 0) return undefined;
  return `the plugin is older than the version ${version} that it claims: ${stale.map(([name]) => name).join(', ')}`;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  if (process.argv.includes('--check')) {
    const why = await whyStale();
    process.stderr.write(`${why ?? 'the plugin is of these sources and this version'}\n`);
    process.exit(why === undefined ? 0 : 1);
  }
  const folder = await stagePlugin();
  for (const name of ['bitnet-gf3.js', 'engine-process.js', 'world-process.js']) {
    process.stderr.write(`${name}: ${sizeText(readFileSync(join(folder, ...SERVER, name)).length)}\n`);
  }
  process.stderr.write(`${folder}: claude plugin marketplace add it\n`);
}
