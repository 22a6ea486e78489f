// The int8 output head made by native code: the same bits as `quantizeHead` of `model/head.ts`, in a fraction of a
// second where JavaScript takes several (2B-4T: 328 million weights).

import { availableParallelism } from 'node:os';
import type { DenseWeight, Int8Weight } from '../program.ts';
import { DENSE_CODES } from '../recorded/operations.ts';
import { loadNative } from './native.ts';

/**
 * Undefined when there is no native code here (yet: nobody waits for a compiler), or when a row holds a NaN or infinity
 * (the slow way then says which). Fills and keeps `codes`, rows * columns of them.
 */
export async function quantizeHeadNative(
  head: DenseWeight,
  codes = new Int8Array(head.rows * head.columns),
  threads = availableParallelism(),
): Promise<Int8Weight | undefined> {
  const native = await loadNative({ now: true });
  if ('reason' in native) return undefined;
  const { rows, columns, name } = head;
  const rowScale = new Float32Array(rows);
  const dtype = DENSE_CODES[head.dtype];
  const bad = await native.addon.quantizeRows(head.bytes, dtype, rows, columns, codes, rowScale, Math.min(threads, 64));
  if (bad >= 0) return undefined;
  return { kind: 'int8', name: `${name} (int8)`, rows, columns, codes, rowScale };
}
