// Group-scaled matrices of files made panels by native code: the same bytes as `repackToPanel64` of `quant/`, at the speed
// of memory.

import { PANEL_ROWS, panel64ByteLength, panel64ScaleCount } from '../../quant/grouped/panel64.ts';
import type { Allocate } from '../../tensor/allocate.ts';
import type { GroupedSource, PreparedGrouped } from '../weight-preparation.ts';
import { loadNative } from './native.ts';

/** `GroupedSource` of kernels/include/grouped_repack.h, and the columns that share a scale there. */
const SOURCES = {
  Q2_0: { code: 0, group: 64 },
  Q2_0_G128: { code: 1, group: 128 },
  PQ2_0: { code: 1, group: 128 },
  PTQ1_0: { code: 2, group: 128 },
  Q1_0: { code: 3, group: 128 },
  TQ2_0: { code: 4, group: 256 },
  TQ1_0: { code: 5, group: 256 },
} as const;

/** Undefined when there is no native code here (yet), and for bytes of which the slow way says what is wrong. */
export async function repackGroupedNative(
  { layout, bytes: from, rows, columns }: GroupedSource,
  allocate: Allocate,
): Promise<PreparedGrouped | undefined> {
  const native = await loadNative({ now: true });
  if ('reason' in native) return undefined;
  const { code, group: stored } = SOURCES[layout];
  const panels = await allocate(panel64ByteLength(rows, columns));
  const scales = new Uint16Array(panel64ScaleCount(rows, columns, stored));
  const group = await native.addon.repackGrouped(from, code, rows, columns, panels, scales);
  if (group < 0) return undefined;
  if (group === 256) return { group: 128, bytes: panels, scaleType: 'f16', scales: halfGroups(scales) };
  const used = panel64ScaleCount(rows, columns, group);
  // Half of them may be left over: not worth keeping.
  const kept = used === scales.length ? scales : scales.slice(0, used);
  return { group, bytes: panels, scaleType: 'f16', scales: new Uint8Array(kept.buffer) };
}

/** [panel][group of 256][64] as [panel][group of 128][64]: each group's scale twice. */
function halfGroups(scales: Uint16Array): Uint8Array {
  const halves = new Uint16Array(2 * scales.length);
  for (let at = 0; at < scales.length; at += PANEL_ROWS) {
    const group = scales.subarray(at, at + PANEL_ROWS);
    halves.set(group, 2 * at);
    halves.set(group, 2 * at + PANEL_ROWS);
  }
  return new Uint8Array(halves.buffer);
}
