// Matrices of GGUF's packed trits as rowquad, from bytes to bytes. The readable way, `unpackGgml` and then
// `packRowquad`, is the specification: it takes the shapes that do not fit the short ways below, and it says what is
// wrong with bytes that they refuse. They do four rows at once, q, q + Q, q + 2Q and q + 3Q, which share the bytes of
// packed row q, and write it from front to back.
//
// I2_S (L128, L64) and TQ2_0 are cut into runs: S bytes (32, or 16) hold 4S elements, byte b those of the columns b,
// b + S, b + 2S, b + 3S. So the bytes b of one run in the four rows are a square of 4 rows by 4 columns in two-bit
// fields, and the four bytes that rowquad wants for these columns are the same square, rows and columns changed over.
// That is done for four bytes of a row at once, in two steps: halves of the square, then neighbours. In TQ2_0 the
// columns come from the lowest field on; I2_S begins with the highest, so its columns come out in the reverse order.
//
//     bit          7 6  5 4  3 2  1 0                        7 6  5 4  3 2  1 0
//     row q         a3   a2   a1   a0           column 0      d0   c0   b0   a0
//     row q + Q     b3   b2   b1   b0     ->    column 1      d1   c1   b1   a1
//     row q + 2Q    c3   c2   c1   c0           column 2      d2   c2   b2   a2
//     row q + 3Q    d3   d2   d1   d0           column 3      d3   c3   b3   a3
//     TQ2_0 rows 0x24 = 00 10 01 00, 0x00, 0x55, 0xaa  ->  columns 10 01 00 00 = 0x90, 0x91, 0x92, 0x90
//
// TQ1_0 has no fields to move: the five trits of a byte come from a table, as codes that are ready to be shifted to the
// field of their row.

import type { PackedPlace } from './errors.ts';
import { f16ToF32 } from './f16.ts';
import { type GgmlTernaryType, unpackGgml } from './ggml.ts';
import { I2S_TAIL_BYTES, type I2sLayout, i2sBlock, i2sScale } from './i2s.ts';
import { packRowquad, rowquadByteLength } from './rowquad.ts';
import { blockScales } from './ternary-blocks.ts';
import { scaleOfBlocks, type TernaryScale } from './ternary-scale.ts';
import { TQ1_BLOCK, TQ1_BYTES, tq1Codes } from './tq1.ts';
import { TQ2_BLOCK, TQ2_BYTES } from './tq2.ts';

export type PackedMatrix = {
  readonly type: GgmlTernaryType;
  readonly bytes: Uint8Array;
  readonly rows: number;
  readonly columns: number;
  /** Of I2_S; L128 when not given. */
  readonly i2sLayout?: I2sLayout;
  /** The row of `bytes` that becomes the given row; itself when not given. */
  readonly sourceRow?: (row: number) => number;
};

/**
 * Writes the rowquad bytes of a matrix to `out` (rowquadByteLength bytes, aligned to 4) and returns its scale. Throws
 * what `unpackGgml` throws.
 */
export function repackGgml(matrix: PackedMatrix, out: Uint8Array, at?: PackedPlace): TernaryScale {
  const { type, bytes, rows, columns, i2sLayout = 'L128', sourceRow } = matrix;
  if (repackFast(matrix, out)) return scaleOf(matrix);
  const { trits, scale } = unpackGgml(type, bytes, rows, columns, { i2sLayout, ...(at === undefined ? {} : { at }) });
  packRowquad(sourceRow === undefined ? trits : reordered(trits, rows, columns, sourceRow), rows, columns, out);
  return scale;
}

/** False, with anything in `out`, for a shape that has no short way here and for bytes that hold a code 3. */
export function repackFast(matrix: PackedMatrix, out: Uint8Array): boolean {
  const { type, bytes, rows, columns, i2sLayout = 'L128' } = matrix;
  if (rows % 4 !== 0 || out.byteLength !== rowquadByteLength(rows, columns) || out.byteOffset % 4 !== 0) return false;
  const fits = (block: number, blockBytes: number, tail = 0) =>
    columns % block === 0 && bytes.byteLength === (rows * columns * blockBytes) / block + tail;
  if (type === 'I2_S' && i2sLayout !== 'L4ROW') {
    const block = i2sBlock(i2sLayout, columns);
    return fits(block, block / 4, I2S_TAIL_BYTES) && repackRuns(matrix, out, { runBytes: block / 4, highFirst: true });
  }
  if (type === 'TQ2_0') {
    return fits(TQ2_BLOCK, TQ2_BYTES) && repackRuns(matrix, out, { runBytes: 32, highFirst: false, pairGap: 2 });
  }
  if (type === 'TQ1_0' && fits(TQ1_BLOCK, TQ1_BYTES)) {
    repackTq1(matrix, out);
    return true;
  }
  return false;
}

function scaleOf({ type, bytes }: PackedMatrix): TernaryScale {
  if (type === 'I2_S') {
    return { kind: 'tensor', value: i2sScale(bytes.subarray(bytes.byteLength - I2S_TAIL_BYTES)) };
  }
  const [blockBytes, size] = type === 'TQ1_0' ? [TQ1_BYTES, TQ1_BLOCK] : [TQ2_BYTES, TQ2_BLOCK];
  const common = commonHalf(bytes, blockBytes, blockBytes - 2);
  const scales = common ?? blockScales(bytes, blockBytes, blockBytes - 2);
  return scaleOfBlocks(scales, size);
}

/** The f16 at byte `at` of all blocks that have not 0 there; undefined when they differ, or are no numbers. */
function commonHalf(bytes: Uint8Array, blockBytes: number, at: number): Float32Array | undefined {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let common = 0;
  // The length is read once: V8 does not compile `byteLength` inline, and it took nine tenths of this loop.
  for (let i = at, end = bytes.byteLength; i < end; i += blockBytes) {
    const half = view.getUint16(i, true);
    if ((half & 0x7fff) === 0 || half === common) continue;
    if (common !== 0 || (half & 0x7c00) === 0x7c00) return undefined;
    common = half;
  }
  return f16ToF32(Uint8Array.of(common & 0xff, common >> 8));
}

function reordered(trits: Int8Array, rows: number, columns: number, sourceRow: (row: number) => number): Int8Array {
  const out = new Int8Array(trits.length);
  for (let row = 0; row < rows; row += 1) {
    const from = sourceRow(row) * columns;
    out.set(trits.subarray(from, from + columns), row * columns);
  }
  return out;
}

/**
 * Rows made of runs; `pairGap` bytes that hold no trits follow every second run of a row. `highFirst`: the first of a
 * byte's columns lies in its highest field.
 */
function repackRuns(
  { bytes, rows, columns, sourceRow = itself }: PackedMatrix,
  out: Uint8Array,
  run: { readonly runBytes: number; readonly highFirst: boolean; readonly pairGap?: number },
): boolean {
  const { runBytes, highFirst, pairGap = 0 } = run;
  const runs = columns / (4 * runBytes);
  const rowBytes = runs * runBytes + (runs >> 1) * pairGap;
  const Q = rows / 4;
  // Blocks of TQ2_0 are 66 bytes: a view of words could not follow them.
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const words = new Int32Array(out.buffer, out.byteOffset, out.byteLength / 4);
  const runWords = runBytes / 4;
  const first = highFirst ? 3 * runWords : 0;
  const step = highFirst ? -runWords : runWords;
  let seen = 0;
  for (let q = 0, to = first; q < Q; q += 1) {
    let fromA = sourceRow(q) * rowBytes;
    let fromB = sourceRow(q + Q) * rowBytes;
    let fromC = sourceRow(q + 2 * Q) * rowBytes;
    let fromD = sourceRow(q + 3 * Q) * rowBytes;
    for (let r = 0; r < runs; r += 1) {
      for (const end = to + runWords; to < end; to += 1) {
        let a = view.getInt32(fromA, true);
        let b = view.getInt32(fromB, true);
        let c = view.getInt32(fromC, true);
        let d = view.getInt32(fromD, true);
        fromA += 4;
        fromB += 4;
        fromC += 4;
        fromD += 4;
        // A field is 3 when both its bits are set; which one it was, the specification finds. All words are signed, since
        // one above 2^31 is no small integer to code that is not compiled yet; no mask has the bits that a shift copies.
        seen |= (a & (a >> 1)) | (b & (b >> 1)) | (c & (c >> 1)) | (d & (d >> 1));
        let swap = ((a >> 4) ^ c) & 0x0f0f0f0f;
        c ^= swap;
        a ^= swap << 4;
        swap = ((b >> 4) ^ d) & 0x0f0f0f0f;
        d ^= swap;
        b ^= swap << 4;
        swap = ((a >> 2) ^ b) & 0x33333333;
        b ^= swap;
        a ^= swap << 2;
        swap = ((c >> 2) ^ d) & 0x33333333;
        d ^= swap;
        c ^= swap << 2;
        words[to] = a;
        words[to + step] = b;
        words[to + 2 * step] = c;
        words[to + 3 * step] = d;
      }
      to += 3 * runWords;
      if (r % 2 === 1) {
        fromA += pairGap;
        fromB += pairGap;
        fromC += pairGap;
        fromD += pairGap;
      }
    }
  }
  return (seen & 0x55555555) === 0;
}

const itself = (row: number) => row;

/** Every byte is sound here: the digits of base 3 have no fourth value. */
function repackTq1({ bytes, rows, columns, sourceRow = itself }: PackedMatrix, out: Uint8Array): void {
  const codes = tq1Codes();
  const blocks = columns / TQ1_BLOCK;
  const rowBytes = blocks * TQ1_BYTES;
  const Q = rows / 4;
  const from = new Float64Array(4);
  for (let q = 0; q < Q; q += 1) {
    for (let field = 0; field < 4; field += 1) from[field] = sourceRow(q + field * Q) * rowBytes;
    for (let block = 0, to = q * columns; block < blocks; block += 1, to += TQ1_BLOCK) {
      tq1Run(bytes, from, 32, 5, codes, out, to);
      tq1Run(bytes, from, 16, 5, codes, out, to + 160);
      tq1Run(bytes, from, 4, 4, codes, out, to + 240);
      // The scale.
      for (let field = 0; field < 4; field += 1) from[field]! += 2;
    }
  }
}

/** `count` bytes of each of four rows, whose digits lie `count` columns apart; moves `from` behind them. */
function tq1Run(
  bytes: Uint8Array,
  from: Float64Array,
  count: number,
  digits: number,
  { four, fifth }: ReturnType<typeof tq1Codes>,
  out: Uint8Array,
  start: number,
): void {
  let [fromA, fromB, fromC, fromD] = [from[0]!, from[1]!, from[2]!, from[3]!];
  for (let to = start, end = start + count; to < end; to += 1) {
    const a = bytes[fromA++]!;
    const b = bytes[fromB++]!;
    const c = bytes[fromC++]!;
    const d = bytes[fromD++]!;
    const codes = four[a]! | (four[b]! << 2) | (four[c]! << 4) | (four[d]! << 6);
    out[to] = codes;
    out[to + count] = codes >> 8;
    out[to + 2 * count] = codes >> 16;
    out[to + 3 * count] = codes >> 24;
    if (digits === 5) out[to + 4 * count] = fifth[a]! | (fifth[b]! << 2) | (fifth[c]! << 4) | (fifth[d]! << 6);
  }
  from[0] = fromA;
  from[1] = fromB;
  from[2] = fromC;
  from[3] = fromD;
}
