// Where this package lies on disk. The code runs from src/ in development and from dist/ once built, so the root is
// found by its package.json, not by counting folders.

import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { BitnetError } from '../errors.ts';

const PACKAGE_NAME = 'bitnet-gf3-mcp';

/** The installation lacks files that belong to it. */
export class BrokenInstallError extends BitnetError {
  readonly code = 'BROKEN_INSTALL';
  readonly fault = 'job';
}

let found: string | undefined;

/** The nearest folder above this file whose package.json is ours. */
export function packageRoot(): string {
  found ??= findRoot(import.meta.dirname);
  return found;
}

function findRoot(start: string): string {
  for (let folder = start; ; folder = dirname(folder)) {
    try {
      const manifest = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8')) as { name?: unknown };
      if (manifest.name === PACKAGE_NAME) return folder;
    } catch {
      // No package.json here (or another kind of file): go on upward.
    }
    if (dirname(folder) === folder) {
      const what = `no package.json of ${PACKAGE_NAME} above ${start}`;
      throw new BrokenInstallError({ what, fix: 'install the package again' });
    }
  }
}
