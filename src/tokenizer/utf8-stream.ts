// UTF-8 to text, a few bytes at a time. Our own and not TextDecoder, because a streamed and a one-shot decode must agree
// to the character whatever the bytes are, and because sentencepiece counts replacement characters differently.

/**
 * How broken bytes are shown. `sequence`: one U+FFFD for each maximal broken sequence (Unicode 3.9, Rust, the web);
 * `byte`: one for each byte (sentencepiece).
 */
export type Replacement = 'sequence' | 'byte';

export class Utf8Stream {
  readonly #replacement: Replacement;
  /** Bytes of the character that is not complete yet: at most 3. */
  #held: number[] = [];

  constructor(replacement: Replacement) {
    this.#replacement = replacement;
  }

  /** Takes bytes (unmodified) and returns the text that became certain. */
  push(bytes: ArrayLike<number>): string {
    let text = '';
    for (let i = 0; i < bytes.length; i++) text += this.#take(bytes[i]!);
    return text;
  }

  /** Returns what is left, as replacement characters. */
  end(): string {
    const left = this.#held.length;
    this.#held = [];
    if (left === 0) return '';
    return this.#replacement === 'byte' ? '\u{fffd}'.repeat(left) : '\u{fffd}';
  }

  #take(byte: number): string {
    const held = this.#held;
    if (held.length === 0) {
      if (byte < 0x80) return String.fromCharCode(byte);
      if (byte < 0xc2 || byte > 0xf4) return '\u{fffd}';
      held.push(byte);
      return '';
    }
    if (!canFollow(held, byte)) return this.end() + this.#take(byte);
    held.push(byte);
    if (held.length < lengthOf(held[0]!)) return '';
    const text = String.fromCodePoint(codePoint(held));
    this.#held = [];
    return text;
  }
}

/** The bytes as text if all of them are well formed UTF-8, else undefined. */
export function strictUtf8(bytes: ArrayLike<number>): string | undefined {
  const stream = new Utf8Stream('sequence');
  const text = stream.push(bytes) + stream.end();
  if (!text.includes('\u{fffd}')) return text;
  // U+FFFD may have been in the bytes themselves; only then do they encode back to what they were.
  const back = new TextEncoder().encode(text);
  if (back.length !== bytes.length) return undefined;
  for (let i = 0; i < back.length; i++) if (back[i] !== bytes[i]) return undefined;
  return text;
}

function lengthOf(lead: number): number {
  return lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
}

/** Second bytes have narrower ranges after E0, ED, F0 and F4: no overlong forms, no surrogates, nothing above U+10FFFF. */
function canFollow(held: readonly number[], byte: number): boolean {
  const lead = held[0]!;
  let low = 0x80;
  let high = 0xbf;
  if (held.length === 1) {
    if (lead === 0xe0) low = 0xa0;
    else if (lead === 0xed) high = 0x9f;
    else if (lead === 0xf0) low = 0x90;
    else if (lead === 0xf4) high = 0x8f;
  }
  return byte >= low && byte <= high;
}

function codePoint(bytes: readonly number[]): number {
  const [a, b, c, d] = bytes as [number, number, number, number];
  if (bytes.length === 2) return ((a & 0x1f) << 6) | (b & 0x3f);
  if (bytes.length === 3) return ((a & 0x0f) << 12) | ((b & 0x3f) << 6) | (c & 0x3f);
  return ((a & 0x07) << 18) | ((b & 0x3f) << 12) | ((c & 0x3f) << 6) | (d & 0x3f);
}
