// A fuzz target as one file that Node can run: with counters to be guided by, or plain with its source map to be read.

import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { build } from 'esbuild';
import { instrument } from './instrument.mjs';

/** What stands beside a source file is found from there, not from the bundle. */
const ownPlaces = {
  name: 'own-places',
  setup: ({ onLoad }) =>
    onLoad({ filter: /\.ts$/ }, ({ path }) => {
      const text = readFileSync(path, 'utf8');
      const place = JSON.stringify(pathToFileURL(path).href);
      return { contents: text.replaceAll('import.meta.url', place), loader: 'ts' };
    }),
};

/**
 * Writes `folder`/plain.mjs and `folder`/counted.mjs from the target's source file. Returns their names, how many counters
 * there are, and the words and numbers of the code.
 */
export async function bundleTarget(source, folder) {
  const options = { entryPoints: [source], bundle: true, format: 'esm', platform: 'node', target: 'node20' };
  options.packages = 'external';
  options.plugins = [ownPlaces];
  options.write = false;
  options.logLevel = 'error';
  mkdirSync(folder, { recursive: true });
  const [plain, bare] = await Promise.all([
    build({ ...options, sourcemap: 'inline', outfile: join(folder, 'plain.mjs') }),
    build(options),
  ]);
  const { code, ...known } = instrument(bare.outputFiles[0].text);
  const files = { plain: join(folder, 'plain.mjs'), counted: join(folder, 'counted.mjs') };
  writeFileSync(files.plain, plain.outputFiles[0].contents);
  writeFileSync(files.counted, code);
  return { ...files, ...known };
}
