// The package's own skills, read once a process.

import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { packageRoot } from '../package/root.ts';
import { type Registry, readRegistry } from '../triads/registry.ts';

let registry: Registry | undefined;

/** What skills/triads.json of this package declares. Throws RegistryError when the file is broken. */
export function skillRegistry(): Registry {
  registry ??= readRegistry(join(packageRoot(), 'skills', 'triads.json'));
  return registry;
}

let present: ReadonlySet<string> | undefined;

/** Names of the declared skills that come with this package: only these can be loaded. */
export function presentSkills(): ReadonlySet<string> {
  const folder = join(packageRoot(), 'skills');
  present ??= new Set(
    skillRegistry().skills.flatMap(({ name }) => (existsSync(join(folder, name, 'SKILL.md')) ? [name] : [])),
  );
  return present;
}
