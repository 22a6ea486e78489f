// What this package says about itself.

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { packageRoot } from './root.ts';

let version: string | undefined;

/** Read once a process: a stateless server says it with every answer. */
export function packageVersion(): string {
  if (version === undefined) {
    const manifest = JSON.parse(readFileSync(join(packageRoot(), 'package.json'), 'utf8')) as { version: string };
    version = manifest.version;
  }
  return version;
}
