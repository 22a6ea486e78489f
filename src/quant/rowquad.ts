// Layout "rowquad": Hugging Face's packed BitNet weights, uint8 [Q, C] for a matrix of R rows and C columns, with
// Q = ceil(R / 4). One byte holds one column of four rows that lie Q apart; byte [r, c] is at r * C + c.
//
//     bit   7   6   5   4   3   2   1   0
//         +-------+-------+-------+-------+     code 00 = -1   01 = 0   10 = +1
//         | r+3Q  | r+2Q  | r+Q   |   r   |     code 11 is refused
//         +-------+-------+-------+-------+
//     rows (r, r+Q, r+2Q, r+3Q) = (+1, 0, -1, +1)  ->  10 00 01 10  =  0x86
//
// When R is no multiple of 4 the fields of rows past the end are written as 0 (the code of -1) and must be dropped.
// Source: pack_weights and unpack_weights of huggingface/transformers.

import { type PackedPlace, PackedSizeError, TernaryCodeError } from './errors.ts';

/** Bytes that a rowquad matrix takes. */
export function rowquadByteLength(rows: number, columns: number): number {
  return Math.ceil(rows / 4) * columns;
}

function checkSize(bytes: Uint8Array, rows: number, columns: number, at: PackedPlace | undefined): void {
  const expectedBytes = rowquadByteLength(rows, columns);
  if (bytes.byteLength === expectedBytes) return;
  throw new PackedSizeError({
    ...(at === undefined ? {} : { at }),
    layout: 'rowquad',
    shape: [rows, columns],
    expectedBytes,
    actualBytes: bytes.byteLength,
  });
}

/** Fields of packed row r that hold a row of the matrix: 1 to 4, from the low bits. */
function usedFields(r: number, rows: number, quarter: number): number {
  return Math.floor((rows - 1 - r) / quarter) + 1;
}

/**
 * Throws unless `bytes` has the right length and no used field holds code 3. A field is 3 when its two bits are both
 * set, so `x & (x >> 1)` on the low bit of every field tests sixteen of them at once.
 */
export function checkRowquad(bytes: Uint8Array, rows: number, columns: number, at?: PackedPlace): void {
  checkSize(bytes, rows, columns, at);
  checkRowquadRows(bytes, { rows, columns, packedStart: 0 }, at);
}

/** As `checkRowquad`, for a window that holds whole packed rows from `packedStart` on. */
export function checkRowquadRows(
  bytes: Uint8Array,
  matrix: { readonly rows: number; readonly columns: number; readonly packedStart: number },
  at?: PackedPlace,
): void {
  const { rows, columns, packedStart } = matrix;
  const quarter = Math.ceil(rows / 4);
  const packedRows = columns === 0 ? 0 : Math.floor(bytes.byteLength / columns);
  // Rows with all four fields come first: one scan over them all, then the short rows one by one.
  let full = 0;
  while (full < packedRows && usedFields(packedStart + packedRows - 1 - full, rows, quarter) < 4) full++;
  const fullBytes = (packedRows - full) * columns;
  let bad = findCode3(bytes, 0, fullBytes, 0x55);
  for (let r = packedRows - full; bad < 0 && r < packedRows; r++) {
    const fields = usedFields(packedStart + r, rows, quarter);
    bad = findCode3(bytes, r * columns, (r + 1) * columns, 0x55 & ((1 << (2 * fields)) - 1));
  }
  if (bad < 0) return;
  const byte = bytes[bad]!;
  const packedRow = packedStart + Math.floor(bad / columns);
  const fields = usedFields(packedRow, rows, quarter);
  let field = 0;
  while (field < fields - 1 && ((byte >> (2 * field)) & 3) !== 3) field++;
  throw new TernaryCodeError({
    ...(at === undefined ? {} : { at }),
    layout: 'rowquad',
    byteIndex: packedStart * columns + bad,
    byte,
    row: field * quarter + packedRow,
    column: bad % columns,
  });
}

/** Index of the first byte in [start, end) with a code 3 in a field that `lowBits` selects, or -1. */
function findCode3(bytes: Uint8Array, start: number, end: number, lowBits: number): number {
  let i = start;
  while (i < end && (bytes.byteOffset + i) % 4 !== 0) {
    if ((bytes[i]! & (bytes[i]! >> 1) & lowBits) !== 0) return i;
    i++;
  }
  if (i === end) return -1;
  // Signed, since a word above 2^31 is no small integer to code that is not compiled yet; `wide` has no sign bit.
  const words = new Int32Array(bytes.buffer, bytes.byteOffset + i, Math.floor((end - i) / 4));
  const wide = Math.imul(lowBits, 0x01010101);
  let block = 0;
  while (block + BLOCK_WORDS <= words.length && !hasCode3(words, block, wide)) block += BLOCK_WORDS;
  for (i += 4 * block; i < end; i++) if ((bytes[i]! & (bytes[i]! >> 1) & lowBits) !== 0) return i;
  return -1;
}

/** Words that are tested before anything is decided: a short call is compiled soon, and in one way only. */
const BLOCK_WORDS = 1024;

function hasCode3(words: Int32Array, start: number, wide: number): boolean {
  let found = 0;
  for (let w = start; w < start + BLOCK_WORDS; w += 4) {
    const a = words[w]!;
    const b = words[w + 1]!;
    const c = words[w + 2]!;
    const d = words[w + 3]!;
    found |= (a & (a >> 1)) | (b & (b >> 1)) | (c & (c >> 1)) | (d & (d >> 1));
  }
  return (found & wide) !== 0;
}

/** Trits [rows, columns] of packed bytes; refuses a wrong length and code 3. */
export function unpackRowquad(
  bytes: Uint8Array,
  rows: number,
  columns: number,
  at?: PackedPlace,
): Int8Array<ArrayBuffer> {
  checkRowquad(bytes, rows, columns, at);
  const quarter = Math.ceil(rows / 4);
  const trits = new Int8Array(rows * columns);
  for (let row = 0; row < rows; row++) {
    const shift = 2 * Math.floor(row / quarter);
    let from = (row % quarter) * columns;
    const end = (row + 1) * columns;
    for (let to = row * columns; to < end; to++) trits[to] = ((bytes[from++]! >> shift) & 3) - 1;
  }
  return trits;
}

/**
 * Packs trits [rows, columns] into `out`, rowquadByteLength bytes; unused fields of a short last block are 0, as
 * transformers writes them.
 */
export function packRowquad(
  trits: Int8Array,
  rows: number,
  columns: number,
  out: Uint8Array = new Uint8Array(rowquadByteLength(rows, columns)),
): Uint8Array {
  if (trits.length !== rows * columns) {
    throw new PackedSizeError({
      layout: 'int8 trits',
      shape: [rows, columns],
      expectedBytes: rows * columns,
      actualBytes: trits.length,
    });
  }
  checkSize(out, rows, columns, undefined);
  const quarter = Math.ceil(rows / 4);
  out.fill(0);
  for (let row = 0; row < rows; row++) {
    const shift = 2 * Math.floor(row / quarter);
    let to = (row % quarter) * columns;
    const end = (row + 1) * columns;
    for (let from = row * columns; from < end; from++) out[to++]! |= (trits[from]! + 1) << shift;
  }
  return out;
}
