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
/** One token's longest text in UTF-16 units. The longest seen is a run of 512 spaces. */
export const MAX_TOKEN_LENGTH = 1 << 14;

/** Tokens by id and ids by token. */
export interface TokenTable {
  /** Highest id plus one. */
  readonly size: number;
  token(id: number): string | undefined;
  id(token: string): number | undefined;
  entries(): Iterable<[string, number]>;
}

export class TokenMap implements TokenTable {
  readonly #ids: ReadonlyMap<string, number>;
  readonly #tokens: readonly (string | undefined)[];

  constructor(ids: ReadonlyMap<string, number>, tokens: readonly (string | undefined)[]) {
    this.#ids = ids;
    this.#tokens = tokens;
  }

  get size(): number {
    return this.#tokens.length;
  }

  token(id: number): string | undefined {
    return this.#tokens[id];
  }

  id(token: string): number | undefined {
    return this.#ids.get(token);
  }

  entries(): Iterable<[string, number]> {
    return this.#ids.entries();
  }
}

/**
 * The table of a JSON object of ids by token. Throws TokenizerFileError for an id that is out of range or taken twice. It
 * runs over the whole vocabulary before a first token can be written, in code that is not compiled yet: hence one plain
 * loop, and helpers only where something is wrong.
 */
export function readTokenTable(vocab: { readonly [token: string]: unknown }, file: string): TokenTable {
  const names = Object.keys(vocab);
  const ids = new Map<string, number>();
  const tokens: (string | undefined)[] = [];
  for (let i = 0; i < names.length; i++) {
    const token = names[i]!;
    const id = vocab[token];
    if (typeof id !== 'number' || id < 0 || id >= MAX_VOCABULARY || id !== Math.trunc(id)) throw badId(token, id, file);
    if (token.length > MAX_TOKEN_LENGTH) throw tooLong(id, token.length, file);
    while (tokens.length <= id) tokens.push(undefined);
    const taken = tokens[id];
    if (taken !== undefined) throw takenTwice(id, taken, token, file);
    tokens[id] = token;
    ids.set(token, id);
  }
  return new TokenMap(ids, tokens);
}

export class Vocabulary {
  readonly added: readonly AddedToken[];
  readonly #table: TokenTable;
  /** Added tokens that the table lacks, in both directions. */
  readonly #moreIds = new Map<string, number>();
  readonly #moreTokens = new Map<number, string>();
  readonly #special = new Set<number>();
  /** How added tokens are written that are looked for in normalized text, where that differs. */
  #spellings: ReadonlyMap<number, string> = new Map();
  #size: number;

  /** Throws TokenizerFileError when an added token contradicts the table. */
  constructor(table: TokenTable, added: readonly AddedToken[], file: string) {
    this.#table = table;
    this.#size = table.size;
    this.added = added;
    for (const { content, id, special } of added) {
      const known = this.id(content);
      if (known !== undefined && known !== id) {
        throw new TokenizerFileError({
          what: `added token ${quote(content)} has id ${id}, but the vocabulary gives it ${known}`,
          where: file,
          fix: 'use the tokenizer files of one and the same model',
        });
      }
      if (known === undefined) {
        const taken = this.token(id);
        if (taken !== undefined && taken !== content) throw takenTwice(id, taken, content, file);
        this.#moreTokens.set(id, content);
        this.#moreIds.set(content, id);
        this.#size = Math.max(this.#size, id + 1);
      }
      if (special) this.#special.add(id);
    }
  }

  /** Highest id plus one. */
  get size(): number {
    return this.#size;
  }

  token(id: number): string | undefined {
    return this.#table.token(id) ?? this.#moreTokens.get(id);
  }

  id(token: string): number | undefined {
    return this.#table.id(token) ?? this.#moreIds.get(token);
  }

  /** What a decoder is given of an id: a token that took a normalizer's mark for a space gives it back, say. */
  written(id: number): string | undefined {
    return this.#spellings.get(id) ?? this.token(id);
  }

  spell(spellings: ReadonlyMap<number, string>): void {
    this.#spellings = spellings;
  }

  isSpecial(id: number): boolean {
    return this.#special.has(id);
  }
}

/** Refuses an id that is not an integer in [0, MAX_VOCABULARY). */
export function checkId(token: string, id: unknown, file: string): asserts id is number {
  if (typeof id === 'number' && Number.isInteger(id) && id >= 0 && id < MAX_VOCABULARY) return;
  throw badId(token, id, file);
}

function badId(token: string, id: unknown, file: string): TokenizerFileError {
  return new TokenizerFileError({
    what: `token ${quote(token)} has the id ${typeof id === 'number' || typeof id === 'string' ? String(id).slice(0, 40) : typeof id}; expected an integer from 0 to ${MAX_VOCABULARY - 1}`,
    where: file,
    fix: 'fetch the tokenizer files again',
  });
}

function tooLong(id: number, length: number, file: string): TokenizerFileError {
  return new TokenizerFileError({
    what: `the token of id ${id} has ${length} characters, more than ${MAX_TOKEN_LENGTH}`,
    where: file,
    fix: 'use another tokenizer',
  });
}

function takenTwice(id: number, first: string, second: string, file: string): TokenizerFileError {
  return new TokenizerFileError({
    what: `id ${id} belongs to two tokens, ${quote(first)} and ${quote(second)}`,
    where: file,
    fix: 'ids must be unique; fetch the tokenizer files again',
  });
}

/** A token as it appears in an error message: JSON escapes, cut to a readable length. */
export function quote(text: string): string {
  return JSON.stringify(text.length > 40 ? `${text.slice(0, 40)}…` : text);
}
