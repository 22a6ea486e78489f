// Finds added tokens in a text: the leftmost match, of several there the longest, with the flags of the reference.

import { WHITE_SPACE, WORD } from './character-set.ts';
import { SortedTexts } from './sorted-texts.ts';
import type { AddedToken } from './vocabulary.ts';
import type { WorkBudget } from './work-budget.ts';

/** A stretch of text, or the id of the token that stands there. */
export type Stretch = { readonly text: string; readonly id?: number; readonly start: number };

export class AddedTokenMatcher {
  readonly #tokens: readonly AddedToken[];
  readonly #texts: SortedTexts;

  /** `spelling` gives the text to look for; the content itself for tokens that are matched before normalization. */
  constructor(tokens: readonly AddedToken[], spelling: (token: AddedToken) => string = (token) => token.content) {
    this.#tokens = tokens;
    this.#texts = new SortedTexts(tokens.map((token, i) => [spelling(token), i]));
  }

  /** The stretches of a text in order; none is empty. Tokens that `skip` accepts stay plain text. */
  *split(text: string, skip: (token: AddedToken) => boolean = () => false, budget?: WorkBudget): Generator<Stretch> {
    let done = 0;
    /** The longest one comes last. */
    const match = { token: -1, length: 0 };
    const take = (token: number, length: number): void => {
      match.token = token;
      match.length = length;
    };
    if (this.#texts.size > 0) {
      for (let i = this.#texts.nextPlace(text, 0); i < text.length; i = this.#texts.nextPlace(text, i)) {
        match.token = -1;
        const read = this.#texts.prefixesAt(text, i, take);
        budget?.spend(read, 'the search for added tokens');
        const found = this.#tokens[match.token];
        if (found === undefined) {
          i++;
          continue;
        }
        let start = i;
        let stop = i + match.length;
        i = stop;
        if (skip(found) || (found.singleWord && !isWholeWord(text, start, stop))) continue;
        if (found.lstrip) while (start > done && WHITE_SPACE.has(text.charCodeAt(start - 1))) start--;
        if (found.rstrip) {
          while (stop < text.length && WHITE_SPACE.has(text.charCodeAt(stop))) stop++;
        }
        if (done < start) yield { text: text.slice(done, start), start: done };
        yield { text: text.slice(start, stop), id: found.id, start };
        done = stop;
      }
    }
    if (done < text.length) yield { text: text.slice(done), start: done };
  }
}

/** A character outside the basic plane is two units. */
function isWholeWord(text: string, start: number, stop: number): boolean {
  const before = start - (start > 1 && /[\udc00-\udfff]/.test(text[start - 1]!) ? 2 : 1);
  const wordBefore = start > 0 && WORD.has(text.codePointAt(before)!);
  return !wordBefore && !(stop < text.length && WORD.has(text.codePointAt(stop)!));
}
