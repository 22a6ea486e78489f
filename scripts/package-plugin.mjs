// The Claude Code plugin's bundled program, plugin/server. Claude Code installs a plugin by copying this repository, and
// builds nothing, so the bundle is committed; a test builds it again and compares.
//   npm run package:plugin
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { bundleProgram, ROOT, sizeText } from './package-bundle.mjs';

export const PLUGIN_SERVER = join(ROOT, 'plugin', 'server');

/** From plugin/server to the repository's root, which is the plugin's. */
export const UP = '../../';

/** Files that carry the version, each with the places that hold it. */
const VERSIONED = {
  '.claude-plugin/plugin.json': (json, version) => Object.assign(json, { version }),
  'server.json': (json, version) => {
    for (const part of json.packages) part.version = version;
    return Object.assign(json, { version });
  },
};

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { version } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8'));
  for (const [file, update] of Object.entries(VERSIONED)) {
    const text = readFileSync(join(ROOT, file), 'utf8');
    if (JSON.parse(text).version === version) continue;
    writeFileSync(join(ROOT, file), `${JSON.stringify(update(JSON.parse(text), version), null, 2)}\n`);
  }
  const files = await bundleProgram({ outdir: PLUGIN_SERVER, up: UP });
  for (const [name, text] of files)
    process.stderr.write(`plugin/server/${name}: ${sizeText(Buffer.byteLength(text))}\n`);
}
