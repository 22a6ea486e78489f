// The addon that scripts/build-native.mjs chose at its last look, if nothing has changed since. Its own answer is a hash
// of every kernel source, which takes a fifth of the time in which a first token is due. So it leaves a note beside the
// addon with the state of all files and folders that it looked at, and here those are only asked for their state.

import { existsSync, readFileSync, statSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';

/** What build-native.mjs writes. */
type NativeStamp = {
  /** The package that the sources belong to: installations share the user's cache. */
  readonly root: string;
  readonly platform: string;
  readonly arch: string;
  /** Path and state of each file and folder that decides which addon is the right one. */
  readonly sources: readonly (readonly [path: string, state: string])[];
  readonly addon: string;
};

/** As in build-native.mjs. It changes with every write to a file and every name in a folder: nobody sets a ctime. */
function stateOf(path: string): string {
  const { size, mtimeMs, ctimeMs } = statSync(path);
  return `${size} ${mtimeMs} ${ctimeMs}`;
}

/** Undefined when there is no note, or when anything in it is no longer so. */
export function stampedAddon(root: string): string | undefined {
  const cache = process.env.XDG_CACHE_HOME || join(homedir(), '.cache');
  const name = `stamp-${root.replace(/\W+/g, '-').slice(-120)}.json`;
  for (const folder of [join(root, 'build', 'native'), join(cache, 'bitnet-gf3-mcp', 'native')]) {
    try {
      const stamp = JSON.parse(readFileSync(join(folder, name), 'utf8')) as NativeStamp;
      const { platform, arch } = process;
      if (stamp.root !== root || stamp.platform !== platform || stamp.arch !== arch) continue;
      if (stamp.sources.every(([path, state]) => stateOf(path) === state) && existsSync(stamp.addon))
        return stamp.addon;
    } catch {
      // No note there, one of another form, or a source that is gone: the builder looks again.
    }
  }
  return undefined;
}
