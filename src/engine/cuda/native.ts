// Loads the addon, which needs no part of CUDA to be built; a machine without a driver does not even look for it.

import { type LoadedAddon, loadAddon } from '../../native/load.ts';
import type { CudaAddon } from './addon.ts';
import { whyNoDriver } from './platform.ts';

/** The addon, or one sentence why there is none. */
export async function loadCudaAddon(): Promise<LoadedAddon<CudaAddon>> {
  const none = whyNoDriver();
  return none === undefined ? loadAddon<CudaAddon>('cuda') : { reason: none };
}
