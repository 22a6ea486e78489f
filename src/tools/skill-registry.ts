// The package's own skills, read once a process.

import { join } from 'node:path';
import { packageRoot } from '../hub/package-root.ts';
import { type Registry, readRegistry } from '../triads/registry.ts';

let registry: Registry | undefined;

/** What skills/triads.json of this package declares. Throws RegistryError when the file is broken. */
export function skillRegistry(): Registry {
  registry ??= readRegistry(join(packageRoot(), 'skills', 'triads.json'));
  return registry;
}
