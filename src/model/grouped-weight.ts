// Matrices of scales and trits made weights of a program: grouped ones as panels, floats of one magnitude as rowquad.

import type { GroupedWeight, TernaryWeight } from '../engine/program.ts';
import type { WeightPreparation } from '../engine/weight-preparation.ts';
import type { PackedPlace } from '../quant/errors.ts';
import { exactHalves } from '../quant/grouped/codec.ts';
import { canonicalGroup, type GroupedRows, regroup } from '../quant/grouped/grouped-matrix.ts';
import { PANEL_ROWS, panel64ByteLength, panel64ScaleCount, quadsToPanel64 } from '../quant/grouped/panel64.ts';
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
    const prepared = await prepare.repackGrouped({ layout, bytes, rows, columns }, allocate);
    if (prepared !== undefined) return { kind: 'grouped', name, rows, columns, layout: 'panel64', ...prepared };
  }
  const panels = await repackToPanel64(source, rows, columns, { at, allocate, sourceRow });
  return { kind: 'grouped', name, layout: 'panel64', ...panels };
}

/**
 * All experts of one tensor of blocks as one weight, by native code: whole panels follow one another as rows do. Undefined
 * where that cannot be.
 */
export async function stackedExpertsWeight(
  name: string,
  source: GroupedBytes,
  experts: number,
  rows: number,
  columns: number,
  { prepare, allocate }: { readonly prepare?: WeightPreparation | undefined; readonly allocate: Allocate },
): Promise<GroupedWeight | undefined> {
  if (prepare === undefined || source.form !== 'blocks' || rows % PANEL_ROWS !== 0) return undefined;
  const { layout, bytes } = source;
  const prepared = await prepare.repackGrouped({ layout, bytes, rows: experts * rows, columns }, allocate);
  return prepared && { kind: 'grouped', name, rows, columns, experts, layout: 'panel64', ...prepared };
}

/**
 * The matrices of all experts as one weight: each in panels of its own, all with the group that their scales have in
 * common. `read` gives one, and is asked for each of them in order, again where they turn out to have several groups.
 */
export async function expertsWeight(
  name: string,
  experts: number,
  read: (expert: number) => Promise<GroupedRows>,
  { at, allocate }: { readonly at: PackedPlace; readonly allocate: Allocate },
): Promise<GroupedWeight> {
  const first = canonicalGroup(await read(0));
  const { rows, columns } = first;
  const panelBytes = panel64ByteLength(rows, columns);
  const bytes = await allocate(experts * panelBytes);
  let { group } = first;
  let scales = new Float32Array(0);
  for (let expert = 0; expert < experts; expert += 1) {
    const own = await read(expert);
    const matrix = regroup(own, group);
    if (matrix === undefined) {
      // Groups of all sizes are powers of two, or whole rows, so a smaller one fits those before as well.
      const { group: smaller } = canonicalGroup(own);
      if (smaller >= group || group % smaller !== 0) throw groupsDiffer(name, at, group, smaller);
      group = smaller;
      expert = -1;
      continue;
    }
    const count = panel64ScaleCount(rows, columns, group);
    if (expert === 0) scales = new Float32Array(experts * count);
    const part = bytes.subarray(expert * panelBytes, (expert + 1) * panelBytes);
    quadsToPanel64(matrix.quads, rows, columns, part, { at });
    scales.set(panelScales(matrix.scales, rows, columns / group), expert * count);
  }
  const halves = exactHalves(scales);
  const isHalf = halves instanceof Uint16Array;
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
    scales: new Uint8Array(isHalf ? halves.buffer : scales.buffer),
  };
}

/** (rows, perRow) to [panel][group][row of the panel]. */
function panelScales(scales: Float32Array, rows: number, perRow: number): Float32Array {
  const out = new Float32Array(Math.ceil(rows / PANEL_ROWS) * perRow * PANEL_ROWS);
  for (let row = 0; row < rows; row += 1) {
    const panel = Math.floor(row / PANEL_ROWS) * perRow * PANEL_ROWS + (row % PANEL_ROWS);
    for (let group = 0; group < perRow; group += 1) out[panel + group * PANEL_ROWS] = scales[row * perRow + group]!;
  }
  return out;
}

const groupsDiffer = (name: string, { file }: PackedPlace, one: number, other: number) =>
  new WeightError({
    what: `experts have scales for groups of ${one} columns and of ${other}, which have no group in common`,
    where: `tensor "${name}" in ${file}`,
    fix: 'convert the model again',
  });

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
