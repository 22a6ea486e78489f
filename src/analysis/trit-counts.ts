// How many weights of a ternary matrix are -1, 0 and +1, from unpacked trits or straight from packed bytes, whole or
// in windows: counts of windows add up to the counts of the matrix.

import { ArgumentError } from '../errors.ts';
import type { PackedPlace } from '../quant/errors.ts';
import { checkRowquadRows } from '../quant/rowquad.ts';

export type TritCounts = { readonly minus: number; readonly ergodic: number; readonly plus: number };

export const NO_TRITS: TritCounts = { minus: 0, ergodic: 0, plus: 0 };

export function addTritCounts(a: TritCounts, b: TritCounts): TritCounts {
  return { minus: a.minus + b.minus, ergodic: a.ergodic + b.ergodic, plus: a.plus + b.plus };
}

/** Counts of trits (N,) int8, unmodified. Throws ArgumentError if a value is no trit. */
export function countTrits(trits: Int8Array): TritCounts {
  let sum = 0;
  let nonzero = 0;
  let bad = 0;
  for (let i = 0; i < trits.length; i++) {
    const trit = trits[i]!;
    const code = trit + 1;
    sum += trit;
    nonzero += trit & 1;
    bad |= (code & ~3) | (code & (code >> 1));
  }
  if (bad !== 0) {
    const index = trits.findIndex((trit) => trit < -1 || trit > 1);
    throw new ArgumentError({
      what: `element ${index} is ${trits[index]}, which is no trit`,
      fix: 'pass only -1, 0 and 1 (quantize or unpack the weights first)',
    });
  }
  const plus = (nonzero + sum) / 2;
  return { minus: nonzero - plus, ergodic: trits.length - nonzero, plus };
}

// Packed trits are counted sixteen at a time, in a 32-bit word of two-bit fields. The low bits of the fields are the
// zeros, the high bits the plus ones, both at once the invalid code 3; the rest of the fields are the minus ones. Fields
// are summed side by side inside a word for as long as none overflows (three words in two bits, six in four, sixty in
// eight), which is several times faster than a table of bytes.

const WORDS_PER_GROUP = 6;
const WORDS_PER_BLOCK = 60;

/** Two-bit fields (at most 3 each) summed in pairs. */
function toNibbles(x: number): number {
  return (x & 0x33333333) + ((x >>> 2) & 0x33333333);
}

/** Four-bit fields (at most 15 each) summed in pairs. */
function toBytes(x: number): number {
  return (x & 0x0f0f0f0f) + ((x >>> 4) & 0x0f0f0f0f);
}

/** The sum of the four bytes of a word. */
function sumOfBytes(x: number): number {
  const halves = (x & 0x00ff00ff) + ((x >>> 8) & 0x00ff00ff);
  return (halves & 0xffff) + (halves >>> 16);
}

type Tally = { ergodic: number; plus: number; invalid: number };

/** Adds the fields of `words` that the low bits in `fields` select to the tally. */
function tallyWords(words: Uint32Array, fields: number, tally: Tally): void {
  let invalid = 0;
  let w = 0;
  while (w + WORDS_PER_GROUP <= words.length) {
    const blockEnd = Math.min(words.length, w + WORDS_PER_BLOCK) - WORDS_PER_GROUP;
    let ergodic = 0;
    let plus = 0;
    for (; w <= blockEnd; w += WORDS_PER_GROUP) {
      const a = words[w]!;
      const b = words[w + 1]!;
      const c = words[w + 2]!;
      const d = words[w + 3]!;
      const e = words[w + 4]!;
      const f = words[w + 5]!;
      invalid |=
        (a & (a >>> 1)) | (b & (b >>> 1)) | (c & (c >>> 1)) | (d & (d >>> 1)) | (e & (e >>> 1)) | (f & (f >>> 1));
      const low3 = (a & fields) + (b & fields) + (c & fields);
      const low6 = (d & fields) + (e & fields) + (f & fields);
      ergodic += toBytes(toNibbles(low3) + toNibbles(low6));
      const high3 = ((a >>> 1) & fields) + ((b >>> 1) & fields) + ((c >>> 1) & fields);
      const high6 = ((d >>> 1) & fields) + ((e >>> 1) & fields) + ((f >>> 1) & fields);
      plus += toBytes(toNibbles(high3) + toNibbles(high6));
    }
    tally.ergodic += sumOfBytes(ergodic);
    tally.plus += sumOfBytes(plus);
  }
  for (; w < words.length; w++) {
    const word = words[w]!;
    invalid |= word & (word >>> 1);
    tally.ergodic += sumOfBytes(toBytes(toNibbles(word & fields)));
    tally.plus += sumOfBytes(toBytes(toNibbles((word >>> 1) & fields)));
  }
  tally.invalid |= invalid & fields;
}

/** As `tallyWords`, for bytes at any address; `fields` selects in each byte. */
function tallyBytes(bytes: Uint8Array, fields: number, tally: Tally): void {
  const head = Math.min(bytes.length, -bytes.byteOffset & 3);
  const wordCount = (bytes.length - head) >>> 2;
  if (wordCount > 0) {
    const words = new Uint32Array(bytes.buffer, bytes.byteOffset + head, wordCount);
    tallyWords(words, Math.imul(fields, 0x01010101), tally);
  }
  tallyWords(Uint32Array.from(bytes.subarray(0, head)), fields, tally);
  tallyWords(Uint32Array.from(bytes.subarray(head + 4 * wordCount)), fields, tally);
}

/**
 * Counts of rowquad bytes, unmodified: whole packed rows of a matrix [rows, columns] from packed row `packedStart` on
 * (default 0), up to its end or less. Fields past the last row of the matrix are not counted.
 * Throws TernaryCodeError for code 3 (naming `at`), ArgumentError for bytes that are no whole packed rows of the matrix.
 */
export function countRowquad(
  bytes: Uint8Array,
  {
    rows,
    columns,
    packedStart = 0,
    at,
  }: { readonly rows: number; readonly columns: number; readonly packedStart?: number; readonly at?: PackedPlace },
): TritCounts {
  const quarter = Math.ceil(rows / 4);
  const packedRows = columns === 0 ? 0 : bytes.length / columns;
  if (!Number.isInteger(packedRows) || packedStart + packedRows > quarter) {
    throw new ArgumentError({
      what: `${bytes.length} bytes from packed row ${packedStart} do not fit rowquad [${quarter}, ${columns}]`,
      fix: 'pass whole packed rows that lie inside the matrix',
    });
  }
  const tally: Tally = { ergodic: 0, plus: 0, invalid: 0 };
  let used = 0;
  for (let fields = 4; fields >= 1; fields--) {
    // Packed row r uses its field f when r + f * quarter < rows; rows first .. end - 1 use exactly `fields` of them.
    const first = fields === 4 ? 0 : Math.max(0, rows - fields * quarter);
    const end = Math.min(quarter, Math.max(0, rows - (fields - 1) * quarter));
    const from = Math.max(first, packedStart) - packedStart;
    const to = Math.min(end, packedStart + packedRows) - packedStart;
    if (from >= to) continue;
    used += (to - from) * columns * fields;
    tallyBytes(bytes.subarray(from * columns, to * columns), 0x55 & ((1 << (2 * fields)) - 1), tally);
  }
  // Only now is the place of the invalid code of interest.
  if (tally.invalid !== 0) checkRowquadRows(bytes, { rows, columns, packedStart }, at);
  return { minus: used - tally.ergodic - tally.plus, ergodic: tally.ergodic, plus: tally.plus };
}
