// From what a user calls a model to the files it is. This is the one place that decides which paths a caller may name.

import { closeSync, openSync, readdirSync, readSync, type Stats, statSync } from 'node:fs';
import { realpath } from 'node:fs/promises';
import { dirname, isAbsolute, join, relative, resolve, sep } from 'node:path';
import { BitnetError } from '../errors.ts';
import { refuseLfsPointer } from '../formats/lfs-pointer.ts';
import { ggufModels } from '../formats/model-files.ts';
import { packageRoot } from '../package/root.ts';
import {
  cachedRepos,
  type Environment,
  expandHome,
  hubCacheFolder,
  isRepoId,
  isRevision,
  snapshotFolder,
  snapshotsOf,
} from './hub-cache.ts';

export type ModelLocation = {
  readonly kind: 'folder' | 'safetensors' | 'gguf';
  /** Absolute. */
  readonly path: string;
  /** As asked for. */
  readonly name: string;
  /** Commit of a model from the hub cache. */
  readonly commit?: string;
};

export type ResolveOptions = {
  /**
   * Folders that paths must lie in, links followed; without it any path goes. Names (`default`, hub ids) always
   * resolve, since where they lead is not the caller's choice.
   */
  readonly allowedRoots?: readonly string[];
  readonly env?: Environment;
};

/** No model of this name, here or in the hub cache. */
export class ModelNotFoundError extends BitnetError {
  readonly code = 'MODEL_NOT_FOUND';
  readonly fault = 'call';
}

/** A path that this caller may not read. */
export class PathNotAllowedError extends BitnetError {
  readonly code = 'PATH_NOT_ALLOWED';
  readonly fault = 'call';

  constructor(path: string, roots: readonly string[]) {
    super({
      what: `the path ${JSON.stringify(path)} lies outside the folders that may be read`,
      fix:
        roots.length === 0
          ? 'use "default" or the id of a model in the hub cache'
          : `use a path inside ${roots.join(' or ')}, "default", or the id of a model in the hub cache`,
    });
  }
}

/** A file or folder that exists but is no model. */
export class NotAModelError extends BitnetError {
  readonly code = 'NOT_A_MODEL';
  readonly fault = 'call';
}

/** The longest path that Linux takes. */
const MAX_NAME_LENGTH = 4096;

/** The model that ships with the package. */
export const DEFAULT_MODEL = 'default';

/**
 * `name` is `default` (or another folder of the package's models/), a folder in Hugging Face layout, a .gguf or
 * .safetensors file, or a hub id: ORG/NAME, ORG/NAME@REVISION, ORG/NAME/FILE.gguf. A path wins over a hub id.
 */
export async function resolveModel(name: string, options: ResolveOptions = {}): Promise<ModelLocation> {
  if (name.length > MAX_NAME_LENGTH) {
    throw new ModelNotFoundError({ what: `a text of ${name.length} characters is not a model name`, fix: ALLOWED });
  }
  if (name === '' || name.includes('\0')) {
    throw new ModelNotFoundError({ what: `${JSON.stringify(name)} is not a model name`, fix: ALLOWED });
  }
  if (/^[\w-]+$/.test(name)) {
    const embedded = join(packageRoot(), 'models', name);
    if (isFolder(embedded)) return { kind: 'folder', path: embedded, name };
  }
  const path = resolve(expandHome(name));
  const looksLikePath = isAbsolute(name) || /^(\.{1,2}|~)([/\\]|$)/.test(name) || name.includes('\\');
  const roots = options.allowedRoots;
  if (roots === undefined) {
    if (exists(path)) return locate(path, name);
  } else if (await isAllowed(path, roots)) {
    if (exists(path)) return locate(path, name);
  } else if (looksLikePath || !isRepoId(splitAtFirst(name)[0].split('/').slice(0, 2).join('/'))) {
    throw new PathNotAllowedError(name, roots);
  }
  const hub = await resolveInHub(name, options.env ?? process.env);
  if (hub !== undefined) return hub;
  if (looksLikePath || !isRepoId(name.split('@')[0]!)) {
    throw new ModelNotFoundError({ what: `there is no model ${JSON.stringify(name)}`, where: path, fix: ALLOWED });
  }
  throw new ModelNotFoundError({
    what: `the model ${JSON.stringify(name)} is neither a path here nor in the hub cache`,
    where: hubCacheFolder(options.env ?? process.env),
    fix: name.includes('/') ? `run \`bitnet-gf3 pull ${name}\` first, or check the name; ${ALLOWED}` : ALLOWED,
  });
}

const ALLOWED =
  'a model is "default", a folder in Hugging Face layout, a .gguf or .safetensors file, or the id ORG/NAME of a model in the hub cache';

/** What a model of the hub or of the package is; for lists. */
export type KnownModel = ModelLocation & { readonly source: 'embedded' | 'hub' };

/** The package's own models and those of the hub cache that hold weights. */
export async function listModels(options: Pick<ResolveOptions, 'env'> = {}): Promise<KnownModel[]> {
  const models: KnownModel[] = [];
  const folder = join(packageRoot(), 'models');
  for (const name of readdirOrEmpty(folder).sort()) {
    if (isFolder(join(folder, name)))
      models.push({ kind: 'folder', path: join(folder, name), name, source: 'embedded' });
  }
  const cache = hubCacheFolder(options.env ?? process.env);
  for (const name of await cachedRepos(cache)) {
    const snapshot = await snapshotFolder(cache, name);
    if (snapshot === undefined) continue;
    const files = readdirOrEmpty(snapshot.path);
    if (files.some((file) => file.endsWith('.safetensors'))) {
      models.push({ kind: 'folder', path: snapshot.path, name, commit: snapshot.commit, source: 'hub' });
      continue;
    }
    const ggufs = ggufModels(files);
    for (const file of ggufs) {
      const id = ggufs.length === 1 ? name : `${name}/${file}`;
      models.push({ kind: 'gguf', path: join(snapshot.path, file), name: id, commit: snapshot.commit, source: 'hub' });
    }
  }
  return models;
}

async function resolveInHub(name: string, env: Environment): Promise<ModelLocation | undefined> {
  const file = /^([^/@]+\/[^/@]+)\/((?:[^/@]+\/)*[^/@]+\.gguf)(?:@(.+))?$/.exec(name);
  if (file?.[2]?.split('/').some((part) => /^\.+$/.test(part))) return undefined;
  const [repo, revision] = file === null ? splitAtFirst(name) : [file[1]!, file[3] ?? 'main'];
  if (!isRepoId(repo) || !isRevision(revision)) return undefined;
  const cache = hubCacheFolder(env);
  const snapshot = await snapshotFolder(cache, repo, revision);
  if (snapshot === undefined) {
    const commits = await snapshotsOf(cache, repo);
    if (commits.length === 0) return undefined;
    throw new ModelNotFoundError({
      what: `the hub cache has ${repo}, but not its revision "${revision}"`,
      where: cache,
      fix: `run \`bitnet-gf3 pull ${name}\`, or name a cached commit: ${commits
        .slice(0, 3)
        .map((c) => `${repo}@${c}`)
        .join(', ')}`,
    });
  }
  const { path, commit } = snapshot;
  if (file !== null) return { ...locate(join(path, file[2]!), name), commit };
  return { ...locate(path, name), commit };
}

function splitAtFirst(name: string): [string, string] {
  const at = name.indexOf('@');
  return at < 0 ? [name, 'main'] : [name.slice(0, at), name.slice(at + 1)];
}

/** Tells what lies at `path`. A folder whose only weights are one .gguf is that file. */
function locate(path: string, name: string): ModelLocation {
  let isDirectory: boolean;
  try {
    isDirectory = statSync(path).isDirectory();
  } catch (cause) {
    const what = `the model ${JSON.stringify(name)} cannot be read: ${(cause as NodeJS.ErrnoException).code}`;
    throw new ModelNotFoundError({ what, where: path, fix: ALLOWED }, { cause });
  }
  if (isDirectory) {
    const files = readdirOrEmpty(path);
    const ggufs = ggufModels(files);
    if (ggufs.length === 0 || files.some((file) => file.endsWith('.safetensors')))
      return { kind: 'folder', path, name };
    if (ggufs.length === 1) return { kind: 'gguf', path: join(path, ggufs[0]!), name };
    throw new NotAModelError({
      what: `${JSON.stringify(name)} holds several .gguf files`,
      where: path,
      fix: `name one of them: ${ggufs
        .slice(0, 8)
        .map((file) => `${name}/${file}`)
        .join(', ')}`,
    });
  }
  if (path.endsWith('.index.json')) return { kind: 'folder', path: dirname(path), name };
  if (hasGgufMagic(path)) return { kind: 'gguf', path, name };
  if (path.endsWith('.safetensors')) return { kind: 'safetensors', path, name };
  refuseLfsPointer(path);
  if (path.endsWith('.gguf')) {
    throw new NotAModelError({
      what: 'the file does not begin with "GGUF"',
      where: `${path}, byte 0`,
      fix: 'download it again',
    });
  }
  throw new NotAModelError({
    what: `${JSON.stringify(name)} is not a .gguf or .safetensors file`,
    where: path,
    fix: ALLOWED,
  });
}

function hasGgufMagic(path: string): boolean {
  let file: number | undefined;
  try {
    // Files of /proc that wait for what comes have no size.
    const info = statSync(path);
    if (!info.isFile() || info.size < 4) return false;
    file = openSync(path, 'r');
    const start = Buffer.alloc(4);
    readSync(file, start, 0, 4, 0);
    return start.toString('latin1') === 'GGUF';
  } catch (cause) {
    const what = `the file cannot be read: ${(cause as NodeJS.ErrnoException).code}`;
    throw new NotAModelError({ what, where: path, fix: 'check its permissions' }, { cause });
  } finally {
    if (file !== undefined) closeSync(file);
  }
}

function inside(path: string, root: string): boolean {
  const way = relative(root, path);
  return way === '' || (way !== '..' && !way.startsWith(`..${sep}`) && !isAbsolute(way));
}

/**
 * Where the path's links lead must lie in a root. An absent path is judged as written, so that the answer does not
 * tell whether something exists outside.
 */
export async function isAllowed(path: string, roots: readonly string[]): Promise<boolean> {
  const real = await realpath(path).catch(() => undefined);
  for (const root of roots) {
    const written = resolve(root);
    const realRoot = await realpath(written).catch(() => written);
    if (real === undefined ? inside(path, written) || inside(path, realRoot) : inside(real, realRoot)) return true;
  }
  return false;
}

function exists(path: string): boolean {
  return statOrNothing(path) !== undefined;
}

function isFolder(path: string): boolean {
  return statOrNothing(path)?.isDirectory() ?? false;
}

function statOrNothing(path: string): Stats | undefined {
  try {
    return statSync(path, { throwIfNoEntry: false });
  } catch {
    // A link to itself, a folder that may not be entered, a name that is too long.
    return undefined;
  }
}

function readdirOrEmpty(path: string): string[] {
  try {
    return readdirSync(path);
  } catch {
    return [];
  }
}
