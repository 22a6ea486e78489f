// How much work a tokenizer's file may make of one text. A file can name any expression and any replacement; what it
// brings is counted while it runs, so that a small file cannot hold the process for long or fill its memory.

import { TokenizerFileError } from './tokenizer-error.ts';

/**
 * Steps for one text: so many at once, and more for each of its characters. The dearest of the public split patterns
 * (GPT-4o's, run step by step) takes 40 a character.
 */
const STEPS = 1 << 20;
const STEPS_PER_CHARACTER = 256;
/**
 * UTF-16 units that a stage may make of a text: NFKD makes 18 of one, and the largest text that is worth a thought has
 * some million. A text that is longer than the last bound may still double.
 */
const GROWTH = 32;
const GROWTH_ANYWAY = 1 << 12;
const GROWTH_LIMIT = 1 << 24;

export class WorkBudget {
  readonly #file: string;
  readonly #length: number;
  readonly #steps: number;
  /** Steps that are left. Whoever counts in a tight loop takes from it and calls `exhausted` below zero. */
  left: number;

  /** For a text of `length` UTF-16 units. `file` is named in the error. */
  constructor(file: string, length: number) {
    this.#file = file;
    this.#length = length;
    this.#steps = STEPS + STEPS_PER_CHARACTER * length;
    this.left = this.#steps;
  }

  /** Throws TokenizerFileError once the steps are used up. */
  spend(steps: number, stage: string): void {
    this.left -= steps;
    if (this.left < 0) throw this.exhausted(stage);
  }

  exhausted(stage: string): TokenizerFileError {
    return new TokenizerFileError({
      what: `${stage} takes more than ${this.#steps} steps on a text of ${this.#length} characters`,
      where: this.#file,
      fix: 'give a shorter text, or use another tokenizer',
    });
  }

  /** Refuses a text that a stage has made too long; asked before it is put together. */
  checkLength(length: number, stage: string): void {
    const grown = Math.min(GROWTH * this.#length + GROWTH_ANYWAY, GROWTH_LIMIT);
    const limit = Math.max(grown, 2 * this.#length);
    if (length <= limit) return;
    throw new TokenizerFileError({
      what: `${stage} makes more than ${limit} characters of a text of ${this.#length}`,
      where: this.#file,
      fix: 'give a shorter text, or use another tokenizer',
    });
  }
}
