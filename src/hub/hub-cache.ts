// The hub cache that Hugging Face's own tools use, so that a model is on disk once whoever downloaded it:
//
//     <cache>/models--ORG--NAME/refs/main              the commit that "main" meant last
//                              /snapshots/COMMIT/FILE  links into blobs
//                              /blobs/ETAG             contents

import { readdir, readFile } from 'node:fs/promises';
import { homedir } from 'node:os';
import { join, resolve } from 'node:path';
import type { Environment } from '../net/proxy.ts';

export type { Environment };

/** The home of all Hugging Face files: HF_HOME, else `huggingface` in the user's cache folder. */
export function hubHome(env: Environment = process.env): string {
  if (env.HF_HOME) return folderOf(env.HF_HOME, env);
  return join(env.XDG_CACHE_HOME ? folderOf(env.XDG_CACHE_HOME, env) : join(homedir(), '.cache'), 'huggingface');
}

/** The folder of cached repositories: HF_HUB_CACHE, its old name HUGGINGFACE_HUB_CACHE, else `hub` in `hubHome`. */
export function hubCacheFolder(env: Environment = process.env): string {
  const named = env.HF_HUB_CACHE || env.HUGGINGFACE_HUB_CACHE;
  return named ? folderOf(named, env) : join(hubHome(env), 'hub');
}

/** A folder as a variable names it: `~` and variables in it ($NAME, ${NAME}) are filled in, as Hugging Face's tools do. */
export function folderOf(value: string, env: Environment): string {
  return expandHome(value.replace(/\$(?:(\w+)|\{(\w+)\})/g, (as, plain, braced) => env[plain ?? braced] ?? as));
}

/** What these tools take for yes in their variables. */
export function isTrue(value: string | undefined): boolean {
  return /^(1|on|yes|true)$/i.test(value ?? '');
}

/** Absolute form of a path; a leading `~` is the user's home, as in a shell. */
export function expandHome(path: string): string {
  return resolve(
    path === '~' || path.startsWith('~/') || path.startsWith('~\\') ? join(homedir(), path.slice(1)) : path,
  );
}

/** ORG/NAME (or the bare NAME of the hub's oldest models). */
const REPO_ID = /^(?:[A-Za-z0-9][\w.-]{0,95}\/)?[A-Za-z0-9][\w.-]{0,95}$/;

export function isRepoId(text: string): boolean {
  return REPO_ID.test(text) && !text.includes('..') && !text.includes('--');
}

/** A branch, tag or commit; may have slashes (`refs/pr/1`) but nothing that leads out of a folder. */
export function isRevision(text: string): boolean {
  return /^[\w][\w./-]{0,200}$/.test(text) && !text.split('/').some((part) => part === '' || /^\.+$/.test(part));
}

export function repoFolder(cache: string, repo: string): string {
  return join(cache, `models--${repo.replace('/', '--')}`);
}

/** Snapshot folders of a repository by commit; empty when the repository is not cached. */
export async function snapshotsOf(cache: string, repo: string): Promise<string[]> {
  try {
    return (await readdir(join(repoFolder(cache, repo), 'snapshots'))).sort();
  } catch {
    return [];
  }
}

/**
 * Folder of the snapshot that `revision` names: a ref, or the commit itself. undefined when it is not cached. Without
 * a ref, a repository with exactly one snapshot is unambiguous.
 */
export async function snapshotFolder(
  cache: string,
  repo: string,
  revision = 'main',
): Promise<{ path: string; commit: string } | undefined> {
  const commits = await snapshotsOf(cache, repo);
  let commit: string | undefined;
  try {
    commit = (await readFile(join(repoFolder(cache, repo), 'refs', revision), 'utf8')).trim();
  } catch {
    commit = commits.includes(revision)
      ? revision
      : revision === 'main' && commits.length === 1
        ? commits[0]
        : undefined;
  }
  if (commit === undefined || !commits.includes(commit)) return undefined;
  return { path: join(repoFolder(cache, repo), 'snapshots', commit), commit };
}

/** Ids of all cached model repositories. */
export async function cachedRepos(cache: string): Promise<string[]> {
  let names: string[];
  try {
    names = await readdir(cache);
  } catch {
    return [];
  }
  return names
    .filter((name) => name.startsWith('models--'))
    .map((name) => name.slice('models--'.length).replace('--', '/'))
    .filter(isRepoId)
    .sort();
}
