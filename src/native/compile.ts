// Compiles an addon with nothing but a C++ compiler and the `node-api-headers` package: node-gyp would download headers
// from a host that a closed network does not reach. The file's name holds a hash of all that went into it, so an existing
// file is up to date by definition and builds of several processes cannot disturb one another.

import { spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, rmSync, statSync } from 'node:fs';
import { createRequire } from 'node:module';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { makeFolderSync } from '../formats/make-folder.ts';
import { renameOver } from '../formats/rename-over.ts';
import { ADDON_NAMES, type AddonKind } from './kind.ts';
import { notesFolder } from './notes.ts';
import { buildKey, kernelsFolder, RECIPES, SYSTEM_FLAGS, sourcePaths, type Unit } from './recipe.ts';

export type Compiler = { readonly command: string; readonly version: string };

export type Built =
  /** `without`: instruction sets that this compiler does not know. */
  | { readonly path: string; readonly seconds: number; readonly without: readonly string[] }
  | { readonly path?: undefined; readonly reason: string };

/** Addons of earlier sources are removed once nothing that runs now can still want them. */
const KEPT_MS = 24 * 60 * 60 * 1000;

export function findCompiler(): Compiler | undefined {
  for (const command of [process.env.CXX, 'c++', 'g++', 'clang++']) {
    if (!command) continue;
    const { status, stdout } = spawnSync(command, ['--version'], { encoding: 'utf8', windowsHide: true });
    if (status === 0) return { command, version: stdout.split('\n')[0] ?? '' };
  }
  return undefined;
}

/** Where addons lie that were compiled here: the package's own folder, or the user's where that is read-only. */
export const buildFolders = (root: string): readonly string[] => [join(root, 'build', 'native'), notesFolder()];

/** The addon compiled from the sources as they are, if it is there. */
export function findCompiled(kind: AddonKind, root: string, files: readonly string[]): string | undefined {
  const name = `${kind}-${buildKey(kind, root, files)}.node`;
  return buildFolders(root)
    .map((folder) => join(folder, name))
    .find((path) => existsSync(path));
}

/** What is missing for a build, in one sentence; else the compiler. */
export function compilerFor(kind: AddonKind, root: string): Compiler | string {
  if (sourcePaths(kind, root) === undefined) return `the sources of ${ADDON_NAMES[kind]} are not part of this package`;
  // There is no library of Node's there to link with, and MSVC is another language: Windows takes prebuilt ones.
  if (process.platform === 'win32') return `${ADDON_NAMES[kind]} are not compiled on Windows`;
  if (kind === 'metal' && process.platform !== 'darwin') return 'the Metal addon is built on macOS only';
  const compiler = findCompiler();
  if (compiler === undefined) return 'no C++ compiler was found (looked for $CXX, c++, g++, clang++)';
  try {
    headersFolder(root);
  } catch {
    return 'the package node-api-headers is not installed';
  }
  return compiler;
}

/** Found from the package's folder, so that a bundler leaves it where it is. */
function headersFolder(root: string): string {
  return (createRequire(join(root, 'package.json'))('node-api-headers') as { include_dir: string }).include_dir;
}

/** Compiles unless that is done. */
export async function compileAddon(kind: AddonKind, root: string): Promise<Built> {
  const compiler = compilerFor(kind, root);
  if (typeof compiler === 'string') return { reason: compiler };
  const { files } = sourcePaths(kind, root)!;
  const existing = findCompiled(kind, root, files);
  if (existing !== undefined) return { path: existing, seconds: 0, without: [] };
  const place = firstWritable(buildFolders(root));
  if (place === undefined) return { reason: `no writable folder for the build: ${buildFolders(root).join(', ')}` };
  const started = performance.now();
  // Before the sources are read.
  const path = join(place.folder, `${kind}-${buildKey(kind, root, files)}.node`);
  try {
    const made = join(place.work, `${kind}.node`);
    const system = SYSTEM_FLAGS[process.platform] ?? SYSTEM_FLAGS.linux!;
    const done = await compileUnits(kind, {
      root,
      arch: process.arch,
      compiler: [compiler.command],
      compile: [...system.compile, '-I', headersFolder(root)],
      link: system.link,
      work: place.work,
      output: made,
    });
    if ('reason' in done) return { reason: `${compiler.command} ${done.reason}` };
    await renameOver(made, path);
    removeOld(kind, place.folder, path);
    return { path, seconds: (performance.now() - started) / 1000, without: done.without };
  } finally {
    rmSync(place.work, { recursive: true, force: true });
  }
}

export type CompileOptions = {
  readonly root: string;
  readonly arch: string;
  /** The command and its first arguments. */
  readonly compiler: readonly string[];
  readonly compile: readonly string[];
  readonly link: readonly string[];
  /** How this compiler spells a unit's flag, where it has another word for it. */
  readonly spell?: ((flag: string) => string) | undefined;
  /** Sources beside the recipe's, by their whole paths. */
  readonly extra?: readonly string[];
  readonly work: string;
  readonly output: string;
};

/** Compiles and links; says which instruction sets the compiler does not know, or what it could not do. */
export async function compileUnits(
  kind: AddonKind,
  { root, arch, compiler, compile, link, spell = (flag) => flag, extra = [], work, output }: CompileOptions,
): Promise<{ readonly without: readonly string[] } | { readonly reason: string }> {
  const recipe = RECIPES[kind];
  const [command, ...first] = compiler;
  const run = (args: readonly string[]) => runCompiler(command!, [...first, ...args]);
  const compileOne = async (unit: Unit) => {
    const path = join(kernelsFolder(root), unit.source);
    const object = join(work, `${unit.source.replaceAll('/', '_')}.o`);
    return {
      object,
      ...(await run([...recipe.flags(arch), ...compile, ...unit.flags.map(spell), '-c', path, '-o', object])),
    };
  };
  const queue = [...recipe.units(root, arch)];
  const results = new Map<Unit, Awaited<ReturnType<typeof compileOne>>>();
  const next = async () => {
    for (let unit = queue.shift(); unit !== undefined; unit = queue.shift()) results.set(unit, await compileOne(unit));
  };
  await Promise.all(Array.from({ length: availableParallelism() }, next));
  const objects: string[] = [];
  const macros: string[] = [];
  const without: string[] = [];
  // In the order of the recipe, so that the same sources give the same bytes.
  for (const unit of recipe.units(root, arch).map(({ source }) => source)) {
    const [found, result] = [...results].find(([{ source }]) => source === unit)!;
    if (result.ok) {
      objects.push(result.object);
      if (found.macro !== undefined) macros.push(`-D${found.macro}`);
    } else if (found.macro !== undefined) {
      // An older compiler: the other instruction sets still work.
      without.push(unit.replace(/^.*isa_|\.cc$/g, ''));
    } else {
      return { reason: `could not compile ${unit}: ${result.text}` };
    }
  }
  if (recipe.table !== undefined) {
    const table = await compileOne({ source: recipe.table, flags: macros });
    if (!table.ok) return { reason: `could not compile ${recipe.table}: ${table.text}` };
    objects.push(table.object);
  }
  for (const source of extra) {
    const object = join(work, `extra-${objects.length}.o`);
    const done = await run([...recipe.flags(arch), ...compile, '-c', source, '-o', object]);
    if (!done.ok) return { reason: `could not compile ${source}: ${done.text}` };
    objects.push(object);
  }
  const linked = await run([...objects, '-o', output, ...link, ...recipe.link.map(spell)]);
  return linked.ok ? { without } : { reason: `could not link the addon: ${linked.text}` };
}

function runCompiler(command: string, args: readonly string[]): Promise<{ ok: boolean; text: string }> {
  return new Promise((resolve) => {
    const child = spawn(command, args, { stdio: ['ignore', 'ignore', 'pipe'], windowsHide: true });
    let text = '';
    child.stderr.on('data', (data) => {
      text += data;
    });
    child.on('error', (error) => resolve({ ok: false, text: error.message }));
    child.on('close', (code) => resolve({ ok: code === 0, text: text.trim().split('\n').slice(0, 3).join(' | ') }));
  });
}

function firstWritable(folders: readonly string[]): { readonly folder: string; readonly work: string } | undefined {
  for (const folder of folders) {
    try {
      makeFolderSync(folder);
      return { folder, work: mkdtempSync(join(folder, '.work-')) };
    } catch {
      // A read-only installation: the user's cache is next.
    }
  }
  return undefined;
}

function removeOld(kind: AddonKind, folder: string, current: string): void {
  const pattern = new RegExp(`^${kind}-[0-9a-f]+\\.`);
  for (const name of readdirSync(folder)) {
    const path = join(folder, name);
    if (!pattern.test(name) || path === current) continue;
    try {
      if (Date.now() - statSync(path).mtimeMs > KEPT_MS) rmSync(path, { force: true });
    } catch {
      // Removed by another build, or in use (Windows).
    }
  }
}
