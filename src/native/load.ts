// The native addons of this package, as the rest of the program gets them: loaded, or one sentence why not.

import { toNamespacedPath } from 'node:path';
import { packageRoot } from '../package/root.ts';
import { type AddonKind, messageOf } from './kind.ts';
import { readChosen, readTried } from './notes.ts';

export type LoadedAddon<Addon> = { readonly addon: Addon; readonly path: string } | { readonly reason: string };

const decided = new Map<AddonKind, Promise<LoadedAddon<unknown>>>();
const waiting = new Map<AddonKind, Promise<LoadedAddon<unknown>>>();

/**
 * The addon, compiled on first use when there is none; or why there is none. Decided once a process. With `now` a build
 * is begun in a process of its own and not waited for: an answer is due, and something slower can give it.
 */
export function loadAddon<Addon>(kind: AddonKind, { now = false } = {}): Promise<LoadedAddon<Addon>> {
  const known = decided.get(kind) ?? (now ? waiting.get(kind) : undefined);
  if (known !== undefined) return known as Promise<LoadedAddon<Addon>>;
  const loading = load(kind, now);
  (now ? waiting : decided).set(
    kind,
    loading.then(({ loaded }) => loaded),
  );
  void loading.then(({ loaded, later }) => {
    waiting.delete(kind);
    if (!later) decided.set(kind, Promise.resolve(loaded));
  });
  return loading.then(({ loaded }) => loaded as LoadedAddon<Addon>);
}

/** `later`: another call may find more. */
async function load(
  kind: AddonKind,
  now: boolean,
): Promise<{ readonly loaded: LoadedAddon<unknown>; readonly later: boolean }> {
  const root = packageRoot();
  let path: string | undefined;
  try {
    const chosen = readChosen(kind, root);
    const tried = chosen && readTried(chosen.sha256);
    if (tried !== undefined && tried.failure === undefined) path = chosen!.path;
    if (path === undefined) {
      const found = await (await import('./look-up.ts')).lookUp(kind, root, { now });
      if ('reason' in found) return { loaded: found, later: found.later };
      path = found.path;
    }
    const module: { exports: unknown } = { exports: {} };
    // What `require` does in the end.
    process.dlopen(module, toNamespacedPath(path));
    return { loaded: { addon: module.exports, path }, later: false };
  } catch (error) {
    const what = path === undefined ? 'the look for native code failed' : `${path} could not be loaded`;
    return { loaded: { reason: `${what}: ${messageOf(error)}` }, later: false };
  }
}
