// Models that take a piece as a word: whole (WordLevel), or from the left by the longest tokens that are there (WordPiece).

import { atOnce, type InSteps } from './text-encoding.ts';
import type { TokenModel } from './token-model.ts';
import { TokenizerFileError } from './tokenizer-error.ts';
import type { WordLevelTokenizer, WordPieceTokenizer } from './tokenizer-json.ts';
import { quote } from './vocabulary.ts';

export class WordLevelModel implements TokenModel {
  /** One unknown token stands for a word of any length. */
  readonly keepsAll = false;
  readonly #from: WordLevelTokenizer | WordPieceTokenizer;

  constructor(from: WordLevelTokenizer | WordPieceTokenizer) {
    this.#from = from;
  }

  encode(piece: string, avoid?: ReadonlySet<number>): readonly number[] {
    const id = this.#from.modelTokens.id(piece);
    return id !== undefined && avoid?.has(id) !== true ? [id] : [this.unknown(piece)];
  }

  // biome-ignore lint/correctness/useYield: one look into a table
  *encodeLong(piece: string, avoid?: ReadonlySet<number>): InSteps<readonly number[]> {
    return this.encode(piece, avoid);
  }

  protected unknown(piece: string): number {
    const { unknownToken, modelTokens, file } = this.#from;
    const id = modelTokens.id(unknownToken);
    if (id !== undefined) return id;
    throw new TokenizerFileError({
      what: `the vocabulary has no token for ${quote(piece)}, nor the unknown token ${quote(unknownToken)}`,
      where: file,
      fix: 'leave such words out of the text, or use another tokenizer',
    });
  }
}

/** Candidates between two rests. */
const STEPS = 1 << 12;

export class WordPieceModel extends WordLevelModel {
  readonly #tokenizer: WordPieceTokenizer;
  /** UTF-16 units of the longest token. */
  readonly #longest: number;

  constructor(from: WordPieceTokenizer) {
    super(from);
    this.#tokenizer = from;
    let longest = 0;
    for (const [token] of from.modelTokens.entries()) longest = Math.max(longest, token.length);
    this.#longest = longest;
  }

  override encode(piece: string, avoid?: ReadonlySet<number>): readonly number[] {
    return atOnce(this.encodeLong(piece, avoid));
  }

  override *encodeLong(piece: string, avoid?: ReadonlySet<number>): InSteps<readonly number[]> {
    const { modelTokens, continuingPrefix, longestWord } = this.#tokenizer;
    let steps = 0;
    let length = 0;
    for (const _ of piece) if (++length > longestWord) return [this.unknown(piece)];
    const ids: number[] = [];
    for (let start = 0; start < piece.length; ) {
      let found: number | undefined;
      let end = Math.min(piece.length, start + this.#longest);
      for (; end > start; end--) {
        if (++steps % STEPS === 0) yield;
        const text = piece.slice(start, end);
        found = modelTokens.id(start === 0 ? text : continuingPrefix + text);
        if (found !== undefined && avoid?.has(found) !== true) break;
        found = undefined;
      }
      if (found === undefined) return [this.unknown(piece)];
      ids.push(found);
      start = end;
    }
    return ids;
  }
}
