// Sets of characters that expressions and stages ask about again and again: what was found out of a code point is kept.

const UNKNOWN = 0;
const OUT = 1;
const IN = 2;
/** Pages that a set keeps, 256 bytes each: a text may well have some of every script, and a file a thousand sets. */
const MAX_PAGES = 64;

export class CharacterSet {
  readonly #test: (codePoint: number) => boolean;
  /** Answers for 256 code points each. */
  readonly #pages: Uint8Array[] = [];
  #left = MAX_PAGES;

  constructor(test: (codePoint: number) => boolean) {
    this.#test = test;
  }

  has(codePoint: number): boolean {
    let page = this.#pages[codePoint >> 8];
    if (page === undefined) {
      if (this.#left === 0) return this.#test(codePoint);
      this.#left--;
      page = this.#pages[codePoint >> 8] = new Uint8Array(256);
    }
    const known = page[codePoint & 0xff]!;
    if (known !== UNKNOWN) return known === IN;
    const answer = this.#test(codePoint);
    page[codePoint & 0xff] = answer ? IN : OUT;
    return answer;
  }
}

/** The set of a JavaScript expression for one character; the expression is made at the first question. */
export function setOf(source: string): CharacterSet {
  let regex: RegExp | undefined;
  return new CharacterSet((codePoint) => {
    regex ??= new RegExp(`^${source}$`, 'u');
    return regex.test(String.fromCodePoint(codePoint));
  });
}

/** Unicode's White_Space, as Rust and Oniguruma have it; JavaScript's \s differs in U+0085 and U+FEFF. */
export const WHITE_SPACE = setOf('\\p{White_Space}');
/** N*: digits, letters that are numbers, fractions. */
export const NUMERIC = setOf('\\p{N}');
/** P*, and all signs of ASCII. */
export const PUNCTUATION = setOf('[\\p{P}!-/:-@\\[-`{-~]');
/** Rust's \w. */
export const WORD = setOf('[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\p{Join_Control}]');
