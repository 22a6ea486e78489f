// Texts as Python's str has them: code points, not UTF-16 units, and its notion of white space, letters and case.

/** One character of str.isspace, as the source of an expression without the u flag. */
export const SPACE = '[\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000]';

const SPACE_CHARACTER = new RegExp(SPACE);
const SPACES_ONLY = new RegExp(`^${SPACE}+$`);
const SURROGATE = /[\ud800-\udfff]/;

export function isSpaceOnly(text: string): boolean {
  return SPACES_ONLY.test(text);
}

function isSpace(character: string): boolean {
  return SPACE_CHARACTER.test(character);
}

/** `characters`: a set; white space when it is not given. */
export function stripStart(text: string, characters?: string): string {
  return strip(text, { start: true, end: false, characters });
}

export function stripEnd(text: string, characters?: string): string {
  return strip(text, { start: false, end: true, characters });
}

export function strip(
  text: string,
  {
    start,
    end,
    characters,
  }: { readonly start: boolean; readonly end: boolean; readonly characters?: string | undefined },
): string {
  const set = characters === undefined ? undefined : new Set(characters);
  const taken = (character: string): boolean => (set === undefined ? isSpace(character) : set.has(character));
  let from = 0;
  let to = text.length;
  while (start && from < to) {
    const character = String.fromCodePoint(text.codePointAt(from)!);
    if (!taken(character)) break;
    from += character.length;
  }
  while (end && from < to) {
    const low = text.charCodeAt(to - 1);
    const isPair = low >= 0xdc00 && low <= 0xdfff && to - from >= 2 && (text.codePointAt(to - 2) ?? 0) > 0xffff;
    const character = text.slice(isPair ? to - 2 : to - 1, to);
    if (!taken(character)) break;
    to -= character.length;
  }
  return text.slice(from, to);
}

/** How many code points. */
export function lengthOf(text: string): number {
  if (!SURROGATE.test(text)) return text.length;
  let count = 0;
  for (const _ of text) count++;
  return count;
}

/** What can be indexed by code point: the text itself when it has no surrogates. */
export function codePoints(text: string): string | readonly string[] {
  return SURROGATE.test(text) ? Array.from(text) : text;
}

/** A position in UTF-16 units as one in code points. */
export function pointIndex(text: string, unitIndex: number): number {
  return unitIndex < 0 ? unitIndex : lengthOf(text.slice(0, unitIndex));
}

/** Order by code point, as Python compares. */
export function compareText(a: string, b: string): number {
  if (a === b) return 0;
  if (!SURROGATE.test(a) && !SURROGATE.test(b)) return a < b ? -1 : 1;
  let i = 0;
  while (i < a.length && i < b.length && a.charCodeAt(i) === b.charCodeAt(i)) i++;
  // Within a pair the first halves may be equal: go back to its beginning.
  const low = (text: string): boolean => text.charCodeAt(i) >= 0xdc00 && text.charCodeAt(i) <= 0xdfff;
  if (i > 0 && (low(a) || low(b)) && /[\ud800-\udbff]/.test(a[i - 1]!)) i--;
  return (a.codePointAt(i) ?? -1) < (b.codePointAt(i) ?? -1) ? -1 : 1;
}

/** A character at the beginning of a titled word: the digraphs have a form of their own. */
function titleCharacter(character: string): string {
  const digraph = /^[\u01c4-\u01cc\u01f1-\u01f3]$/.test(character);
  if (digraph) {
    const code = character.charCodeAt(0);
    return code >= 0x1f1 ? '\u01f2' : String.fromCharCode(code - ((code - 0x1c4) % 3) + 1);
  }
  // Georgian has capitals, but they do not begin words.
  if (/^[\u10d0-\u10ff]$/.test(character)) return character;
  const upper = character.toUpperCase();
  if (lengthOf(upper) === 1) return upper;
  // One letter that becomes several, such as \u00df: only the first is large. Greek with iota below has one letter.
  if (/^[\u1f80-\u1faf\u1fb3\u1fbc\u1fc3\u1fcc\u1ff3\u1ffc]$/.test(character)) {
    const code = character.charCodeAt(0);
    if (code < 0x1fb0) return String.fromCharCode(code | 8);
    return String.fromCharCode(code | 0xf) === character ? character : String.fromCharCode((code & 0xfff0) | 0xc);
  }
  const [first, ...rest] = Array.from(upper);
  return first! + rest.join('').toLowerCase();
}

export function capitalize(text: string): string {
  if (text === '') return '';
  const first = String.fromCodePoint(text.codePointAt(0)!);
  return titleCharacter(first) + lowerAfter(first, text.slice(first.length));
}

/** Lower case in its context: a sigma at the end of a word is another one. */
function lowerAfter(before: string, text: string): string {
  const lower = (before + text).toLowerCase();
  return lower.slice(before.toLowerCase().length);
}

const CASED = /[\p{Uppercase}\p{Lowercase}\p{Lt}]/u;

/** str.title: every run of letters with case begins large. */
export function titleCase(text: string): string {
  let out = '';
  let wasCased = false;
  for (const character of text) {
    out += wasCased ? character.toLowerCase() : titleCharacter(character);
    wasCased = CASED.test(character);
  }
  return out;
}

export function swapCase(text: string): string {
  let out = '';
  for (const c of text)
    out += /\p{Uppercase}/u.test(c) ? c.toLowerCase() : /\p{Lowercase}/u.test(c) ? c.toUpperCase() : c;
  return out;
}

const whole = (pattern: string): RegExp => new RegExp(`^(?:${pattern})+$`, 'u');
const ALPHA = whole('\\p{L}');
const DECIMAL = whole('\\p{Nd}');
const DIGIT = whole('[\\p{Nd}\\u00b2\\u00b3\\u00b9\\u2070-\\u2079\\u2080-\\u2089\\u2460-\\u2468\\u2474-\\u247c]');
const NUMERIC = whole('\\p{N}');
const ALPHANUMERIC = whole('[\\p{L}\\p{N}]');
const UNPRINTABLE = /[\p{C}\p{Z}]/u;

/** str.isalpha and its kin, by name. */
export const PREDICATES: Readonly<Record<string, (text: string) => boolean>> = {
  isalpha: (text) => ALPHA.test(text),
  isdecimal: (text) => DECIMAL.test(text),
  isdigit: (text) => DIGIT.test(text),
  isnumeric: (text) => NUMERIC.test(text),
  isalnum: (text) => ALPHANUMERIC.test(text),
  isspace: isSpaceOnly,
  isascii: (text) => /^[\0-\x7f]*$/.test(text),
  isprintable: (text) => !UNPRINTABLE.test(text.replaceAll(' ', '')),
  isidentifier: (text) => /^[\p{ID_Start}_]\p{ID_Continue}*$/u.test(text),
  islower: isLower,
  isupper: isUpper,
  istitle: (text) => {
    let wasCased = false;
    let any = false;
    for (const character of text) {
      const isLarge = /[\p{Uppercase}\p{Lt}]/u.test(character);
      const isSmall = !isLarge && /\p{Lowercase}/u.test(character);
      if (isLarge ? wasCased : isSmall && !wasCased) return false;
      wasCased = isLarge || isSmall;
      any ||= wasCased;
    }
    return any;
  },
};

export function isLower(text: string): boolean {
  return /\p{Lowercase}/u.test(text) && !/[\p{Uppercase}\p{Lt}]/u.test(text);
}

export function isUpper(text: string): boolean {
  return /\p{Uppercase}/u.test(text) && !/[\p{Lowercase}\p{Lt}]/u.test(text);
}

/** A text as Python writes it in a list. */
export function textRepr(text: string): string {
  const quote = text.includes("'") && !text.includes('"') ? '"' : "'";
  let out = quote;
  for (const character of text) {
    const code = character.codePointAt(0)!;
    if (character === quote || character === '\\') out += `\\${character}`;
    else if (character === '\n') out += '\\n';
    else if (character === '\r') out += '\\r';
    else if (character === '\t') out += '\\t';
    else if (character !== ' ' && UNPRINTABLE.test(character)) {
      const hex = code.toString(16);
      out +=
        code < 0x100
          ? `\\x${hex.padStart(2, '0')}`
          : code < 0x10000
            ? `\\u${hex.padStart(4, '0')}`
            : `\\U${hex.padStart(8, '0')}`;
    } else out += character;
  }
  return out + quote;
}

// biome-ignore lint/suspicious/noControlCharactersInRegex: Python ends lines at them
const LINE_END = /\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]/g;

export function splitLines(text: string, keepEnds: boolean): string[] {
  const lines: string[] = [];
  let from = 0;
  for (const end of text.matchAll(LINE_END)) {
    const to = end.index + end[0].length;
    lines.push(text.slice(from, keepEnds ? to : end.index));
    from = to;
  }
  if (from < text.length) lines.push(text.slice(from));
  return lines;
}

/** str.split and str.rsplit; `limit` below 0: no limit. */
export function splitText(text: string, separator: string | undefined, limit: number, fromEnd: boolean): string[] {
  if (separator === undefined) return splitAtSpace(text, limit, fromEnd);
  const parts: string[] = [];
  if (!fromEnd) {
    let from = 0;
    while (limit < 0 || parts.length < limit) {
      const at = text.indexOf(separator, from);
      if (at < 0) break;
      parts.push(text.slice(from, at));
      from = at + separator.length;
    }
    parts.push(text.slice(from));
    return parts;
  }
  let to = text.length;
  while (limit < 0 || parts.length < limit) {
    const at = to < separator.length ? -1 : text.lastIndexOf(separator, to - separator.length);
    if (at < 0) break;
    parts.push(text.slice(at + separator.length, to));
    to = at;
  }
  parts.push(text.slice(0, to));
  return parts.reverse();
}

const WORD = new RegExp(`${SPACE.replace('[', '[^')}+`, 'g');

/** With a limit, what remains keeps its white space at the far end. */
function splitAtSpace(text: string, limit: number, fromEnd: boolean): string[] {
  const words = [...text.matchAll(WORD)];
  if (limit < 0 || words.length <= limit) return words.map((word) => word[0]);
  if (!fromEnd) return [...words.slice(0, limit).map((word) => word[0]), text.slice(words[limit]!.index)];
  const last = words[words.length - limit - 1]!;
  return [text.slice(0, last.index + last[0].length), ...words.slice(words.length - limit).map((word) => word[0])];
}
