// Group-scaled matrices of GGUF files made panels by native code: the same bytes as `repackToPanel64` of `quant/`, at the
// speed of memory.

import type { Allocate } from '../../tensor/allocate.ts';
import type { GroupedSource, PreparedGrouped } from '../weight-preparation.ts';

export async function repackGroupedNative(
  _source: GroupedSource,
  _allocate: Allocate,
): Promise<PreparedGrouped | undefined> {
  return undefined;
}
