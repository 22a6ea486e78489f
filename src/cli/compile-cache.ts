// Node 22 and later can keep the code of modules between runs: a server then starts in half the time. The bundle in
// dist/ keeps its own, on Node 20, too, and goes without this; see scripts/bundle-dist.mjs.

import module from 'node:module';

export function enableCompileCache(): void {
  (module as { enableCompileCache?: () => unknown }).enableCompileCache?.();
}
