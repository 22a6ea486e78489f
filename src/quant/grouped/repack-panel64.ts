// From the bytes of a file to panels, whatever the layout: the readable way, and the truth for faster ones.

import type { Allocate } from '../../tensor/allocate.ts';
import type { PackedPlace } from '../errors.ts';
import type { BlockLayoutName } from './block-layout.ts';
import { decodeBlocks } from './codec.ts';
import type { FloatType } from './floats.ts';
import { canonicalGroup, type GroupedRows } from './grouped-matrix.ts';
import { decodeMlx, type MlxPack } from './mlx.ts';
import { type Panel64, toPanel64 } from './panel64.ts';
import { decodeUnpacked } from './unpacked.ts';

/** A grouped matrix as a file holds it. */
export type GroupedBytes =
  | { readonly form: 'blocks'; readonly layout: BlockLayoutName; readonly bytes: Uint8Array }
  | ({ readonly form: 'mlx' } & MlxPack)
  | { readonly form: 'floats'; readonly type: FloatType; readonly bytes: Uint8Array; readonly group: number };

/** Codes and scales of whole rows; throws what the layout's decoder throws. */
export function decodeGrouped(
  source: GroupedBytes,
  rows: number,
  columns: number,
  options: { readonly at?: PackedPlace | undefined; readonly firstRow?: number } = {},
): GroupedRows {
  switch (source.form) {
    case 'blocks':
      return decodeBlocks(source.layout, source.bytes, rows, columns, options);
    case 'mlx':
      return decodeMlx(source, rows, columns, options);
    case 'floats':
      return decodeUnpacked(source.bytes, source.type, { rows, columns, group: source.group }, options);
  }
}

/** The matrix as panels of its canonical group. Throws as `decodeGrouped`. */
export function repackToPanel64(
  source: GroupedBytes,
  rows: number,
  columns: number,
  {
    at,
    ...options
  }: {
    readonly at?: PackedPlace;
    readonly sourceRow?: ((row: number) => number) | undefined;
    readonly allocate?: Allocate;
  } = {},
): Promise<Panel64> {
  const matrix = canonicalGroup(decodeGrouped(source, rows, columns, { at }));
  return toPanel64(matrix, { ...options, ...(at && { at }) });
}
