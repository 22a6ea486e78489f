// Where this package keeps what it can make again: compiled kernels, what was tried, prepared tokenizers, tuning.

import { homedir } from 'node:os';
import { join } from 'node:path';

/**
 * The package's folder in the user's cache, or a place in it; nothing is made. XDG_CACHE_HOME names another cache.
 * scripts/bundle-start.cjs, which imports nothing, says the same once more.
 */
export function cacheFolder(parts: readonly string[], env: NodeJS.ProcessEnv = process.env): string {
  return join(userCache(env), 'bitnet-gf3-mcp', ...parts);
}

function userCache(env: NodeJS.ProcessEnv): string {
  if (env.XDG_CACHE_HOME) return env.XDG_CACHE_HOME;
  if (process.platform === 'win32' && env.LOCALAPPDATA) return env.LOCALAPPDATA;
  if (process.platform === 'darwin') return join(homedir(), 'Library', 'Caches');
  return join(homedir(), '.cache');
}
