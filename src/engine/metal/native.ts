// Loads (on macOS builds, where none came with the package) the addon.

import { type LoadedAddon, loadAddon } from '../../native/load.ts';
import type { MetalAddon } from './addon.ts';
import { whyNoMetal } from './platform.ts';

/** The addon, or one sentence why there is none. */
export async function loadMetalAddon(): Promise<LoadedAddon<MetalAddon>> {
  const elsewhere = whyNoMetal();
  return elsewhere === undefined ? loadAddon<MetalAddon>('metal') : { reason: elsewhere };
}
