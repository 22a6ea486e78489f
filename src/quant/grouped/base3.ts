// Digits of the bytes that TQ1_0 and PTQ1_0 hold five trits in: v = d0*81 + d1*27 + d2*9 + d3*3 + d4 (0 .. 242), stored as
// ceil(256 v / 243). The byte is a fraction of 256, so digit n is ((byte * 3^n mod 256) * 3) div 256.
//
//     digits 0 2 1 0 2  ->  v = 65  ->  0x45
//
// 243 of the 256 bytes are written; the rule reads the other 13 too.

/** Digits 0 .. 3 of every byte in bytes 0 .. 3 of a word, and digit 4: 0x45 is 0x00010200 and 2. */
export type Base3Digits = { readonly four: Int32Array; readonly fifth: Uint8Array };

let digits: Base3Digits | undefined;

export function base3Digits(): Base3Digits {
  if (digits === undefined) {
    const four = new Int32Array(256);
    const fifth = new Uint8Array(256);
    for (let byte = 0; byte < 256; byte++) {
      const digit = (power: number) => (((byte * power) & 255) * 3) >> 8;
      four[byte] = digit(1) | (digit(3) << 8) | (digit(9) << 16) | (digit(27) << 24);
      fifth[byte] = digit(81);
    }
    digits = { four, fifth };
  }
  return digits;
}

/** The byte of v. */
export function base3Byte(v: number): number {
  return Math.floor((256 * v + 242) / 243);
}

/** The bytes that no writer makes: 1 for each. */
export function neverWritten(): Uint8Array {
  const never = new Uint8Array(256).fill(1);
  for (let v = 0; v < 243; v++) never[base3Byte(v)] = 0;
  return never;
}
