// Builds (once) and loads the addon. It needs a C++ compiler and no part of CUDA; a machine without a driver does not even
// build it.

import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import type { CudaAddon } from './addon.ts';
import { whyNoDriver } from './platform.ts';

type Built = { readonly path: string } | { readonly path?: undefined; readonly reason: string };

// src/engine/cuda and dist/engine/cuda lie equally deep in the package.
const packageRoot = join(dirname(fileURLToPath(import.meta.url)), '..', '..', '..');

/** The addon, or one sentence why there is none. */
export async function loadCudaAddon(): Promise<{ addon: CudaAddon } | { reason: string }> {
  const none = whyNoDriver();
  if (none !== undefined) return { reason: none };
  try {
    const script = pathToFileURL(join(packageRoot, 'scripts', 'build-cuda.mjs')).href;
    const { buildCuda } = (await import(script)) as { buildCuda(): Built };
    const built = buildCuda();
    if (built.path === undefined) return { reason: built.reason };
    return { addon: createRequire(import.meta.url)(built.path) as CudaAddon };
  } catch (error) {
    return {
      reason: `the CUDA addon could not be built or loaded: ${error instanceof Error ? error.message : error}`,
    };
  }
}
