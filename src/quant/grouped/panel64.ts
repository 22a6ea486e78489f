// Layout "panel64", what the kernels of grouped matrices read: panels of 64 rows, in which the rows lie in the lanes of a
// vector and four columns in the bytes of a lane.
//
//     panel p holds rows 64p .. 64p + 63; row 16s + lane of a panel has s = 0..3, lane = 0..15
//     byte  ((p * ceil(C/4)) + c div 4) * 64 + 4 * lane + c mod 4  holds column c:
//
//     bit   7   6   5   4   3   2   1   0
//         +-------+-------+-------+-------+     code 00 = -1   01 = 0   10 = +1   11 = +2 (times the scale)
//         |48+lane|32+lane|16+lane| lane  |
//         +-------+-------+-------+-------+     rows (0, 16, 32, 48) = codes (0, 1, 2, 3)  ->  0xe4
//
// What has no row or column holds code 1, a zero. A vector of 64 bytes, shifted by 2s and masked, is 16 rows of four
// unsigned codes: one operand of a byte dot product, with no sums across lanes. Scales lie as [panel][group][64 rows]; a
// row that does not exist has the scale 0.

import { type Allocate, plainMemory } from '../../tensor/allocate.ts';
import { MatrixWidthError, type PackedPlace, PackedSizeError } from '../errors.ts';
import { exactHalves } from './codec.ts';
import { floatsOf } from './floats.ts';
import type { GroupedRows } from './grouped-matrix.ts';
import { packQuads, quadRowBytes, transposeQuads, unpackQuads } from './quads.ts';

export const PANEL_ROWS = 64;
const LANES = 16;

/** Rows have fewer columns, ten times those of any model; also what one row costs as a panel is bounded by it. */
export const MAX_PANEL_COLUMNS = 2 ** 17;
/** So many products of an int16 and a code of 0..3 add up in an int32. */
export const MAX_PANEL_GROUP = 2 ** 15;

/** Bytes of the codes of a matrix [rows, columns]. */
export function panel64ByteLength(rows: number, columns: number): number {
  return Math.ceil(rows / PANEL_ROWS) * Math.ceil(columns / 4) * PANEL_ROWS;
}

/** Elements of the scales of a matrix, those of rows that do not exist included. */
export function panel64ScaleCount(rows: number, columns: number, group: number): number {
  return Math.ceil(rows / PANEL_ROWS) * (columns / group) * PANEL_ROWS;
}

/** Codes [rows, columns], one a byte, as panels. */
export function packPanel64(codes: Uint8Array, rows: number, columns: number): Uint8Array<ArrayBuffer> {
  const out = new Uint8Array(panel64ByteLength(rows, columns));
  quadsToPanel64(packQuads(codes, rows, columns), rows, columns, out);
  return out;
}

/** The codes of panels, one a byte: (rows * columns). */
export function unpackPanel64(bytes: Uint8Array, rows: number, columns: number): Uint8Array<ArrayBuffer> {
  const expectedBytes = panel64ByteLength(rows, columns);
  if (bytes.byteLength !== expectedBytes) throw sizeError(bytes, rows, columns, expectedBytes, undefined);
  const rowBytes = quadRowBytes(columns);
  const quads = new Uint8Array(rows * rowBytes);
  for (let row = 0; row < rows; row++) {
    const shift = 2 * ((row >> 4) & 3);
    const first = (row >> 6) * rowBytes * PANEL_ROWS + 4 * (row & 15);
    for (let j = 0; j < rowBytes; j++) {
      let byte = 0;
      for (let i = 0; i < 4; i++) byte |= ((bytes[first + j * PANEL_ROWS + i]! >> shift) & 3) << (2 * i);
      quads[row * rowBytes + j] = byte;
    }
  }
  return unpackQuads(quads, rows, columns);
}

function sizeError(
  bytes: Uint8Array,
  rows: number,
  columns: number,
  expectedBytes: number,
  at: PackedPlace | undefined,
): PackedSizeError {
  return new PackedSizeError({
    at,
    layout: 'panel64',
    shape: [rows, columns],
    expectedBytes,
    actualBytes: bytes.byteLength,
  });
}

/**
 * Quads (rows * quadRowBytes(columns)) as panels, into `out` (panel64ByteLength bytes). `sourceRow`: the row of the quads
 * that becomes the given one. Rows of a window may be written to their part of a larger `out`, if it begins at a multiple
 * of 64 rows.
 */
export function quadsToPanel64(
  quads: Uint8Array,
  rows: number,
  columns: number,
  out: Uint8Array,
  { sourceRow, at }: { readonly sourceRow?: ((row: number) => number) | undefined; readonly at?: PackedPlace } = {},
): void {
  const expectedBytes = panel64ByteLength(rows, columns);
  if (out.byteLength !== expectedBytes) throw sizeError(out, rows, columns, expectedBytes, at);
  const rowBytes = quadRowBytes(columns);
  const panels = Math.ceil(rows / PANEL_ROWS);
  // Words need an aligned place.
  const aligned = out.byteOffset % 4 === 0 ? out : new Uint8Array(expectedBytes);
  const words = new Int32Array(aligned.buffer, aligned.byteOffset, expectedBytes / 4);
  const blank = rows % PANEL_ROWS === 0 ? 0 : quads.length;
  // A row of zeros stands for those that do not exist: only the last panel has any.
  const source = blank === 0 ? quads : withBlankRow(quads, rowBytes);
  const place = (row: number) => (row >= rows ? blank : (sourceRow === undefined ? row : sourceRow(row)) * rowBytes);
  for (let panel = 0; panel < panels; panel++) {
    const first = panel * PANEL_ROWS;
    for (let lane = 0; lane < LANES; lane++) {
      let a = place(first + lane);
      let b = place(first + LANES + lane);
      let c = place(first + 2 * LANES + lane);
      let d = place(first + 3 * LANES + lane);
      let to = panel * rowBytes * LANES + lane;
      for (const end = a + rowBytes; a < end; to += LANES) {
        words[to] = transposeQuads(source[a++]! | (source[b++]! << 8) | (source[c++]! << 16) | (source[d++]! << 24));
      }
    }
  }
  if (aligned !== out) out.set(aligned);
}

function withBlankRow(quads: Uint8Array, rowBytes: number): Uint8Array {
  const more = new Uint8Array(quads.length + rowBytes).fill(0x55, quads.length);
  more.set(quads);
  return more;
}

/** Codes and scales of a matrix, as kernels read them. */
export type Panel64 = {
  readonly rows: number;
  readonly columns: number;
  readonly group: number;
  /** Panels of codes. */
  readonly bytes: Uint8Array;
  /** f16 where every scale is one, bit for bit. */
  readonly scaleType: 'f16' | 'f32';
  /** Little-endian elements [panel][group][64]. */
  readonly scales: Uint8Array;
};

/** Scales (rows, columns / group) as [panel][group][64], as f16 where all are halves. */
export function arrangeScales(
  scales: Float32Array,
  rows: number,
  perRow: number,
  sourceRow: (row: number) => number = (row) => row,
): Pick<Panel64, 'scaleType' | 'scales'> {
  const halves = exactHalves(scales);
  const from = halves instanceof Uint16Array ? halves : scales;
  const count = Math.ceil(rows / PANEL_ROWS) * perRow * PANEL_ROWS;
  const to = halves instanceof Uint16Array ? new Uint16Array(count) : new Float32Array(count);
  for (let row = 0; row < rows; row++) {
    const source = sourceRow(row) * perRow;
    const first = (row >> 6) * perRow * PANEL_ROWS + (row & 63);
    for (let g = 0; g < perRow; g++) to[first + g * PANEL_ROWS] = from[source + g]!;
  }
  return { scaleType: halves instanceof Uint16Array ? 'f16' : 'f32', scales: new Uint8Array(to.buffer) };
}

/** The scales of panels as (rows, columns / group). */
export function scalesOfPanel64({ rows, columns, group, scaleType, scales }: Panel64): Float32Array {
  const floats = floatsOf(scales, scaleType === 'f16' ? 'F16' : 'F32');
  const perRow = columns / group;
  const out = new Float32Array(rows * perRow);
  for (let row = 0; row < rows; row++) {
    const first = (row >> 6) * perRow * PANEL_ROWS + (row & 63);
    for (let g = 0; g < perRow; g++) out[row * perRow + g] = floats[first + g * PANEL_ROWS]!;
  }
  return out;
}

/**
 * Rows as panels, in memory of `allocate` for the codes. The group stays what it is: see `canonicalGroup`. `sourceRow`:
 * the row that becomes the given one. Throws MatrixWidthError.
 */
export async function toPanel64(
  matrix: GroupedRows,
  {
    sourceRow,
    allocate = plainMemory,
    at,
  }: {
    readonly sourceRow?: ((row: number) => number) | undefined;
    readonly allocate?: Allocate;
    readonly at?: PackedPlace;
  } = {},
): Promise<Panel64> {
  const { rows, columns, group, quads, scales } = matrix;
  if (columns >= MAX_PANEL_COLUMNS || group > MAX_PANEL_GROUP) {
    throw new MatrixWidthError({
      what:
        `${at?.tensor === undefined ? 'a matrix' : `tensor "${at.tensor}"`} has ${columns} columns in groups of ${group}; ` +
        `rows of fewer than ${MAX_PANEL_COLUMNS} in groups of at most ${MAX_PANEL_GROUP} are run`,
      ...(at?.file !== undefined && { where: at.file }),
    });
  }
  const bytes = await allocate(panel64ByteLength(rows, columns));
  quadsToPanel64(quads, rows, columns, bytes, { sourceRow, ...(at && { at }) });
  return { rows, columns, group, bytes, ...arrangeScales(scales, rows, columns / group, sourceRow) };
}

/** The converse of `toPanel64`. */
export function fromPanel64(panels: Panel64): GroupedRows {
  const { rows, columns, group, bytes } = panels;
  const quads = packQuads(unpackPanel64(bytes, rows, columns), rows, columns);
  return { rows, columns, group, quads, scales: scalesOfPanel64(panels) };
}
