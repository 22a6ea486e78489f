// Holds one text to its structure, token by token. It knows the shortest way to the end from where the text stands, and
// never lets it go where that way is longer than the tokens that are left; at the last moment it takes that way.

import type { Matcher, Place } from './matcher.ts';
import type { Structure, StructureReader } from './structure.ts';
import { StructureError, StructureLimitError } from './structure-error.ts';
import { countOf, type Found, type TokenMask, type TokenTrie } from './token-trie.ts';

/** Bytes that are spelled only to tell how many tokens they take. */
const LONG_TEXT = 10_000;

export type Allowed = {
  readonly mask: TokenMask;
  /** How many tokens the structure leaves. */
  readonly count: number;
  /** The text is whole: the model may end it. */
  readonly mayEnd: boolean;
};

export class Constraint {
  readonly #trie: TokenTrie;
  readonly #matcher: Matcher;
  readonly #endings = new Map<Place, readonly number[] | undefined>();
  #place: Place;
  /** What is left of the shortest ending, once it has begun. */
  #ending: number[] | undefined;
  #isFirst = true;
  /** Tokens of the ending that was forced. */
  forced = 0;
  /** The limit that was met since the last token, and the one that the text had to end for though there was room. */
  #met: StructureLimitError | undefined;
  limit: StructureLimitError | undefined;

  constructor(reader: StructureReader, structure: Structure) {
    this.#trie = reader.trie;
    this.#matcher = reader.matcher(structure);
    this.#place = this.#matcher.start;
    this.#trie.expect(this.#matcher.sets);
  }

  /** Fewest tokens that the rest of the text takes; Infinity where the vocabulary cannot spell it. */
  get fewest(): number {
    return this.#endingFrom(this.#place)?.length ?? Number.POSITIVE_INFINITY;
  }

  /** The text is whole and nothing can follow. */
  get isOver(): boolean {
    return this.#ending === undefined
      ? this.#place.accepts && this.#place.ways.length === 0
      : this.#ending.length === 0;
  }

  /** The text is whole, whatever might follow. */
  get isWhole(): boolean {
    return this.#ending === undefined ? this.#place.accepts : this.#ending.length === 0;
  }

  /** Throws StructureError when even the shortest text takes more than `tokens`. */
  checkFits(tokens: number): void {
    if (this.#isShort(this.#place, tokens)) return;
    const { least } = this.#place;
    // Which is not spelled out.
    const isLong = least > LONG_TEXT;
    const fewest = isLong ? Math.ceil(least / this.#trie.longestToken) : this.fewest;
    if (fewest === Number.POSITIVE_INFINITY) {
      throw new StructureError({
        what: 'the tokens of this model cannot spell a text of this structure',
        fix: 'use other characters, or a model whose vocabulary has all bytes',
      });
    }
    throw new StructureError({
      what: `the shortest text of this structure has ${isLong ? `${fewest} or more` : fewest} tokens, and ${tokens} are left for it`,
      fix: isLong
        ? 'give a smaller structure'
        : `give max_tokens ${fewest} or more${fewest > 1000 ? ', or a smaller structure' : ''}`,
    });
  }

  /** The token that must come next, when only the shortest ending still fits into `left` tokens. */
  mustTake(left: number): number | undefined {
    if (this.#ending === undefined && this.#place.least > 0 && !this.#isShort(this.#place, left - 1)) {
      this.#ending = [...(this.#endingFrom(this.#place) ?? [])];
    }
    const next = this.#ending?.shift();
    if (next !== undefined) this.forced += 1;
    return next;
  }

  /** Begins the shortest ending; undefined where the text is whole. */
  end(): number | undefined {
    this.#ending ??= [...(this.#endingFrom(this.#place) ?? [])];
    this.limit ??= this.#met;
    return this.mustTake(0);
  }

  /**
   * Undefined where it takes more than the limits allow to find them: only the ending is left. Throws StructureLimitError
   * where that is so from the start.
   */
  allowed(): Allowed | undefined {
    const found = this.#withinLimits(() => this.#trie.allowed(this.#matcher, this.#place));
    if (found === undefined) {
      if (this.#isFirst) throw this.#met!;
      return undefined;
    }
    const { mask, count } = found;
    // The decoder would take such a space away.
    if (this.#isFirst && this.#trie.stripsStart) return { ...this.#withoutSpaces(mask), mayEnd: this.#place.accepts };
    return { mask, count, mayEnd: this.#place.accepts };
  }

  /** The result, or undefined beyond a limit. */
  #withinLimits<Result>(work: () => Result): Result | undefined {
    try {
      return work();
    } catch (error) {
      if (!(error instanceof StructureLimitError)) throw error;
      this.#met = error;
      return undefined;
    }
  }

  /** Works ahead for `allowed`, for about so many milliseconds; true when there is nothing left to do. */
  prepare(ms: number): boolean {
    return this.#ending !== undefined || this.#trie.prepare(this.#matcher, this.#place, ms);
  }

  /** Whether the text can still be ended within `left` tokens after this one. */
  leavesRoom(token: number, left: number): boolean {
    const next = this.#withinLimits(() => this.#matcher.walk(this.#place, this.#trie.bytesOf(token)));
    return next != null && this.#isShort(next, left);
  }

  /** Whether the text can be ended within `left` tokens from here. */
  canEndWithin(left: number): boolean {
    return this.#isShort(this.#place, left);
  }

  #isShort(place: Place, left: number): boolean {
    // With a token for every byte, the ending has no more tokens than bytes.
    if (this.#trie.hasAllBytes && place.least <= left) return true;
    // Nor fewer than its bytes fill: what is far too long is not even looked at.
    if (place.least > left * this.#trie.longestToken) return false;
    return (this.#endingFrom(place)?.length ?? Number.POSITIVE_INFINITY) <= left;
  }

  /** Takes a token that was chosen or had to be. Throws StructureError for one that does not fit. */
  take(token: number): void {
    // Where it leads is known.
    if (this.#ending !== undefined) return;
    this.#met = undefined;
    const next = this.#matcher.walk(this.#place, this.#trie.bytesOf(token));
    if (next === null) {
      throw new StructureError({
        what: `token ${token} does not continue a text of this structure`,
        fix: 'pass the continuation together with the structure it was made with',
      });
    }
    this.#isFirst = false;
    this.#place = next;
  }

  #endingFrom(place: Place): readonly number[] | undefined {
    if (this.#endings.has(place)) return this.#endings.get(place);
    const ending = this.#trie.spell(this.#shortestEnding(place));
    if (this.#endings.size > 256) this.#endings.clear();
    this.#endings.set(place, ending);
    return ending;
  }

  #shortestEnding(place: Place): Uint8Array {
    return this.#withinLimits(() => this.#matcher.shortestEnding(place)) ?? this.#matcher.endingOfOneWay(place);
  }

  #withoutSpaces(mask: TokenMask): Found {
    const own = mask.slice();
    for (const token of this.#trie.spaces) own[token >> 5]! &= ~(1 << (token & 31));
    return { mask: own, count: countOf(own) };
  }
}
