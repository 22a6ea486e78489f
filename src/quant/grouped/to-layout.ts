// From a matrix of any group to the bytes of a layout that files are written in.

import { GroupScaleError, type PackedPlace } from '../errors.ts';
import type { BlockLayoutName } from './block-layout.ts';
import { BLOCK_LAYOUTS, encodeBlocks } from './codec.ts';
import { type GroupedRows, onlyZeros, regroup } from './grouped-matrix.ts';
import { quadRowBytes } from './quads.ts';

/** Whether rows of so many columns can be written as the layout at all. */
export function fitsLayout(name: BlockLayoutName, columns: number): boolean {
  return columns % BLOCK_LAYOUTS[name].group === 0;
}

/**
 * Whole rows as bytes of the layout; its groups are made from those of the matrix, and one of zeros alone gets the scale 0,
 * as quantizers write it. Throws CodeNotHeldError (with the number of such weights), and GroupScaleError for scales that
 * the layout's groups cannot have, or that are no finite f16.
 */
export function toBlocks(
  name: BlockLayoutName,
  matrix: GroupedRows,
  { at, firstRow = 0 }: { readonly at?: PackedPlace | undefined; readonly firstRow?: number } = {},
): Uint8Array<ArrayBuffer> {
  const { group } = BLOCK_LAYOUTS[name];
  const regrouped = regroup(matrix, group);
  if (regrouped === undefined) {
    throw new GroupScaleError({
      at,
      ...firstMixed(matrix, group, firstRow),
      what:
        matrix.columns % group === 0
          ? `covers ${matrix.group} columns, and those beside it in the ${group} that ${name} has one scale for have others`
          : `is one of rows of ${matrix.columns} columns, which ${name} cannot hold: they are no multiple of ${group}`,
      fix: 'write gguf-q2_0 (groups of 64) or hf-unpacked',
    });
  }
  return encodeBlocks(name, withoutScalesOfZeros(regrouped), { at, firstRow });
}

/** Where the groups of a matrix do not join, for a message; the first place where rows do not fit at all. */
function firstMixed(
  matrix: GroupedRows,
  group: number,
  firstRow: number,
): { readonly row: number; readonly group: number } {
  const { rows, columns, scales } = matrix;
  const perRow = columns / matrix.group;
  if (columns % group !== 0 || group % matrix.group !== 0) return { row: firstRow, group: 0 };
  const rowBytes = quadRowBytes(columns);
  for (let row = 0; row < rows; row++) {
    const one = {
      ...matrix,
      rows: 1,
      quads: matrix.quads.subarray(row * rowBytes, (row + 1) * rowBytes),
      scales: scales.slice(row * perRow, (row + 1) * perRow),
    };
    if (regroup(one, group) !== undefined) continue;
    const times = group / matrix.group;
    for (let g = 0; g < perRow; g++) {
      const start = Math.floor(g / times) * times;
      if (one.scales[g] !== one.scales[start]) return { row: firstRow + row, group: g };
    }
  }
  return { row: firstRow, group: 0 };
}

function withoutScalesOfZeros(matrix: GroupedRows): GroupedRows {
  const { rows, columns, group, quads } = matrix;
  const perRow = columns / group;
  const rowBytes = quadRowBytes(columns);
  const scales = Float32Array.from(matrix.scales);
  for (let row = 0, i = 0; row < rows; row++) {
    for (let g = 0; g < perRow; g++, i++) {
      if (onlyZeros(quads, row * rowBytes, g * group, (g + 1) * group)) scales[i] = 0;
    }
  }
  return { ...matrix, scales };
}
