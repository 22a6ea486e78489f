// The byte-level alphabet of GPT-2: every byte is written as one visible character, so that a vocabulary is plain text.
// Bytes 21..7E, A1..AC and AE..FF stand for the code point of the same value; the other 68, in increasing order, for
// U+0100, U+0101 and so on. Space (20) is therefore U+0120 "Ġ" and newline (0A) U+010A "Ċ".

const CHARACTERS: readonly string[] = buildAlphabet();
const BYTES: ReadonlyMap<string, number> = new Map(CHARACTERS.map((character, byte) => [character, byte]));
const utf8 = new TextEncoder();

function buildAlphabet(): string[] {
  const characters: string[] = [];
  let next = 0x100;
  for (let byte = 0; byte < 256; byte++) {
    const visible = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
    characters.push(String.fromCharCode(visible ? byte : next++));
  }
  return characters;
}

/** The character that stands for a byte. */
export function byteCharacter(byte: number): string {
  return CHARACTERS[byte]!;
}

/** Text to its UTF-8 bytes, written in the alphabet. */
export function toByteAlphabet(text: string): string {
  let out = '';
  for (const byte of utf8.encode(text)) out += CHARACTERS[byte]!;
  return out;
}

/** A token's bytes. A token with any character outside the alphabet stands for itself, as the reference decoder has it. */
export function fromByteAlphabet(token: string): Uint8Array {
  const bytes: number[] = [];
  for (const character of token) {
    const byte = BYTES.get(character);
    if (byte === undefined) return utf8.encode(token);
    bytes.push(byte);
  }
  return Uint8Array.from(bytes);
}
