// Regular expressions of tokenizer files, which are written for Oniguruma, as JavaScript ones with the same matches.

/** JavaScript's \s also has U+FEFF and lacks U+0085; Unicode's White_Space is what the reference means. */
const CLASS_ESCAPES: Readonly<Record<string, string>> = {
  s: '\\p{White_Space}',
  S: '\\P{White_Space}',
  d: '\\p{Nd}',
  D: '\\P{Nd}',
};
const SAME_ESCAPES = new Set([...'nrtfv0', ...'^$\\.*+?()[]{}|/']);
/** A pattern longer than this is refused. GPT-4o's, the longest in use, has 280 characters. */
const MAX_PATTERN_LENGTH = 4096;

/** What is ASCII in the properties that patterns use, for a class: JavaScript takes 2 ms to put the whole sets together. */
const ASCII_PROPERTIES: ReadonlyMap<string, string> = new Map([
  ['L', 'A-Za-z'],
  ['N', '0-9'],
  ['Nd', '0-9'],
  ['White_Space', '\\t-\\r '],
]);
const ASCII_ONLY = /^[\0-\x7f]*$/;

/** The expression to split a text with. */
export type RegexFor = (text: string) => RegExp;

/**
 * Translates the part of the syntax that the split patterns of byte-level BPE use: alternatives, groups, look-ahead,
 * (?i:…) of ASCII letters, classes, properties, greedy and lazy quantifiers. Returns undefined for anything else. A text
 * of ASCII alone gets an expression that knows only ASCII, with the same matches.
 */
export function translateRegex(source: string): RegexFor | undefined {
  if (source.length > MAX_PATTERN_LENGTH) return undefined;
  const translated = new Translation(source).run();
  if (translated === undefined) return undefined;
  const { whole, ascii } = translated;
  if (ascii === null) {
    const regex = compile(whole);
    return regex === undefined ? undefined : () => regex;
  }
  // With the same structure and known properties, the other compiles when this one does.
  const narrow = compile(ascii);
  if (narrow === undefined) return undefined;
  let wide: RegExp | undefined;
  return (text) => {
    if (ASCII_ONLY.test(text)) return narrow;
    wide ??= new RegExp(whole, 'gu');
    return wide;
  };
}

function compile(translated: string): RegExp | undefined {
  try {
    return new RegExp(translated, 'gu');
  } catch {
    // A property or construct that JavaScript does not know.
    return undefined;
  }
}

class Translation {
  readonly #source: string;
  #at = 0;
  #whole = '';
  /** The same for texts of ASCII; null once something has come that is not known there. */
  #ascii: string | null = '';
  /** One entry for each open group: whether letters in it match either case. */
  readonly #ignoreCase: boolean[] = [false];

  constructor(source: string) {
    this.#source = source;
  }

  run(): { readonly whole: string; readonly ascii: string | null } | undefined {
    while (this.#at < this.#source.length) if (!this.#step()) return undefined;
    return this.#ignoreCase.length === 1 ? { whole: this.#whole, ascii: this.#ascii } : undefined;
  }

  #step(): boolean {
    const rest = this.#source.slice(this.#at);
    const group = rest[0] === '(' ? /^\((?:\?(?:i:|:|=|!))?/.exec(rest) : null;
    if (group !== null) {
      if (rest.startsWith('(?') && group[0] === '(') return false;
      const inherited = this.#ignoreCase.at(-1)!;
      this.#ignoreCase.push(inherited || group[0] === '(?i:');
      return this.#emit(group[0].length, group[0] === '(?i:' || group[0] === '(' ? '(?:' : group[0]);
    }
    if (rest[0] === ')') {
      this.#ignoreCase.pop();
      return this.#ignoreCase.length > 0 && this.#emit(1, ')');
    }
    const quantifier = !'*+?{'.includes(rest[0]!) ? null : /^(?:[*+?]|\{\d+(?:,\d*)?\})([?+]?)/.exec(rest);
    // A second + makes a quantifier possessive, which JavaScript lacks.
    if (quantifier !== null) return quantifier[1] !== '+' && this.#emit(quantifier[0].length, quantifier[0]);
    if (rest[0] === '[') return this.#class(rest);
    const ignoreCase = this.#ignoreCase.at(-1)!;
    const escaped = readEscape(rest);
    // Folding of properties and of letters beyond ASCII is left to the library.
    if (escaped !== undefined)
      return (
        !(ignoreCase && /[pP]/.test(escaped.text)) && this.#emit(escaped.length, escaped.text, asciiOf(escaped.text))
      );
    if ('\\]{}^$'.includes(rest[0]!)) return false;
    // JavaScript's dot leaves out more line ends.
    if (rest[0] === '.') return this.#emit(1, '[^\\n]');
    const character = String.fromCodePoint(rest.codePointAt(0)!);
    if (!ignoreCase) return this.#emit(character.length, character);
    return character <= '\x7f' && this.#emit(1, eitherCase(character));
  }

  #class(rest: string): boolean {
    // Letters in a class under (?i:…) would need folding of ranges; no pattern in use has that.
    if (this.#ignoreCase.at(-1)!) return false;
    let out = '[';
    let ascii: string | null = '[';
    let before = '';
    let at = 1;
    if (rest[at] === '^') {
      out += '^';
      ascii += '^';
      at++;
    }
    const first = at;
    for (;;) {
      const inside = rest.slice(at);
      if (inside === '' || inside[0] === '[' || inside.startsWith('&&')) return false;
      if (inside[0] === ']') return at > first && this.#emit(at + 1, `${out}]`, ascii === null ? null : `${ascii}]`);
      const escaped = inside.startsWith('\\-') ? { text: '\\-', length: 2 } : readEscape(inside);
      if (escaped === undefined && inside[0] === '\\') return false;
      const piece = escaped ?? plainInClass(inside);
      out += piece.text;
      const narrow = asciiOf(piece.text, { inClass: true });
      // Beside a property a hyphen is no range, or an error.
      const isRange = (piece.text === '-' && isProperty(before)) || (before === '-' && isProperty(piece.text));
      ascii = ascii === null || narrow === null || isRange ? null : ascii + narrow;
      before = piece.text;
      at += piece.length;
    }
  }

  #emit(length: number, text: string, ascii: string | null = text): true {
    this.#at += length;
    this.#whole += text;
    this.#ascii = ascii === null || this.#ascii === null ? null : this.#ascii + ascii;
    return true;
  }
}

const isProperty = (text: string): boolean => /^\\[pP]/.test(text);

/** A property as the ASCII characters in it, anything else as it is; null where that is not known. */
function asciiOf(text: string, { inClass = false } = {}): string | null {
  if (!isProperty(text)) return text;
  const set = ASCII_PROPERTIES.get(text.slice(3, -1));
  if (set === undefined) return null;
  if (text[1] === 'p') return inClass ? set : `[${set}]`;
  return inClass ? null : `[^${set}]`;
}

function readEscape(rest: string): { readonly text: string; readonly length: number } | undefined {
  if (rest[0] !== '\\') return undefined;
  const letter = rest[1] ?? '';
  if (letter === 'p' || letter === 'P') {
    const property = /^\\[pP]\{[A-Za-z_]+\}/.exec(rest)?.[0];
    return property === undefined ? undefined : { text: property, length: property.length };
  }
  const known = CLASS_ESCAPES[letter];
  if (known !== undefined) return { text: known, length: 2 };
  return SAME_ESCAPES.has(letter) ? { text: rest.slice(0, 2), length: 2 } : undefined;
}

/** A character of a class; those that only JavaScript's u flag wants escaped are. */
function plainInClass(inside: string): { readonly text: string; readonly length: number } {
  const character = String.fromCodePoint(inside.codePointAt(0)!);
  return { text: '^$.*+?(){}|/'.includes(character) ? `\\${character}` : character, length: character.length };
}

/** With the long s and the sign of the kelvin, which are s and k to whoever ignores case. */
function eitherCase(character: string): string {
  if (!/[A-Za-z]/.test(character)) return character;
  const [lower, upper] = [character.toLowerCase(), character.toUpperCase()];
  return `[${lower}${upper}${lower === 's' ? '\u017f' : lower === 'k' ? '\u212a' : ''}]`;
}
