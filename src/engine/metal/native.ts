// Builds (on macOS only) and loads the addon.

import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import type { MetalAddon } from './addon.ts';
import { whyNoMetal } from './platform.ts';

type Built = { readonly path: string } | { readonly path?: undefined; readonly reason: string };

// src/engine/metal and dist/engine/metal lie equally deep in the package.
const packageRoot = join(dirname(fileURLToPath(import.meta.url)), '..', '..', '..');

/** The addon, or one sentence why there is none. */
export async function loadMetalAddon(): Promise<{ addon: MetalAddon } | { reason: string }> {
  const elsewhere = whyNoMetal();
  if (elsewhere !== undefined) return { reason: elsewhere };
  try {
    const script = pathToFileURL(join(packageRoot, 'scripts', 'build-metal.mjs')).href;
    const { buildMetal } = (await import(script)) as { buildMetal(): Built };
    const built = buildMetal();
    if (built.path === undefined) return { reason: built.reason };
    return { addon: createRequire(import.meta.url)(built.path) as MetalAddon };
  } catch (error) {
    return {
      reason: `the Metal addon could not be built or loaded: ${error instanceof Error ? error.message : error}`,
    };
  }
}
