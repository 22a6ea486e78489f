// Makes the program start sooner: the command line and the child processes are put together with all that they import,
// in few files (dist/bundle), and their files in dist/ only point there. An MCP server then answers `initialize` in
// half the time, since Node opens a dozen files instead of four hundred. The library's files in dist/ stay as they are,
// and without this step everything works the same, later.
//   node scripts/bundle-dist.mjs    after tsc -p tsconfig.build.json
import { existsSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join, relative, sep } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';
import { englishPlugin, licenses } from './package-bundle.mjs';

const root = fileURLToPath(new URL('..', import.meta.url));
const dist = join(root, 'dist');
const bundle = join(dist, 'bundle');

const posix = (path) => path.split(sep).join('/');

/** The files that Node is started with. */
const entries = [
  'cli/main.js',
  ...readdirSync(dist, { recursive: true, encoding: 'utf8' })
    .filter((file) => file.endsWith('-process.js') && !file.startsWith('bundle'))
    .map(posix),
].sort();

/** What stands in an entry's file afterwards; also how a second run knows that there is nothing to bundle. */
const MARK = '// Written by scripts/bundle-dist.mjs';

/** Files of the package are found from a module's own place; in the bundle each is told where it lies in dist/. */
const placePlugin = {
  name: 'place',
  setup({ onLoad }) {
    onLoad({ filter: /\.js$/ }, ({ path }) => {
      if (!path.startsWith(dist + sep)) return undefined;
      const text = readFileSync(path, 'utf8');
      if (!text.includes('import.meta')) return undefined;
      const place = `new URL(${JSON.stringify(`../${posix(relative(dist, path))}`)}, import.meta.url)`;
      const contents = text
        .replace(/\bimport\.meta\.dirname\b/g, '__placeFolder')
        .replace(/\bimport\.meta\.url\b/g, '__place')
        .replace(
          /^(#!.*\n)?/,
          `$1import { fileURLToPath as __toPath } from 'node:url'; const __place = ${place}.href, __placeFolder = __toPath(new URL('.', __place));`,
        );
      return { contents, loader: 'js' };
    });
  },
};

const texts = new Map(entries.map((file) => [file, readFileSync(join(dist, file), 'utf8')]));
const pointing = entries.filter((file) => texts.get(file).includes(MARK));
if (pointing.length > 0) {
  process.stderr.write(`${pointing.join(', ')} is bundled already; compile first (tsc -p tsconfig.build.json)\n`);
  process.exit(1);
}

const { metafile } = await build({
  absWorkingDir: root,
  entryPoints: entries.map((file) => join(dist, file)),
  entryNames: '[name]',
  chunkNames: 'chunk-[hash]',
  outdir: bundle,
  bundle: true,
  // What a command loads late stays in files of its own.
  splitting: true,
  write: true,
  metafile: true,
  platform: 'node',
  format: 'esm',
  target: 'node20.19',
  // Real names stay, for stack traces.
  minifySyntax: true,
  minifyWhitespace: true,
  charset: 'utf8',
  legalComments: 'none',
  logLevel: 'warning',
  // Optional, large and native: who has it installed can use it.
  external: ['onnxruntime-node'],
  plugins: [placePlugin, englishPlugin],
  banner: {
    // CommonJS packages inside ask for Node's own modules by `require`.
    js: "import { createRequire as __createRequire } from 'node:module'; const require = __createRequire(import.meta.url);",
  },
});

const written = new Set(Object.keys(metafile.outputs).map((path) => path.slice(path.lastIndexOf('/') + 1)));
// A server that runs while this does may still load parts of the bundle that it was started with.
const old = Date.now() - 10 * 60_000;
for (const file of readdirSync(bundle)) {
  if (!written.has(file) && statSync(join(bundle, file)).mtimeMs < old) rmSync(join(bundle, file));
}
writeFileSync(join(bundle, 'THIRD-PARTY-LICENSES.txt'), licenses(Object.keys(metafile.inputs)));
for (const file of entries) {
  const name = file.slice(file.lastIndexOf('/') + 1);
  if (!existsSync(join(bundle, name))) throw new Error(`esbuild wrote no ${name}`);
  const shebang = /^#!.*\n/.exec(texts.get(file))?.[0] ?? '';
  writeFileSync(join(dist, file), `${shebang}${MARK}; the code is in bundle/${name}.\nimport '../bundle/${name}';\n`);
}
