// Bytes of a grouped GGUF tensor to codes and scales, and back, by whole rows: a window of a file is as good as all of it.

import { CodeNotHeldError, GroupScaleError, type PackedPlace, PackedSizeError } from '../errors.ts';
import { f16BitsToF32Bits, f32BitsToF16Bits } from '../f16.ts';
import { blockScales } from '../ternary-blocks.ts';
import { neverWritten } from './base3.ts';
import type { BlockLayout, BlockLayoutName } from './block-layout.ts';
import type { GroupedRows } from './grouped-matrix.ts';
import { PTQ1_0 } from './ptq1.ts';
import { Q1_0 } from './q1.ts';
import { PQ2_0, Q2_0, Q2_0_G128 } from './q2.ts';
import { quadRowBytes } from './quads.ts';
import { TQ1_0, TQ2_0 } from './tq.ts';

export const BLOCK_LAYOUTS: Readonly<Record<BlockLayoutName, BlockLayout>> = {
  Q2_0,
  Q2_0_G128,
  PQ2_0,
  PTQ1_0,
  Q1_0,
  TQ1_0,
  TQ2_0,
};

export function isBlockLayout(name: string): name is BlockLayoutName {
  return Object.hasOwn(BLOCK_LAYOUTS, name);
}

/** Bytes of a row of `columns`, which is a multiple of the layout's group. */
export function blockRowBytes(layout: BlockLayout, columns: number): number {
  return (columns / layout.group) * layout.blockBytes;
}

/** Throws PackedSizeError unless `bytes` are `rows` rows of `columns`. */
function checkSize(
  layout: BlockLayout,
  bytes: Uint8Array,
  rows: number,
  columns: number,
  at: PackedPlace | undefined,
): void {
  const expectedBytes = rows * Math.ceil(columns / layout.group) * layout.blockBytes;
  if (columns % layout.group === 0 && bytes.byteLength === expectedBytes) return;
  throw new PackedSizeError({
    at,
    layout: layout.name,
    shape: [rows, columns],
    expectedBytes,
    actualBytes: bytes.byteLength,
  });
}

/** Throws GroupScaleError for the first scale that is infinite or NaN. `firstRow`: of the window in its matrix. */
export function checkScales(
  scales: Float32Array,
  perRow: number,
  at: PackedPlace | undefined,
  { layout, firstRow = 0 }: { readonly layout: string; readonly firstRow?: number },
): void {
  const bits = new Uint32Array(scales.buffer, scales.byteOffset, scales.length);
  let bad = false;
  for (let i = 0; i < bits.length; i++) bad ||= (bits[i]! & 0x7f800000) === 0x7f800000;
  if (!bad) return;
  const index = scales.findIndex((scale) => !Number.isFinite(scale));
  throw new GroupScaleError({
    at,
    row: firstRow + Math.floor(index / perRow),
    group: index % perRow,
    what: `is ${scales[index]} as ${layout}; any finite number can be one`,
    fix: 'the file is damaged or has blocks of another size: download or export it again',
  });
}

/** The scales of whole rows: (rows, columns / group). Throws PackedSizeError and GroupScaleError. */
export function blockScalesOf(
  name: BlockLayoutName,
  bytes: Uint8Array,
  rows: number,
  columns: number,
  { at, firstRow }: { readonly at?: PackedPlace | undefined; readonly firstRow?: number } = {},
): Float32Array<ArrayBuffer> {
  const layout = BLOCK_LAYOUTS[name];
  checkSize(layout, bytes, rows, columns, at);
  const scales = blockScales(bytes, layout.blockBytes, layout.scaleAt);
  checkScales(scales, columns / layout.group, at, { layout: name, ...(firstRow !== undefined && { firstRow }) });
  return scales;
}

/**
 * Codes and scales of `rows` whole rows. `firstRow` (0) is only for messages. Throws PackedSizeError, and GroupScaleError
 * for a scale that is not finite.
 */
export function decodeBlocks(
  name: BlockLayoutName,
  bytes: Uint8Array,
  rows: number,
  columns: number,
  options: { readonly at?: PackedPlace | undefined; readonly firstRow?: number } = {},
): GroupedRows {
  const scales = blockScalesOf(name, bytes, rows, columns, options);
  const layout = BLOCK_LAYOUTS[name];
  // Groups are multiples of 4 columns, so quads run on from row to row.
  const quads = new Uint8Array(rows * quadRowBytes(columns));
  layout.unpack(bytes, 0, scales.length, quads, 0);
  return { rows, columns, group: layout.group, quads, scales };
}

/** How many base-3 bytes of whole rows no writer makes; 0 for layouts that have none. */
export function countNeverWritten(name: BlockLayoutName, bytes: Uint8Array): number {
  const { digitBytes, blockBytes } = BLOCK_LAYOUTS[name];
  if (digitBytes === 0) return 0;
  const never = neverWritten();
  let count = 0;
  for (let at = 0; at + blockBytes <= bytes.length; at += blockBytes) {
    for (let i = at; i < at + digitBytes; i++) count += never[bytes[i]!]!;
  }
  return count;
}

/**
 * Rows as bytes of the layout, whose group is theirs (`regroup` first). Codes and scales are kept as they are, also those
 * of groups under scale 0. Throws CodeNotHeldError when the layout has no place for a code, GroupScaleError for a scale
 * that is no finite f16.
 */
export function encodeBlocks(
  name: BlockLayoutName,
  matrix: GroupedRows,
  { at, firstRow = 0 }: { readonly at?: PackedPlace | undefined; readonly firstRow?: number } = {},
): Uint8Array<ArrayBuffer> {
  const layout = BLOCK_LAYOUTS[name];
  const { rows, columns, group, quads, scales } = matrix;
  const perRow = columns / group;
  if (group !== layout.group || columns % group !== 0 || scales.length !== rows * perRow) {
    throw new PackedSizeError({
      at,
      layout: `${name} scales, one for ${layout.group} columns,`,
      shape: [rows, columns],
      expectedBytes: rows * Math.ceil(columns / layout.group),
      actualBytes: scales.length,
    });
  }
  checkCodes(layout, quads, columns * rows, at);
  const bytes = new Uint8Array(rows * perRow * layout.blockBytes);
  layout.pack(quads, 0, scales.length, bytes, 0);
  const halves = exactHalves(scales);
  if (halves instanceof Uint16Array) {
    for (let i = 0, to = layout.scaleAt; i < halves.length; i++, to += layout.blockBytes) {
      bytes[to] = halves[i]!;
      bytes[to + 1] = halves[i]! >> 8;
    }
    return bytes;
  }
  throw new GroupScaleError({
    at,
    row: firstRow + Math.floor(halves / perRow),
    group: halves % perRow,
    what: `is ${scales[halves]}, which is no finite f16, as the scales of ${name} are`,
    fix: 'keep the model in a form whose scales are wider, such as hf-unpacked',
  });
}

/** The f16 bits of numbers that are all finite halves, else the index of the first that is none. */
export function exactHalves(values: Float32Array): Uint16Array<ArrayBuffer> | number {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const halves = new Uint16Array(values.length);
  for (let i = 0; i < bits.length; i++) {
    const half = f32BitsToF16Bits(bits[i]!);
    if ((half & 0x7c00) === 0x7c00 || f16BitsToF32Bits(half) !== bits[i]) return i;
    halves[i] = half;
  }
  return halves;
}

/** How often each code occurs in quads that hold `count` weights without gaps (columns a multiple of 4). */
export function countCodes(quads: Uint8Array, count: number): [minus: number, zero: number, plus: number, two: number] {
  const counts: [number, number, number, number] = [0, 0, 0, 0];
  const histogram = new Float64Array(256);
  const whole = Math.floor(count / 4);
  for (let i = 0; i < whole; i++) histogram[quads[i]!]!++;
  for (let byte = 0; byte < 256; byte++) {
    for (let i = 0; i < 8; i += 2) counts[(byte >> i) & 3]! += histogram[byte]!;
  }
  return counts;
}

function checkCodes(layout: BlockLayout, quads: Uint8Array, count: number, at: PackedPlace | undefined): void {
  if (layout.codes === 0b1111) return;
  const counts = countCodes(quads, count);
  const refused = counts.map((n, code) => ((layout.codes >> code) & 1 ? 0 : n));
  const [, zeros, , twos] = refused as [number, number, number, number];
  if (zeros + twos === 0) return;
  throw new CodeNotHeldError({ at, layout: layout.name, zeros, twos });
}
