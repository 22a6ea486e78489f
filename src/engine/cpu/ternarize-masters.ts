// Masters made trits by native code: the same bits as `absmean` and `packRowquad` of `quant/`, in a tenth of the time.

import type { TensorView } from '../../tensor/tensor-view.ts';
import { DENSE_CODES } from '../recorded/operations.ts';
import { loadNative } from './native.ts';

/** Smaller matrices are done before the addon could be loaded. */
const WORTH_NATIVE = 1 << 20;

/**
 * Writes rowquad bytes to `out` and resolves to the scale. Undefined when there is no native code here (yet: nobody waits
 * for a compiler), for small matrices, and when something is not finite (the slow way then says what).
 */
export async function mastersToRowquadNative(
  masters: TensorView,
  rows: number,
  columns: number,
  out: Uint8Array,
): Promise<number | undefined> {
  if (rows * columns < WORTH_NATIVE) return undefined;
  const native = await loadNative({ now: true });
  if ('reason' in native) return undefined;
  const dtype = DENSE_CODES[masters.dtype.toLowerCase() as keyof typeof DENSE_CODES];
  const scale = await native.addon.mastersToRowquad(masters.bytes, dtype, rows, columns, out);
  return Number.isNaN(scale) ? undefined : scale;
}
