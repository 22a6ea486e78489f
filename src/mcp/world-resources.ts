// The worlds of morphism_step as resources: which there are, and for each the step that led to it and what it gave.

import { type McpServer, ResourceTemplate } from '@modelcontextprotocol/server';
import { worldRecordToJson } from '../tools/world-json.ts';
import type { WorldStore } from '../world/world-store.ts';
import { answering, decoded, json, listing, SCHEME } from './resources.ts';
import type { ToolEnvironment } from './tool-registration.ts';

/** Completions and lists stay short; `bitnet-gf3://worlds` has them all. */
const MAX_LISTED = 100;

/** Loaded when asked for: it reads checkpoints, which most sessions never do. */
async function openStore(): Promise<WorldStore> {
  const { WorldStore, worldsFolder } = await import('../world/world-store.ts');
  return WorldStore.open(worldsFolder());
}

const WORLD = new ResourceTemplate(`${SCHEME}//worlds/{world}`, {
  list: () =>
    listing(async () => ({
      resources: (await (await openStore()).list()).slice(-MAX_LISTED).map(({ id, stepCount, base }) => ({
        uri: `${SCHEME}//worlds/${id}`,
        name: id.slice(0, 12),
        title: `World ${id.slice(0, 12)}: ${base.model} after ${stepCount} ${stepCount === 1 ? 'step' : 'steps'}`,
        mimeType: 'application/json',
      })),
    })),
  complete: {
    world: (start) =>
      listing(async () =>
        ['latest', ...(await (await openStore()).ids())].filter((id) => id.startsWith(start)).slice(0, MAX_LISTED),
      ),
  },
});

export function registerWorldResources(server: McpServer, environment: ToolEnvironment): void {
  server.registerResource(
    'worlds',
    `${SCHEME}//worlds`,
    {
      title: 'Worlds',
      description: 'Every world that morphism_step has reached, oldest first, with the step that led to it',
      mimeType: 'application/json',
    },
    (uri) =>
      answering(uri, environment, async () => json(uri, (await (await openStore()).list()).map(worldRecordToJson))),
  );
  server.registerResource(
    'world',
    WORLD,
    {
      title: 'A world',
      description: 'A world by its id, its first digits, or "latest"',
      mimeType: 'application/json',
    },
    (uri, { world }) =>
      answering(uri, environment, async () => {
        const store = await openStore();
        return json(uri, worldRecordToJson(await store.record(await store.resolve(decoded(world, 'world')))));
      }),
  );
}
