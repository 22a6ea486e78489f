// Inputs from inputs. Some changes know bytes, some numbers of headers, some the words of texts; no one is for one format.

/** A generator of whole numbers below `n`: xorshift32, the same everywhere. */
export function randomFrom(seed) {
  // One that is never zero, and far from that of the next seed.
  let state = Math.imul((seed >>> 0) + 0x9e3779b9, 0x85ebca6b) | 1;
  return (n) => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return Math.floor(((state >>> 0) / 2 ** 32) * n);
  };
}

const USUAL_BYTES = 16_384;
/** One input in `SELDOM` may be as long as this: what takes long on long inputs shows. */
const LARGE_BYTES = 262_144;
const SELDOM = 200;

const BYTES = [0, 1, 2, 4, 8, 0x20, 0x22, 0x2c, 0x5b, 0x5d, 0x7b, 0x7d, 0x7f, 0x80, 0xc0, 0xe2, 0xf0, 0xff];
const NUMBERS = [
  0n,
  1n,
  2n,
  127n,
  255n,
  256n,
  32767n,
  65535n,
  1n << 24n,
  (1n << 31n) - 1n,
  1n << 31n,
  (1n << 32n) - 1n,
].concat([1n << 32n, (1n << 53n) - 1n, 1n << 53n, (1n << 63n) - 1n, 1n << 63n, (1n << 64n) - 1n]);
const TEXT_NUMBERS = [
  '0',
  '1',
  '-1',
  '2',
  '1.5',
  '-0',
  '1e400',
  '-1e-400',
  '255',
  '4294967296',
  '9007199254740993',
].concat(['99999999999999999999', '1e308', '0x10', '00', 'NaN', 'Infinity']);
const VALUES = ['null', 'true', 'false', '0', '-1', '1e400', '""', '"a"', '[]', '{}', '[[]]', '[null]', '{"a":1}'];
/** A word, a number, or one character: what texts of all formats are made of. */
const PIECES = /[A-Za-z_]+|\d+|\s+|[\s\S]/gu;

export class Mutator {
  #words;
  #bytes;
  #numbers;
  #next;

  /** `words` and whole `numbers`: those that the reader itself knows. */
  constructor({ words, numbers }, next) {
    this.#words = words.map((word) => Buffer.from(word));
    this.#bytes = [...BYTES, ...numbers.filter((number) => number < 256)];
    this.#numbers = [...NUMBERS, ...numbers.map(BigInt)];
    this.#next = next;
  }

  /** Another input near `input`; `other` may lend parts. */
  mutated(input, other) {
    let bytes = input;
    for (let changes = 1 + this.#next(this.#next(4) === 0 ? 12 : 3); changes > 0; changes--)
      bytes = this.#change(bytes, other);
    const limit = this.#next(SELDOM) === 0 ? LARGE_BYTES : USUAL_BYTES;
    return bytes.length > limit ? bytes.subarray(0, limit) : bytes;
  }

  #change(bytes, other) {
    const next = this.#next;
    const at = next(bytes.length + 1);
    const to = Math.min(bytes.length, at + 1 + next(next(4) === 0 ? bytes.length + 1 : 16));
    const out = Buffer.from(bytes);
    switch (next(17)) {
      case 0:
        if (at < out.length) out[at] ^= 1 << next(8);
        return out;
      case 1:
        if (at < out.length) out[at] = next(256);
        return out;
      case 2:
        if (at < out.length) out[at] = this.#bytes[next(this.#bytes.length)];
        return out;
      case 3:
        if (at < out.length) out[at] += next(2) === 0 ? 1 : 255;
        return out;
      case 4:
        return spliced(bytes, at, to, []);
      case 5:
        return spliced(bytes, at, at, Buffer.from([this.#bytes[next(this.#bytes.length)]]));
      case 6:
        return spliced(bytes, at, at, bytes.subarray(at, to));
      case 7: {
        const from = next(other.length + 1);
        return spliced(bytes, at, next(2) === 0 ? at : to, other.subarray(from, from + 1 + next(64)));
      }
      case 8:
        return Buffer.concat([bytes.subarray(0, at), other.subarray(next(other.length + 1))]);
      case 9:
      case 10: {
        if (this.#words.length === 0) return out;
        const word = this.#words[next(this.#words.length)];
        return spliced(bytes, at, next(2) === 0 ? at : at + word.length, word);
      }
      case 11: {
        const size = [1, 2, 4, 8][next(4)];
        if (at + size > out.length) return out;
        const value = this.#numbers[next(this.#numbers.length)] + (next(4) === 0 ? BigInt(out.length) : 0n);
        for (let i = 0; i < size; i++) out[at + i] = Number((value >> BigInt(8 * i)) & 255n);
        return out;
      }
      case 12:
        return this.#inText(
          bytes,
          (piece) => /\d/.test(piece),
          () => TEXT_NUMBERS[next(TEXT_NUMBERS.length)],
        );
      case 13:
        return this.#inText(
          bytes,
          (piece) => /[A-Za-z_]/.test(piece),
          () => `${this.#words[next(this.#words.length)] ?? ''}`,
        );
      case 14:
        return this.#inValue(bytes);
      case 15: {
        // A stretch many times over: nesting, long lists, long runs.
        const part = bytes.subarray(at, to);
        const times = part.length === 0 ? 0 : next(next(8) === 0 ? 5000 : 40);
        return spliced(bytes, at, at, Buffer.alloc(Math.min(part.length * times, LARGE_BYTES), part));
      }
      default: {
        // Two stretches change places.
        const [a, b, c] = [at, to, Math.min(bytes.length, to + 1 + next(32))];
        return Buffer.concat([bytes.subarray(0, a), bytes.subarray(b, c), bytes.subarray(a, b), bytes.subarray(c)]);
      }
    }
  }

  #inText(bytes, wanted, make) {
    const pieces = Buffer.from(bytes).toString('latin1').match(PIECES) ?? [];
    const places = [];
    for (let i = 0; i < pieces.length; i++) if (wanted(pieces[i])) places.push(i);
    if (places.length === 0) return bytes;
    pieces[places[this.#next(places.length)]] = make();
    return Buffer.from(pieces.join(''), 'latin1');
  }

  /** In JSON's place of a value another value: a usual one, or a stretch in brackets from elsewhere in the same text. */
  #inValue(bytes) {
    const next = this.#next;
    const text = Buffer.from(bytes).toString('latin1');
    const starts = [];
    for (const { index, 0: mark } of text.matchAll(/[:[,]\s*(?=["\d[{tfn-])/g)) starts.push(index + mark.length);
    if (starts.length === 0) return bytes;
    const at = starts[next(starts.length)];
    const from = starts[next(starts.length)];
    const value = next(3) === 0 ? text.slice(from, valueEnd(text, from)) : VALUES[next(VALUES.length)];
    return Buffer.from(text.slice(0, at) + value + text.slice(valueEnd(text, at)), 'latin1');
  }
}

/** Where the JSON value that begins at `at` ends; the end of the text when it does not. */
function valueEnd(text, at) {
  let depth = 0;
  for (let i = at; i < text.length; i++) {
    const mark = text[i];
    if (mark === '"') {
      for (i++; i < text.length && text[i] !== '"'; i++) if (text[i] === '\\') i++;
    } else if (mark === '[' || mark === '{') depth++;
    else if (mark === ']' || mark === '}') depth--;
    else if (mark === ',' && depth === 0) return i;
    if (depth < 0) return i;
    if (depth === 0 && /["\]}]/.test(text[i] ?? '')) return i + 1;
  }
  return text.length;
}

function spliced(bytes, from, to, part) {
  return Buffer.concat([bytes.subarray(0, from), Buffer.from(part), bytes.subarray(to)]);
}
