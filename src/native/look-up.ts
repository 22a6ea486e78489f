// Finds an addon: the one that came with the package, one compiled here before, one that is compiled now. Each is tried in
// a child process before it is loaded; what was found out is noted, so that a later start asks nothing again.

import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { compileAddon, compilerFor, findCompiled } from './compile.ts';
import { ADDON_NAMES, type AddonKind, messageOf } from './kind.ts';
import { noteChosen, noteFailedBuild, readFailedBuild, statesOf } from './notes.ts';
import { type Candidate, fileHash, findPrebuilt, prebuiltFolder } from './prebuilt.ts';
import { buildKey, kernelsFolder, sourcePaths } from './recipe.ts';
import { nodeProgram, whyUnusable } from './try-in-child.ts';

export type Found =
  | { readonly path: string }
  /** `later`: it is being compiled, so that another start will find it. */
  | { readonly reason: string; readonly later: boolean };

/** `now`: a compiler is not waited for, but begun in a process of its own. */
export async function lookUp(kind: AddonKind, root: string, { now }: { readonly now: boolean }): Promise<Found> {
  const sources = sourcePaths(kind, root);
  const candidates: string[] = [];
  const reasons: string[] = [];
  /** Whatever changes in these makes another look necessary. */
  const watched = [
    join(root, 'package.json'),
    join(prebuiltFolder(root), 'manifest.json'),
    join(prebuiltFolder(root), `${kind}.node`),
    ...(sources === undefined
      ? [kernelsFolder(root)]
      : [...sources.folders, ...sources.files].map((path) => join(kernelsFolder(root), path))),
    // The flags.
    join(root, 'dist', 'native', 'recipe.js'),
    join(root, 'src', 'native', 'recipe.ts'),
  ];
  const states = statesOf(watched);
  const take = async (candidate: Candidate): Promise<Found | undefined> => {
    candidates.push(candidate.path);
    const states_ = [...states, ...statesOf([candidate.path])];
    const failure = await whyUnusable(kind, candidate);
    if (failure !== undefined) {
      reasons.push(failure);
      return undefined;
    }
    await noteChosen(kind, root, candidate, states_);
    return { path: candidate.path };
  };

  const prebuilt = findPrebuilt(kind, root, sources?.files);
  if (prebuilt !== undefined && 'reason' in prebuilt) reasons.push(prebuilt.reason);
  else if (prebuilt !== undefined) {
    const found = await take(prebuilt);
    if (found !== undefined) return found;
  }
  if (sources === undefined) {
    if (reasons.length === 0)
      reasons.push(`no prebuilt binary of ${ADDON_NAMES[kind]} for this system came with the package`);
    return { reason: reasons.join('; '), later: false };
  }

  const compiled = findCompiled(kind, root, sources.files);
  if (compiled !== undefined) {
    const found = await take({ path: compiled, sha256: fileHash(compiled) });
    return found ?? { reason: reasons.join('; '), later: false };
  }
  const compiler = compilerFor(kind, root);
  if (typeof compiler === 'string') return { reason: [...reasons, compiler].join('; '), later: false };
  const key = buildKey(kind, root, sources.files);
  const failed = readFailedBuild(kind, key, compiler.version);
  if (failed !== undefined) return { reason: [...reasons, failed].join('; '), later: false };
  if (now) {
    const begun = beginBuild(kind, root);
    return { reason: [...reasons, begun.reason].join('; '), later: begun.later };
  }
  const built = await compileAddon(kind, root);
  if (built.path === undefined) {
    await noteFailedBuild(kind, key, { compiler: compiler.version, reason: built.reason });
    return { reason: [...reasons, built.reason].join('; '), later: false };
  }
  const found = await take({ path: built.path, sha256: fileHash(built.path) });
  return found ?? { reason: reasons.join('; '), later: false };
}

const begun = new Set<AddonKind>();

function beginBuild(kind: AddonKind, root: string): { readonly reason: string; readonly later: boolean } {
  const node = nodeProgram();
  if (node === undefined) {
    return { reason: 'this runs inside Electron, and no node is on the PATH to compile with', later: false };
  }
  const later = {
    reason: `${ADDON_NAMES[kind]} are being compiled, once; a start in a minute or so will use them`,
    later: true,
  };
  if (begun.has(kind)) return later;
  begun.add(kind);
  try {
    const script = join(root, 'dist', 'native', 'build.js');
    const child = spawn(node, [script, kind], { detached: true, stdio: 'ignore', windowsHide: true });
    // Told as an event where the system has no process left.
    child.on('error', () => {});
    child.unref();
    return later;
  } catch (error) {
    return { reason: `the build could not be started: ${messageOf(error)}`, later: false };
  }
}
