// How many tokens a text must have, without taking it apart: what is far too long is refused in a millisecond.

import type { Tokenizer } from './tokenizer.ts';

/** A number of tokens that the text has at least. May stop to count once that is above `enough`. */
export function leastTokens(tokenizer: Pick<Tokenizer, 'leastTokens'>, text: string, enough: number): number {
  return tokenizer.leastTokens(text, enough);
}
