// The two-way table between token strings and ids, with the tokens that are matched in raw text before anything else.

import { TokenizerFileError } from './tokenizer-error.ts';

/** A token that is looked for in the text itself, as tokenizer.json declares it. */
export type AddedToken = {
  readonly id: number;
  readonly content: string;
  /** Marks structure (begin, end of turn); left out when text is decoded for people. */
  readonly special: boolean;
  /** Matched after normalization instead of before. */
  readonly normalized: boolean;
  /** Only between word borders. */
  readonly singleWord: boolean;
  /** Swallows the white space on its left, on its right. */
  readonly lstrip: boolean;
  readonly rstrip: boolean;
};

/** Ids above this are refused before a table is made for them. The largest vocabulary seen has 262,144 (Gemma 3). */
export const MAX_VOCABULARY = 1 << 21;
/** One token's longest text in UTF-16 units. The longest seen is a run of 512 spaces-like characters in a byte-level vocabulary. */
export const MAX_TOKEN_LENGTH = 1 << 14;

export class Vocabulary {
  readonly added: readonly AddedToken[];
  readonly #tokens: (string | undefined)[] = [];
  readonly #ids: ReadonlyMap<string, number>;
  /** Added tokens that `ids` lacks. */
  readonly #moreIds = new Map<string, number>();
  readonly #special = new Set<number>();

  /** Keeps `ids` (token to id). Throws TokenizerFileError when two tokens claim one id or an id is out of range. */
  constructor(ids: ReadonlyMap<string, number>, added: readonly AddedToken[], file: string) {
    this.#ids = ids;
    this.added = added;
    for (const [token, id] of ids) this.#place(token, id, file);
    for (const token of added) {
      const known = this.id(token.content);
      if (known !== undefined && known !== token.id) {
        throw new TokenizerFileError({
          what: `added token ${quote(token.content)} has id ${token.id}, but the vocabulary gives it ${known}`,
          where: file,
          fix: 'use the tokenizer files of one and the same model',
        });
      }
      if (known === undefined) {
        this.#place(token.content, token.id, file);
        this.#moreIds.set(token.content, token.id);
      }
      if (token.special) this.#special.add(token.id);
    }
  }

  #place(token: string, id: number, file: string): void {
    checkId(token, id, file);
    const taken = this.#tokens[id];
    if (taken !== undefined && taken !== token) {
      throw new TokenizerFileError({
        what: `id ${id} belongs to two tokens, ${quote(taken)} and ${quote(token)}`,
        where: file,
        fix: 'ids must be unique; fetch the tokenizer files again',
      });
    }
    // Holes first get a value, so that the array stays a plain list (ids are bounded by MAX_VOCABULARY).
    while (this.#tokens.length < id) this.#tokens.push(undefined);
    this.#tokens[id] = token;
  }

  /** Highest id plus one. */
  get size(): number {
    return this.#tokens.length;
  }

  token(id: number): string | undefined {
    return this.#tokens[id];
  }

  id(token: string): number | undefined {
    return this.#ids.get(token) ?? this.#moreIds.get(token);
  }

  isSpecial(id: number): boolean {
    return this.#special.has(id);
  }
}

/** Refuses an id that is not an integer in [0, MAX_VOCABULARY). */
export function checkId(token: string, id: unknown, file: string): asserts id is number {
  if (typeof id === 'number' && Number.isInteger(id) && id >= 0 && id < MAX_VOCABULARY) return;
  throw new TokenizerFileError({
    what: `token ${quote(token)} has the id ${String(id)}; expected an integer from 0 to ${MAX_VOCABULARY - 1}`,
    where: file,
    fix: 'fetch the tokenizer files again',
  });
}

/** A token as it appears in an error message: JSON escapes, cut to a readable length. */
export function quote(text: string): string {
  return JSON.stringify(text.length > 40 ? `${text.slice(0, 40)}…` : text);
}
