// Makes the program start sooner: the command line and the child processes are put together with all that they import,
// in parts that load one another (dist/bundle), and their files in dist/ only start the first. Node then opens twenty
// files instead of four hundred, and bundle-start.cjs keeps what V8 compiled, so that a later start compiles nothing.
// The library's files in dist/ stay as they are, and without this step everything works the same, later.
//   node scripts/bundle-dist.mjs    after tsc -p tsconfig.build.json
import { createHash } from 'node:crypto';
import { mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { basename, join, relative, sep } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { build, transform } from 'esbuild';
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
      if (path === join(dist, 'cli', 'compile-cache.js'))
        return { contents: 'export function enableCompileCache() {}' };
      const text = readFileSync(path, 'utf8');
      if (!text.includes('import.meta')) return undefined;
      const place = JSON.stringify(`../${posix(relative(dist, path))}`);
      const contents = text
        // As late as it was; see `latePlugin`.
        .replace(/createRequire\(import\.meta\.url\)\(('[^']+')\)/g, 'require($1)')
        .replace(/\bfileURLToPath\(import\.meta\.url\)/g, '__place')
        .replace(/\bimport\.meta\.dirname\b/g, "__join(__place, '..')")
        .replace(/\bimport\.meta\.url\b/g, '__toUrl(__place).href')
        .replace(
          /^(#!.*\n)?/,
          `$1import { join as __join } from 'node:path'; import { pathToFileURL as __toUrl } from 'node:url'; const __place = __join(__dirname, ${place});`,
        );
      return { contents, loader: 'js' };
    });
  },
};

/** CommonJS packages that are required late: as parts of their own, so that nobody reads them before. Package to file. */
const late = new Map();
const latePlugin = {
  name: 'late',
  setup({ onResolve }) {
    onResolve({ filter: /^[@\w]/ }, ({ path, kind, importer }) => {
      if (kind !== 'require-call' || !importer.startsWith(dist + sep) || path.startsWith('node:')) return undefined;
      late.set(path, `${path.replace(/\W+/g, '-').replace(/^-/, '')}.cjs`);
      return { path: `./${late.get(path)}`, external: true };
    });
  },
};

const written = new Map(entries.map((file) => [file, readFileSync(join(dist, file), 'utf8')]));
const pointing = entries.filter((file) => written.get(file).includes(MARK));
if (pointing.length > 0) {
  process.stderr.write(`${pointing.join(', ')} is bundled already; compile first (tsc -p tsconfig.build.json)\n`);
  process.exit(1);
}

/** Without a "type" Node takes main.js for CommonJS, which starts 5 ms sooner, and still knows a module of tsc's. */
const typeless = join(dist, 'cli', 'package.json');
rmSync(typeless, { force: true });

const common = {
  platform: 'node',
  target: 'node20.19',
  // Real names stay, for stack traces.
  minifySyntax: true,
  minifyWhitespace: true,
  // V8 reads ASCII twice as fast, and bundle-start.cjs counts on it.
  charset: 'ascii',
  legalComments: 'none',
  logLevel: 'warning',
};

const { metafile, outputFiles } = await build({
  ...common,
  absWorkingDir: root,
  entryPoints: entries.map((file) => join(dist, file)),
  entryNames: '[name]',
  chunkNames: 'part-[hash]',
  outExtension: { '.js': '.cjs' },
  outdir: bundle,
  bundle: true,
  // What a command loads late stays in parts of its own. Only ES modules can be split; see `partOf`.
  splitting: true,
  format: 'esm',
  write: false,
  metafile: true,
  // Optional, large and native: who has it installed can use it.
  external: ['onnxruntime-node'],
  plugins: [placePlugin, latePlugin, englishPlugin],
});

/** Names that bundle-start.cjs gives to every part. */
const PARAMETERS = 'exports, require, module, __dirname, __later, __import, __lazy';

/** Modules of Node that take 1 to 4 ms to load: many parts name them, one run calls few of them. */
const SLOW_MODULES = 'child_process|crypto|fs\\/promises|http|net|stream|v8|worker_threads|zlib';

/** An ES module's text as that of a function: V8 keeps the code of a script, and Node 20 that of no module. */
async function partOf({ path, text }) {
  const { imports } = metafile.outputs[posix(relative(root, path))];
  let late = 0;
  const own = text.replace(/\bimport\("(\.\/[\w-]+\.cjs)"\)/g, (_, part) => {
    late += 1;
    return `__later(${JSON.stringify(part)})`;
  });
  if (late !== imports.filter(({ kind, external }) => kind === 'dynamic-import' && !external).length) {
    throw new Error(`${basename(path)}: import() of a part is written in a way that bundle-dist.mjs does not know`);
  }
  // By a computed path, or of what is not in the bundle.
  const all = own.replace(/\bimport\((?=[^"'`)]|"onnxruntime-node"\))/g, '__import(');
  const { code } = await transform(all, { ...common, format: 'cjs' });
  const lazy = code
    // A default import: a copy of all names would touch those that Node warns about.
    .replace(/__toESM\d*\(require\(("node:\w+")\)\)/g, '__lazy($1)')
    .replace(new RegExp(`\\b(import_\\w+=)require\\(("node:(?:${SLOW_MODULES})")\\)`, 'g'), '$1__lazy($2)');
  return functionOf(
    lazy
      // What CommonJS modules of others would need: a copy that says __esModule, and a list of names for Node.
      .replace(/\bmodule\.exports=__toCommonJS\((\w+)\);/, 'module.exports=$1;')
      .replace(/\b0&&\(module\.exports=\{[^}]*\}\);\s*$/, ''),
  );
}

function functionOf(code) {
  // esbuild leaves the characters of a regular expression as they are.
  const ascii = code.replace(/[^\0-\x7f]/g, (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`);
  return `function(${PARAMETERS}){${ascii.replace(/^#!.*\n/, '')}}`;
}

/** The part that begins with a module of dist/. */
const partWith = (file) =>
  Object.keys(metafile.outputs).find((path) => metafile.outputs[path].entryPoint === `dist/${file}`);

/** A part with all that it imports at its start. */
function closure(path, found = new Set()) {
  if (found.has(path)) return found;
  found.add(path);
  for (const { path: next, kind, external } of metafile.outputs[path].imports) {
    if (kind === 'import-statement' && !external) closure(next, found);
  }
  return found;
}

/**
 * Parts that one start needs lie in one file: each file costs a tenth of a millisecond. What is in none of these lies
 * alone.
 */
const FILES = {
  // The embedded model's first token.
  'infer.cjs': [
    'cli/main.js',
    'cli/parse-flags.js',
    'cli/infer.js',
    'generate/generate.js',
    'engine/cpu/backend.js',
    'generate/engine-process.js',
  ],
  // An MCP server's first answer.
  'serve.cjs': ['cli/serve.js', 'mcp/stdio.js'],
};

/** File to the parts in it, by their paths in esbuild's output. */
const inFile = new Map();
/** What stands for a part in the others' texts: where it lies, and its name there. */
const idOf = new Map();
const place = (file, paths) => {
  const own = paths.filter((path) => !idOf.has(basename(path)));
  inFile.set(file, own);
  for (const path of own) idOf.set(basename(path), `./${file}${own.length === 1 ? '' : `#${basename(path, '.cjs')}`}`);
};
for (const [file, modules] of Object.entries(FILES)) {
  const paths = modules.map((module) => {
    const path = partWith(module);
    if (path === undefined) throw new Error(`esbuild made no part of ${module}`);
    return path;
  });
  place(file, [...new Set(paths.flatMap((path) => [...closure(path)]))]);
}
for (const path of Object.keys(metafile.outputs)) if (!idOf.has(basename(path))) place(basename(path), [path]);

const texts = new Map();
for (const file of outputFiles) {
  const text = await partOf(file);
  const withIds = text.replace(/"\.\/([\w-]+\.cjs)"/g, (as, part) =>
    idOf.has(part) ? JSON.stringify(idOf.get(part)) : as,
  );
  texts.set(basename(file.path), withIds);
}

const files = new Map();
const inputs = Object.keys(metafile.inputs);
for (const [name, file] of late) {
  const { outputFiles: made, metafile: own } = await build({
    ...common,
    stdin: { contents: `module.exports = require(${JSON.stringify(name)});`, resolveDir: root },
    bundle: true,
    format: 'cjs',
    write: false,
    metafile: true,
  });
  inputs.push(...Object.keys(own.inputs).filter((path) => path !== '<stdin>'));
  files.set(file, `({"./${file}":${functionOf(made[0].text)}\n})`);
}
for (const [file, paths] of inFile) {
  const entries = paths.map((path) => `${JSON.stringify(idOf.get(basename(path)))}:${texts.get(basename(path))}`);
  files.set(file, `({${entries.join(',\n')}\n})`);
}
files.set('THIRD-PARTY-LICENSES.txt', licenses(inputs));

const start = readFileSync(new URL('bundle-start.cjs', import.meta.url), 'utf8');
const hash = createHash('sha256').update(start);
for (const name of [...files.keys()].sort()) hash.update(`${name}\0${files.get(name)}\0`);
const { code: startCode } = await transform(start.replace('@BUILD@', hash.digest('hex').slice(0, 16)), common);
files.set('start.cjs', startCode);

mkdirSync(bundle, { recursive: true });
for (const [name, text] of files) writeFileSync(join(bundle, name), text);
rmSync(join(bundle, 'code'), { recursive: true, force: true });
// A server that runs while this does may still load parts of the bundle that it was started with.
const old = Date.now() - 10 * 60_000;
for (const file of readdirSync(bundle)) {
  if (!files.has(file) && statSync(join(bundle, file)).mtimeMs < old) rmSync(join(bundle, file), { recursive: true });
}

const { COMMANDS } = await import(pathToFileURL(join(dist, 'cli', 'commands.js')).href);
const commands = JSON.stringify(COMMANDS.map(({ name }) => name));
for (const file of entries) {
  const name = basename(file, '.js');
  const id = idOf.get(`${name}.cjs`);
  if (id === undefined) throw new Error(`esbuild wrote no ${name}`);
  const shebang = /^#!.*\n/.exec(written.get(file))?.[0] ?? '';
  const head = `${shebang}${MARK}; the code is in bundle/${/[\w-]+\.cjs/.exec(id)[0]}.\n`;
  const text =
    file === 'cli/main.js'
      ? `require('../bundle/start.cjs')('${id}', '${name}', ${commands});\n`
      : `import { createRequire } from 'node:module';\ncreateRequire(import.meta.url)('../bundle/start.cjs')('${id}', '${name}');\n`;
  writeFileSync(join(dist, file), head + text);
}
writeFileSync(typeless, '{}\n');
