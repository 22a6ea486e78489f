// How many tokens a text must have, without taking it apart: what is far too long is refused in a millisecond.

import type { Tokenizer } from './tokenizer.ts';

type Measure = {
  /** UTF-16 units of the longest token's spelling. */
  readonly longest: number;
  /** Whether a character outside of the vocabulary is spelled in bytes; else many of them may become one token. */
  readonly spellsBytes: boolean;
};

const measures = new WeakMap<Tokenizer, Measure>();

function measureOf(tokenizer: Tokenizer): Measure {
  let measure = measures.get(tokenizer);
  if (measure === undefined) {
    let longest = 1;
    for (let id = 0; id < tokenizer.vocabSize; id += 1) longest = Math.max(longest, tokenizer.token(id)?.length ?? 0);
    // Byte fallback; and the letters for space and line end of the byte alphabet.
    const has = (token: string) => tokenizer.tokenId(token) !== undefined;
    measure = { longest, spellsBytes: has('<0x0A>') || (has('\u0120') && has('\u010a')) };
    measures.set(tokenizer, measure);
  }
  return measure;
}

/** A character beyond ASCII may be one of up to so many units that a normalizer puts together. */
const COMPOSED_UNITS = 4;

/**
 * A number of tokens that the text has at least. Stops to count once that is above `enough`. White space and control
 * characters do not count, since some tokenizers leave them out or join them without end.
 */
export function leastTokens(tokenizer: Tokenizer, text: string, enough: number): number {
  const { longest, spellsBytes } = measureOf(tokenizer);
  const most = COMPOSED_UNITS * longest * (enough + 1);
  let units = 0;
  for (let i = 0; i < text.length && units < most; i += 1) {
    const unit = text.charCodeAt(i);
    if (unit > 0x20 && unit < 0x7f) units += COMPOSED_UNITS;
    // Neither spaces nor characters that have no width.
    else if (spellsBytes && unit > 0xa0 && !(unit >= 0x2000 && unit < 0x2070) && unit !== 0x3000 && unit < 0xfe00)
      units += 1;
  }
  return Math.ceil(units / (COMPOSED_UNITS * longest));
}
