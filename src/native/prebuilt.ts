// The binaries that came with the package: prebuilds/TARGET/{bitnet,train,metal}.node, and the manifest beside them that
// says what each must be. A binary of other sources, of another version or with other bytes is not loaded.

import { createHash } from 'node:crypto';
import { readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import type { AddonKind } from './kind.ts';
import { targetName } from './machine.ts';
import { sourcesKey } from './recipe.ts';

export type PrebuiltManifest = {
  readonly format: 1;
  /** Of the package that the binaries belong to. */
  readonly version: string;
  readonly target: string;
  /** Compiler and its target. */
  readonly built_with: string;
  readonly addons: { readonly [kind in AddonKind]?: PrebuiltAddon };
};

export type PrebuiltAddon = {
  readonly sha256: string;
  readonly bytes: number;
  /** `sourcesKey` of what it was made of. */
  readonly sources: string;
};

export type Candidate = { readonly path: string; readonly sha256: string };

/** An addon is a megabyte; what is larger is not read. */
const MAX_ADDON_BYTES = 64 << 20;

export const prebuiltFolder = (root: string, target = targetName()): string => join(root, 'prebuilds', target);

export const fileHash = (path: string): string => {
  if (statSync(path).size > MAX_ADDON_BYTES) throw new Error(`${path} is too large for an addon`);
  return createHash('sha256').update(readFileSync(path)).digest('hex');
};

/**
 * The prebuilt addon of this system, or one sentence why it is not to be used; undefined where none came along.
 * `files`: the sources, where those did.
 */
export function findPrebuilt(
  kind: AddonKind,
  root: string,
  files: readonly string[] | undefined,
): Candidate | { readonly reason: string } | undefined {
  const folder = prebuiltFolder(root);
  const path = join(folder, `${kind}.node`);
  let text: string;
  try {
    text = readFileSync(join(folder, 'manifest.json'), 'utf8');
  } catch {
    return undefined;
  }
  let entry: PrebuiltAddon | undefined;
  let version: unknown;
  try {
    ({
      version,
      addons: { [kind]: entry },
    } = JSON.parse(text) as PrebuiltManifest);
  } catch {
    return { reason: `${join(folder, 'manifest.json')} is damaged` };
  }
  if (entry === undefined) return undefined;
  if (files === undefined) {
    const own = (JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { version: string }).version;
    if (version !== own) return { reason: `${path} is of version ${version}, the package ${own}` };
  } else if (sourcesKey(root, files) !== entry.sources) {
    return { reason: `${path} was made of other sources` };
  }
  let sha256: string;
  try {
    sha256 = fileHash(path);
  } catch (error) {
    return { reason: `${path} cannot be read: ${(error as NodeJS.ErrnoException).code ?? (error as Error).message}` };
  }
  if (sha256 !== entry.sha256) return { reason: `${path} is not the file that was packed: its sha256 differs` };
  return { path, sha256 };
}
