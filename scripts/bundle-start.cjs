// Runs the parts that scripts/bundle-dist.mjs made of the program, and keeps the code that V8 made of them: a start
// then compiles nothing. bundle-dist.mjs copies this file to dist/bundle/start.cjs.
//
// Kept code is a convenience that must never do harm. It lies in one file a command, beside the parts or, where that
// folder cannot be written, in the user's cache. The file names Node's version and flags and holds the build that it
// belongs to; V8 refuses code of another version, of other flags and of a text of another length. V8 trusts the rest,
// so everything is written twice and compared: a hash would take longer than the compiling that is saved.
'use strict';

const { closeSync, fsyncSync, mkdirSync, openSync, readdirSync, readFileSync } = require('node:fs');
const { renameSync, rmSync, statSync, writeFileSync } = require('node:fs');
const { dirname, join } = require('node:path');
const { Script } = require('node:vm');

/** Of all files; bundle-dist.mjs writes it here. */
const BUILD = '@BUILD@';

/** Code of a first start is kept soon after, when nobody waits for an answer any more. */
const KEEP_AFTER_MS = 1500;

/** Part to its module. */
const modules = new Map();
/** Part to the function that makes its module, of the files that were opened. */
const makers = new Map();
/** File to its script, where the code is not kept yet. */
const fresh = new Map();
/** File to its code, as it was kept. */
let kept = new Map();
/** Name of the file of kept code; undefined: nothing is kept. */
let keptName;
let timer;

/** Runs the program whose first part is `entry`; each of its commands keeps the code that it needs. */
function start(entry, program, commands = []) {
  const command = process.argv[2] ?? commands[0];
  const name = commands.includes(command) ? command : program;
  // What a coverage report counts must have been compiled.
  if (!process.env.NODE_V8_COVERAGE) {
    keptName = `${name}-${process.version}-${process.arch}${flagsTag()}.bin`;
    kept = readKept();
    process.on('exit', keep);
  }
  return load(entry);
}

/** `id` is ./FILE, or ./FILE#PART where several parts share a file. */
function load(id) {
  const known = modules.get(id);
  if (known !== undefined) return known.exports;
  if (!id.startsWith('./')) return require(id);
  if (!makers.has(id)) openFile(id.slice(2).split('#')[0]);
  const module = { exports: {} };
  // Before it runs: parts may load one another.
  modules.set(id, module);
  try {
    makers.get(id)(module.exports, load, module, __dirname, loadLater, importFile, lazily);
  } catch (error) {
    modules.delete(id);
    throw error;
  }
  return module.exports;
}

function openFile(name) {
  const filename = join(__dirname, name);
  const cachedData = kept.get(name);
  // ASCII, as bundle-dist.mjs sees to: V8 takes it as it is.
  const script = new Script(readFileSync(filename, 'latin1'), { filename, cachedData });
  if (cachedData === undefined || script.cachedDataRejected) {
    fresh.set(name, script);
    if (keptName !== undefined) timer ??= setTimeout(keep, KEEP_AFTER_MS).unref();
  }
  for (const [id, maker] of Object.entries(script.runInThisContext())) makers.set(id, maker);
}

/** What `import()` of a part becomes. */
async function loadLater(id) {
  return load(id);
}

/** What `import()` of anything else becomes: a script has no right to import. */
function importFile(specifier) {
  return import(specifier);
}

/** A module of Node that is loaded when one of its names is first used. */
function lazily(id) {
  return new Proxy({}, { get: (_, name) => (name === 'default' ? require(id) : require(id)[name]) });
}

/** Code depends on V8's flags. */
function flagsTag() {
  const flags = [...process.execArgv, process.env.NODE_OPTIONS ?? ''].join(' ').trim();
  if (flags === '') return '';
  let hash = 0x811c9dc5;
  for (let i = 0; i < flags.length; i += 1) hash = Math.imul(hash ^ flags.charCodeAt(i), 0x01000193);
  return `-${(hash >>> 0).toString(16)}`;
}

function keptFolders() {
  // As src/package/cache-folder.ts has it.
  const { XDG_CACHE_HOME, LOCALAPPDATA, HOME } = process.env;
  const home = () => HOME || require('node:os').homedir();
  const cache =
    XDG_CACHE_HOME ||
    (process.platform === 'win32' && LOCALAPPDATA) ||
    (process.platform === 'darwin' ? join(home(), 'Library', 'Caches') : join(home(), '.cache'));
  return [join(__dirname, 'code'), join(cache, 'bitnet-gf3-mcp', 'code', BUILD)];
}

// The file: twice the same [u32 length of the head, head, code]; head is {build, files: [[name, length], ...]}.

function readKept() {
  for (const folder of keptFolders()) {
    try {
      const file = readFileSync(join(folder, keptName));
      const body = file.subarray(0, file.length / 2);
      if (!body.equals(file.subarray(file.length / 2))) continue;
      const headEnd = 4 + body.readUInt32LE(0);
      const head = JSON.parse(body.toString('latin1', 4, headEnd));
      if (head.build !== BUILD) continue;
      const files = new Map();
      let at = headEnd;
      for (const [name, length] of head.files) {
        files.set(name, body.subarray(at, at + length));
        at += length;
      }
      return files;
    } catch {
      // Nothing kept there yet, or damaged: the next start has it.
    }
  }
  return new Map();
}

function keep() {
  clearTimeout(timer);
  timer = undefined;
  if (fresh.size === 0 || keptName === undefined) return;
  try {
    const files = new Map(kept);
    for (const [name, script] of fresh) files.set(name, script.createCachedData());
    const lengths = [...files].map(([name, code]) => [name, code.length]);
    const head = Buffer.from(JSON.stringify({ build: BUILD, files: lengths }), 'latin1');
    const length = Buffer.alloc(4);
    length.writeUInt32LE(head.length);
    const body = Buffer.concat([length, head, ...files.values()]);
    const [beside, users] = keptFolders();
    if (!write(beside, [body, body]) && write(users, [body, body])) forgetOldBuilds(dirname(users));
    kept = files;
    fresh.clear();
  } catch {
    // The next start compiles again.
  }
}

/** Whole or not at all. */
function write(folder, pieces) {
  const temporary = join(folder, `${keptName}.${process.pid}`);
  try {
    mkdirSync(folder, { recursive: true, mode: 0o700 });
    const fd = openSync(temporary, 'w', 0o600);
    try {
      for (const piece of pieces) writeFileSync(fd, piece);
      fsyncSync(fd);
    } finally {
      closeSync(fd);
    }
    renameSync(temporary, join(folder, keptName));
    return true;
  } catch {
    try {
      rmSync(temporary, { force: true });
    } catch {
      // There is not even a folder.
    }
    return false;
  }
}

/** Builds come and go in the user's cache; one that is used after all keeps its code again. */
function forgetOldBuilds(folder) {
  const old = Date.now() - 30 * 24 * 60 * 60 * 1000;
  for (const build of readdirSync(folder)) {
    if (statSync(join(folder, build)).mtimeMs < old) rmSync(join(folder, build), { recursive: true, force: true });
  }
}

module.exports = start;
