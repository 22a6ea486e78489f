// A template is a program that came with a model file. Its work is counted, so that one that loops over millions or
// doubles a text is stopped with the limit's name before it is felt.

import { JinjaError } from './jinja-error.ts';

export type Limits = {
  /** Evaluated expressions, statements and items of sequences. */
  readonly steps: number;
  /** Characters read or made by operations on texts. */
  readonly characters: number;
  /** Length of any one text, so of the prompt as well. */
  readonly length: number;
  /** Nesting: of expressions, statements, macros within macros, and lists within lists. */
  readonly depth: number;
};

/** Of Python's own recursion limit of 1,000 calls a template reaches about a third. */
export const MAX_DEPTH = 320;

const MAX_TEXT_LENGTH = 1 << 24;

/**
 * Limits for an input of so many values and characters. The base is a hundred times what the longest template seen
 * needs for a turn; the factors allow for templates that look at all messages once for every message.
 */
export function limitsFor({ values, characters }: { readonly values: number; readonly characters: number }): Limits {
  return {
    steps: 1_000_000 + 2_000 * Math.min(values, 20_000),
    characters: 32_000_000 + Math.min(100 * characters, 400_000_000),
    length: Math.min(4_000_000 + 8 * characters, MAX_TEXT_LENGTH),
    depth: MAX_DEPTH,
  };
}

export class Budget {
  readonly #limits: Limits;
  #steps = 0;
  #characters = 0;
  #depth = 0;

  constructor(limits: Limits) {
    this.#limits = limits;
  }

  step(count = 1): void {
    this.#steps += count;
    if (this.#steps > this.#limits.steps) throw this.#met(`it takes more than ${this.#limits.steps} steps`);
  }

  /** Counts the characters of texts that are read or made. */
  text(length: number): void {
    this.#characters += length;
    if (this.#characters > this.#limits.characters) {
      throw this.#met(`it handles more than ${this.#limits.characters} characters`);
    }
  }

  /** To be asked before a text of this length is made. Joining two texts copies nothing, so only the length counts. */
  textLength(length: number): void {
    if (length > this.#limits.length) throw this.#met(`it makes a text of more than ${this.#limits.length} characters`);
  }

  /** To be asked before a list of this length is made. */
  items(count: number): void {
    this.step(count);
  }

  enter(): void {
    if (++this.#depth > this.#limits.depth) throw this.#met(`it nests deeper than ${this.#limits.depth} levels`);
  }

  leave(): void {
    this.#depth--;
  }

  #met(what: string): JinjaError {
    return new JinjaError('limit', what);
  }
}
