// Finds added tokens in a text: the leftmost match, of several there the longest, with the flags of the reference.

import type { AddedToken } from './vocabulary.ts';

/** A stretch of text, or the id of the token that stands there. */
export type Stretch = { readonly text: string; readonly id?: number; readonly start: number };

type Node = { readonly next: Map<number, Node>; token?: AddedToken };

// Made at first use, which most models have none of: the sets of characters take a millisecond to put together.
const WORD = '[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\p{Join_Control}]';
let wordBefore: RegExp | undefined;
let wordAfter: RegExp | undefined;
let whiteSpace: RegExp | undefined;

export class AddedTokenMatcher {
  readonly #root: Node = { next: new Map() };

  /** `spelling` gives the text to look for; the content itself for tokens that are matched before normalization. */
  constructor(tokens: readonly AddedToken[], spelling: (token: AddedToken) => string = (token) => token.content) {
    for (const token of tokens) {
      const text = spelling(token);
      if (text === '') continue;
      let node = this.#root;
      for (let i = 0; i < text.length; i++) {
        const unit = text.charCodeAt(i);
        let child = node.next.get(unit);
        if (child === undefined) {
          child = { next: new Map() };
          node.next.set(unit, child);
        }
        node = child;
      }
      node.token ??= token;
    }
  }

  /** The stretches of a text in order; none is empty. Tokens that `skip` accepts stay plain text. */
  split(text: string, skip: (token: AddedToken) => boolean = () => false): Stretch[] {
    const out: Stretch[] = [];
    let done = 0;
    for (let i = 0; i < text.length; ) {
      const match = this.#longestAt(text, i);
      if (match === undefined) {
        i++;
        continue;
      }
      let start = i;
      let stop = i + match.length;
      i = stop;
      const { token } = match;
      if (skip(token) || (token.singleWord && !isWholeWord(text, start, stop))) continue;
      if (token.lstrip) while (start > done && isWhiteSpace(text[start - 1]!)) start--;
      if (token.rstrip) while (stop < text.length && isWhiteSpace(text[stop]!)) stop++;
      if (done < start) out.push({ text: text.slice(done, start), start: done });
      out.push({ text: text.slice(start, stop), id: token.id, start });
      done = stop;
    }
    if (done < text.length) out.push({ text: text.slice(done), start: done });
    return out;
  }

  #longestAt(text: string, start: number): { readonly token: AddedToken; readonly length: number } | undefined {
    let node = this.#root;
    let found: { token: AddedToken; length: number } | undefined;
    for (let i = start; i < text.length; i++) {
      const child = node.next.get(text.charCodeAt(i));
      if (child === undefined) break;
      node = child;
      if (node.token !== undefined) found = { token: node.token, length: i + 1 - start };
    }
    return found;
  }
}

/** A character outside the basic plane is two units; both are looked at. */
function isWholeWord(text: string, start: number, stop: number): boolean {
  wordBefore ??= new RegExp(`${WORD}$`, 'u');
  wordAfter ??= new RegExp(`^${WORD}`, 'u');
  return !wordBefore.test(text.slice(Math.max(0, start - 2), start)) && !wordAfter.test(text.slice(stop, stop + 2));
}

function isWhiteSpace(unit: string): boolean {
  whiteSpace ??= /^\p{White_Space}$/u;
  return whiteSpace.test(unit);
}
