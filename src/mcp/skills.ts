// The package's Agent Skills over MCP, by the protocol's skills extension; clients without it read them as resources
// (skill://NAME/SKILL.md).

import { join } from 'node:path';
import { loadSkills } from '@modelcontextprotocol/server/ext/skills/node';
import type { Logger } from '../logger.ts';
import { packageRoot } from '../package/root.ts';

let catalog: ReturnType<typeof loadSkills> | undefined;

/** Read once a process; attach it to each server. A broken skill is left out and logged, the others are served. */
export function skillCatalog(logger: Logger): ReturnType<typeof loadSkills> {
  catalog ??= loadSkills(join(packageRoot(), 'skills'), {
    // They change only with the program.
    cacheHint: { ttlMs: 3_600_000, cacheScope: 'public' },
    onWarning: ({ path, message }) => logger.warn('skill', { path, message }),
  }).catch((error: unknown) => {
    // The next server tries again.
    catalog = undefined;
    throw error;
  });
  return catalog;
}
