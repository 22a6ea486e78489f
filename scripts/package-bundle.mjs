// The program without node_modules: one file for the server and command line, one for each child process. Claude Code
// plugins and Claude Desktop bundles install no dependencies, and one file starts faster than six hundred.
//
// Files of the package (models, skills, kernels) are found from a module's own place in dist/. A bundle has no such
// places, so each module is told where it would lie.
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { basename, join, relative, sep } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

export const ROOT = fileURLToPath(new URL('..', import.meta.url));
const SRC = join(ROOT, 'src');

/** What a host's `fork` is in a bundle. */
const THREAD_CHILD = join(ROOT, 'scripts', 'package-thread-child.mjs');

/** The other end: gives a thread what a child process has. Nothing happens in a process. */
const THREAD_PARENT =
  "import { parentPort as __parentPort } from 'node:worker_threads';" +
  'if (__parentPort) {' +
  'process.connected = true;' +
  'process.send = (message, ...rest) => { __parentPort.postMessage(message); rest.at(-1)?.(null); return true; };' +
  "__parentPort.on('message', (message) => process.emit('message', message));" +
  '}';

const posix = (path) => path.split(sep).join('/');

/** src/ROOM/NAME-process.ts, each the child of NAME-host.ts. */
function processFiles() {
  return readdirSync(SRC, { recursive: true, encoding: 'utf8' })
    .filter((file) => file.endsWith('-process.ts'))
    .map((file) => join(SRC, file))
    .sort();
}

/**
 * Source of a module with its own place written out. `up` leads from the bundle's folder to the package's root. A host
 * finds its child process beside itself, which is beside the bundle.
 */
function withPlace(file, text, up) {
  const host = file.endsWith('-host.ts');
  const place = host
    ? `./${basename(file, '.ts')}.js`
    : `${up}dist/${posix(relative(SRC, file)).replace(/\.ts$/, '.js')}`;
  const url = `new URL(${JSON.stringify(place)}, import.meta.url)`;
  return (
    (host ? text.replaceAll("'node:child_process'", JSON.stringify(THREAD_CHILD)) : text)
      // esbuild takes a plain require along; it stays as late as it was.
      .replace(/createRequire\(import\.meta\.url\)\(('[^']+')\)/g, 'require($1)')
      .replace(/\bimport\.meta\.dirname\b/g, '__placeFolder')
      .replace(/\bimport\.meta\.url\b/g, '__place')
      .replace(
        /^/,
        `import { fileURLToPath as __toPath } from 'node:url'; const __place = ${url}.href, __placeFolder = __toPath(new URL('.', __place));`,
      )
  );
}

const placePlugin = (up) => ({
  name: 'place',
  setup({ onLoad }) {
    onLoad({ filter: /\.ts$/ }, ({ path }) => {
      if (!path.startsWith(SRC + sep)) return undefined;
      const text = readFileSync(path, 'utf8');
      if (!text.includes('import.meta') && !text.includes("'node:child_process'")) return undefined;
      return { contents: withPlace(path, text, up), loader: 'ts' };
    });
  },
});

/** zod's messages in fifty languages are half of it; ours are English. */
export const englishPlugin = {
  name: 'english',
  setup({ onLoad }) {
    onLoad({ filter: /[/\\]zod[/\\]v4[/\\]locales[/\\]index\.js$/ }, () => ({
      contents: "export { default as en } from './en.js';",
    }));
  },
};

/**
 * Bundles into `outdir`, or returns the files when `write` is false. Same sources, same bytes, on every machine.
 * @returns {Promise<Map<string, string>>} file name to text
 */
export async function bundleProgram({ outdir, up, write = true }) {
  const entries = { 'bitnet-gf3': join(SRC, 'cli', 'main.ts') };
  for (const file of processFiles()) entries[basename(file, '.ts')] = file;
  const { outputFiles, warnings, metafile } = await build({
    absWorkingDir: ROOT,
    entryPoints: entries,
    outdir,
    bundle: true,
    write: false,
    metafile: true,
    platform: 'node',
    format: 'esm',
    target: 'node20.19',
    // Real names stay, for stack traces.
    minifySyntax: true,
    minifyWhitespace: true,
    charset: 'utf8',
    // Their licenses stand in a file of their own.
    legalComments: 'none',
    logLevel: 'silent',
    // Optional, large and native: who has it installed can use it.
    external: ['onnxruntime-node'],
    plugins: [placePlugin(up), englishPlugin],
    banner: {
      // CommonJS packages inside ask for Node's own modules by `require`.
      js: `import { createRequire as __createRequire } from 'node:module'; const require = __createRequire(import.meta.url);${THREAD_PARENT}`,
    },
  });
  const serious = warnings.filter(({ id }) => id !== 'empty-import-meta');
  if (serious.length > 0) throw new Error(serious.map(({ text }) => text).join('\n'));
  const files = new Map(outputFiles.map(({ path, text }) => [basename(path), text]));
  files.set('THIRD-PARTY-LICENSES.txt', licenses(Object.keys(metafile.inputs)));
  if (write) {
    rmSync(outdir, { recursive: true, force: true });
    mkdirSync(outdir, { recursive: true });
    for (const [name, text] of files) writeFileSync(join(outdir, name), text);
  }
  return files;
}

/** What the bundled program finds in the package's folder; `more` are other files of the package. */
export function copyBesideProgram(folder, more = []) {
  const kernels = ['wasm', 'metal', 'cuda/kernels.ptx'].map((path) => `kernels/${path}`);
  for (const path of ['models', 'skills', ...kernels, 'prebuilds', 'LICENSE', ...more]) {
    if (path === 'prebuilds' && !existsSync(join(ROOT, path))) continue;
    cpSync(join(ROOT, path), join(folder, path), {
      recursive: true,
      // Float masters are for training and four times the model; sources of native code are of no use there.
      filter: (source) => !/[/\\]master$/.test(source) && !/\.(cc|h|mm)$/.test(source),
    });
  }
  const { name, version, license } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8'));
  writeFileSync(
    join(folder, 'package.json'),
    `${JSON.stringify({ name, version, license, type: 'module' }, null, 2)}\n`,
  );
}

/** The license of every package of which code is in the bundle. */
export function licenses(inputs) {
  const folders = new Set(inputs.flatMap((path) => /^.*node_modules\/(?:@[^/]+\/)?[^/]+/.exec(posix(path))?.[0] ?? []));
  const parts = [...folders].sort().map((folder) => {
    const path = join(ROOT, folder);
    const { name, version, license } = JSON.parse(readFileSync(join(path, 'package.json'), 'utf8'));
    const file = readdirSync(path).find((entry) => /^licen[cs]e(\.|$)/i.test(entry));
    const text = file === undefined ? '' : `\n${readFileSync(join(path, file), 'utf8').trim()}\n`;
    return `${name} ${version}, ${license}\n${text}`;
  });
  return `The files beside this one hold code of these packages.\n\n${parts.join(`\n${'-'.repeat(72)}\n\n`)}`;
}

export function sizeText(bytes) {
  return bytes < 1e6 ? `${(bytes / 1e3).toFixed(0)} kB` : `${(bytes / 1e6).toFixed(2)} MB`;
}
