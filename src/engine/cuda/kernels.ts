// The kernels as the driver takes them: a cubin for the card's generation where the package has one, else the PTX text, which
// the driver compiles (seconds at first; it keeps the result).

import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** kernels/cuda of this package, from src/engine/cuda as from dist/engine/cuda. */
export const KERNEL_FOLDER = fileURLToPath(new URL('../../../kernels/cuda', import.meta.url));

/** Generations that a cubin is made for: 90 for 9.0. A cubin runs on its own minor version and later ones of its major. */
export const CUBINS = [80, 86, 89, 90, 120] as const;

export type KernelImage = { readonly bytes: Uint8Array; readonly compiled: boolean };

export function readKernels(capability: number, folder: string = KERNEL_FOLDER): KernelImage {
  const usable = CUBINS.filter((made) => Math.floor(made / 10) === Math.floor(capability / 10) && made <= capability);
  const best = usable.at(-1);
  const path = join(folder, `kernels-${best}.cubin`);
  if (best !== undefined && existsSync(path)) return { bytes: readFileSync(path), compiled: true };
  return { bytes: readFileSync(join(folder, 'kernels.ptx')), compiled: false };
}
