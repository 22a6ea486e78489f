// Matrices of scales and trits made weights of a program: grouped ones as panels, floats of one magnitude as rowquad.

import type { GroupedWeight, TernaryWeight } from '../engine/program.ts';
import type { WeightPreparation } from '../engine/weight-preparation.ts';
import type { PackedPlace } from '../quant/errors.ts';
import { exactHalves } from '../quant/grouped/codec.ts';
import { canonicalGroup, type GroupedRows } from '../quant/grouped/grouped-matrix.ts';
import { PANEL_ROWS, panel64ByteLength, panel64ScaleCount, quadsToPanel64 } from '../quant/grouped/panel64.ts';
import { quadRowBytes } from '../quant/grouped/quads.ts';
import { type GroupedBytes, repackToPanel64 } from '../quant/grouped/repack-panel64.ts';
import { detectPrescaled } from '../quant/prescaled.ts';
import { packRowquad } from '../quant/rowquad.ts';
import type { Allocate } from '../tensor/allocate.ts';
import { WeightError } from './weight-reader.ts';

/** Smaller matrices are done before native code could be loaded. */
const WORTH_NATIVE = 1 << 16;

/**
 * A grouped matrix (rows, columns) of a file as panels of its canonical group, so that one model gives the same logits
 * from whichever layout it comes in. `sourceRow`: the row of the file that becomes the given one.
 */
export async function groupedWeight(
  name: string,
  source: GroupedBytes,
  rows: number,
  columns: number,
  options: {
    readonly at: PackedPlace;
    readonly allocate: Allocate;
    readonly prepare?: WeightPreparation | undefined;
    readonly sourceRow?: ((row: number) => number) | undefined;
  },
): Promise<GroupedWeight> {
  const { prepare, allocate, sourceRow, at } = options;
  if (prepare !== undefined && sourceRow === undefined && source.form === 'blocks' && rows * columns >= WORTH_NATIVE) {
    const { layout, bytes } = source;
    const prepared =
      layout === 'TQ1_0' || layout === 'TQ2_0'
        ? undefined
        : await prepare.repackGrouped({ layout, bytes, rows, columns }, allocate);
    if (prepared !== undefined) return { kind: 'grouped', name, rows, columns, layout: 'panel64', ...prepared };
  }
  const panels = await repackToPanel64(source, rows, columns, { at, allocate, sourceRow });
  return { kind: 'grouped', name, layout: 'panel64', ...panels };
}

/**
 * The matrices of all experts, one after the other in `all` (experts * rows), as one weight: each in panels of its own, all
 * with the group that their scales have in common.
 */
export async function expertsWeight(
  name: string,
  all: GroupedRows,
  experts: number,
  { at, allocate }: { readonly at: PackedPlace; readonly allocate: Allocate },
): Promise<GroupedWeight> {
  const { rows: allRows, columns, group, quads, scales } = canonicalGroup(all);
  const rows = allRows / experts;
  const rowBytes = quadRowBytes(columns);
  const panelBytes = panel64ByteLength(rows, columns);
  const bytes = await allocate(experts * panelBytes);
  const perRow = columns / group;
  const shared = new Float32Array(experts * panel64ScaleCount(rows, columns, group));
  const scaleCount = shared.length / experts;
  for (let expert = 0; expert < experts; expert += 1) {
    const first = expert * rows;
    const part = bytes.subarray(expert * panelBytes, (expert + 1) * panelBytes);
    quadsToPanel64(quads.subarray(first * rowBytes, (first + rows) * rowBytes), rows, columns, part, { at });
    for (let row = 0; row < rows; row += 1) {
      for (let g = 0; g < perRow; g += 1) {
        const place = (Math.floor(row / PANEL_ROWS) * perRow + g) * PANEL_ROWS + (row % PANEL_ROWS);
        shared[expert * scaleCount + place] = scales[(first + row) * perRow + g]!;
      }
    }
  }
  const halves = exactHalves(shared);
  const isHalf = halves instanceof Uint16Array;
  const stored = new Uint8Array(isHalf ? halves.buffer : shared.buffer);
  return {
    kind: 'grouped',
    name,
    rows,
    columns,
    experts,
    group,
    layout: 'panel64',
    bytes,
    scaleType: isHalf ? 'f16' : 'f32',
    scales: stored,
  };
}

/**
 * Floats of a matrix that a file declares ternary without saying how: some exports hold trit * scale. One magnitude in
 * the whole matrix proves it; anything else is refused, because float weights may as well be QAT masters.
 */
export function prescaledWeight(
  name: string,
  values: Float32Array,
  rows: number,
  columns: number,
  file: string,
): TernaryWeight {
  const found = detectPrescaled(values, rows, columns);
  const scale = found?.scale;
  if (found === undefined || scale?.kind !== 'tensor') {
    throw new WeightError({
      what: 'float weights that are not trits times one scale, though the file declares ternary layers',
      where: `tensor "${name}" in ${file}`,
      fix: 'if they are QAT masters, set quantization_config.quantization_mode to "online" in config.json',
    });
  }
  const bytes = packRowquad(found.trits, rows, columns);
  return { kind: 'ternary', name, rows, columns, layout: 'rowquad', bytes, scale: scale.value };
}
