// A reply as it comes, on a terminal: broken between words at the terminal's width, and without what would move the cursor
// or change the terminal. A word is held back until the next begins, since it may still grow.

import { visible } from './visible.ts';

/** What moves the cursor or speaks to the terminal; line breaks and tabs are text. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: they are what must not reach the terminal
const CONTROL = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f]/g;

/** Characters that take two cells: East Asian wide ones and most pictures. */
const WIDE =
  /[\u1100-\u115f\u2e80-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\uffe0-\uffe6]|[\u{1f300}-\u{1faff}\u{20000}-\u{3fffd}]/u;

/** Control characters as escapes; line breaks of any kind as one. */
export function harmless(text: string): string {
  return text.replaceAll('\r\n', '\n').replace(CONTROL, (character) => visible(character));
}

function cells(text: string): number {
  let sum = 0;
  for (const character of text) sum += WIDE.test(character) ? 2 : 1;
  return sum;
}

/** Narrower than this, words are left to the terminal. */
const NARROWEST = 8;

export class Flow {
  readonly #write: (text: string) => void;
  readonly #width: () => number;
  #column = 0;
  #word = '';
  #space = '';

  /** `width`: cells of a line; Infinity where nothing is to be broken. */
  constructor(write: (text: string) => void, width: () => number) {
    this.#write = write;
    this.#width = width;
  }

  push(text: string): void {
    for (const part of harmless(text).match(/\n|[ \t]+|[^ \t\n]+/g) ?? []) {
      if (part === '\n') {
        this.#place();
        this.#break();
      } else if (part[0] === ' ' || part[0] === '\t') {
        this.#place();
        this.#space += part.replaceAll('\t', '    ');
      } else {
        this.#word += part;
        // A text without spaces is broken anywhere, as the terminal would.
        if (cells(this.#word) >= this.#width()) this.#place();
      }
    }
  }

  /** What is held back. True when the line has something on it. */
  end(): boolean {
    this.#place();
    this.#space = '';
    const isOpen = this.#column > 0;
    this.#column = 0;
    return isOpen;
  }

  #place(): void {
    if (this.#word === '') return;
    const width = this.#width();
    const [space, word] = [this.#space, this.#word];
    [this.#space, this.#word] = ['', ''];
    const length = cells(space) + cells(word);
    if (width >= NARROWEST && this.#column > 0 && this.#column + length > width) {
      this.#write(`\n${word}`);
      this.#column = cells(word);
    } else {
      this.#write(space + word);
      this.#column += length;
    }
    // A word that is longer than a line went on below by itself.
    if (this.#column > width) this.#column %= width;
  }

  #break(): void {
    this.#space = '';
    this.#write('\n');
    this.#column = 0;
  }
}
