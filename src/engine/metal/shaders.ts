// The kernels' text, joined as one library: Metal compiles it at run time, so no Xcode is needed to build the package.

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** kernels/metal of this package, from src/engine/metal as from dist/engine/metal. */
export const KERNEL_FOLDER = fileURLToPath(new URL('../../../kernels/metal', import.meta.url));

/** Files in the order of order.json; `common.metal` comes first. */
export function readKernelText(folder: string = KERNEL_FOLDER): string {
  const files = JSON.parse(readFileSync(join(folder, 'order.json'), 'utf8')) as string[];
  return files.map((file) => readFileSync(join(folder, file), 'utf8')).join('');
}
