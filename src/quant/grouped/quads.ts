// Codes of weights four to a byte, the one form that every grouped layout is read into and written from: elements of a
// row in order, lowest bits first, so four neighbours share a byte. Q2_0 and MLX's two-bit packs hold just that.
//
//     bit   7   6   5   4   3   2   1   0
//         +-------+-------+-------+-------+     code 00 = -1   01 = 0   10 = +1   11 = +2 (times the scale)
//         | 4k+3  | 4k+2  | 4k+1  |  4k   |
//         +-------+-------+-------+-------+     codes (0, 1, 2, 3)  ->  11 10 01 00  =  0xe4
//
// A row takes whole bytes; what its last one has over holds code 1, a zero.

/** Bytes of a row. */
export function quadRowBytes(columns: number): number {
  return Math.ceil(columns / 4);
}

/** Codes [rows, columns], one a byte, as quads (rows * quadRowBytes(columns)). */
export function packQuads(codes: Uint8Array, rows: number, columns: number): Uint8Array<ArrayBuffer> {
  const rowBytes = quadRowBytes(columns);
  const quads = new Uint8Array(rows * rowBytes);
  for (let row = 0, from = 0; row < rows; row++) {
    for (let k = 0, to = row * rowBytes; k < columns; k += 4, to++, from += 4) {
      const left = columns - k;
      const second = left > 1 ? codes[from + 1]! : 1;
      const third = left > 2 ? codes[from + 2]! : 1;
      const fourth = left > 3 ? codes[from + 3]! : 1;
      quads[to] = codes[from]! | (second << 2) | (third << 4) | (fourth << 6);
    }
    from = (row + 1) * columns;
  }
  return quads;
}

/** The codes of quads, one a byte: (rows * columns). */
export function unpackQuads(quads: Uint8Array, rows: number, columns: number): Uint8Array<ArrayBuffer> {
  const codes = new Uint8Array(rows * columns);
  const rowBytes = quadRowBytes(columns);
  for (let row = 0, to = 0; row < rows; row++) {
    for (let k = 0, from = row * rowBytes; k < columns; k += 4, from++) {
      const byte = quads[from]!;
      for (let i = 0; i < 4 && k + i < columns; i++) codes[to++] = (byte >> (2 * i)) & 3;
    }
  }
  return codes;
}

/**
 * Four bytes of four codes as a square, turned over its diagonal: code i of byte s becomes code s of byte i.
 * 0x000000e4 (byte 0 = codes 0, 1, 2, 3) becomes 0x03020100.
 */
export function transposeQuads(word: number): number {
  let w = word;
  let swap = (w ^ (w >>> 6)) & 0x00cc00cc;
  w ^= swap ^ (swap << 6);
  swap = (w ^ (w >>> 12)) & 0x0000f0f0;
  return w ^ swap ^ (swap << 12);
}
