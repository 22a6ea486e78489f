// Byte pair encoding of one piece: start from single characters and join, again and again, the neighbours whose pair has
// the lowest rank, leftmost first, until no pair is left.

import { mergeInSteps } from './merge-neighbours.ts';
import { atOnce, type InSteps } from './text-encoding.ts';
import type { TokenModel } from './token-model.ts';
import { TokenizerFileError } from './tokenizer-error.ts';
import type { BpeTokenizer, Merges } from './tokenizer-json.ts';
import { MAX_VOCABULARY, quote, type TokenTable } from './vocabulary.ts';

/** Pieces seen before are not merged again; the table is emptied when it holds this many. */
const CACHE_ENTRIES = 20_000;
/** Longer pieces are rare and not worth keeping. */
const CACHE_LENGTH = 64;

export class BpeModel implements TokenModel {
  readonly keepsAll: boolean;
  readonly #file: string;
  readonly #tokens: TokenTable;
  readonly #ranks: { get(left: number, right: number): number | undefined };
  /** What the pair of a rank becomes. */
  readonly #merged: Int32Array;
  readonly #ignoreMerges: boolean;
  /** Of <0x00> to <0xFF>, where they are to be used and there. */
  readonly #byteIds: readonly (number | undefined)[] | undefined;
  readonly #unknownToken: string | null;
  readonly #unknownId: number | undefined;
  readonly #fuseUnknown: boolean;
  /** Put before every character but a piece's first, after its last one. */
  readonly #prefix: string;
  readonly #suffix: string;
  readonly #cache = new Map<string, readonly number[]>();

  constructor(from: BpeTokenizer) {
    const tokens = from.modelTokens;
    this.#file = from.file;
    this.#tokens = tokens;
    this.#merged = from.merges.merged;
    this.#ranks = from.merges.ranks ?? ranksOf(from.merges);
    this.#ignoreMerges = from.ignoreMerges;
    this.#byteIds = from.byteFallback ? byteIds(tokens) : undefined;
    this.#unknownToken = from.unknownToken;
    this.#unknownId = from.unknownToken === null ? undefined : tokens.id(from.unknownToken);
    this.#fuseUnknown = from.fuseUnknown;
    this.#prefix = from.continuingPrefix;
    this.#suffix = from.endSuffix;
    const spelled = this.#byteIds?.every((id) => id !== undefined) === true;
    this.keepsAll = spelled || (this.#unknownId !== undefined && !this.#fuseUnknown);
  }

  /** Ids of a piece written in the model's alphabet. Throws TokenizerFileError for a character it cannot say. */
  encode(piece: string, avoid?: ReadonlySet<number>): readonly number[] {
    if (avoid !== undefined) return atOnce(this.encodeLong(piece, avoid));
    const cached = this.#cache.get(piece);
    if (cached !== undefined) return cached;
    const ids = atOnce(this.encodeLong(piece));
    if (piece.length <= CACHE_LENGTH) {
      if (this.#cache.size >= CACHE_ENTRIES) this.#cache.clear();
      this.#cache.set(piece, ids);
    }
    return ids;
  }

  *encodeLong(piece: string, avoid?: ReadonlySet<number>): InSteps<readonly number[]> {
    const whole = this.#ignoreMerges ? this.#tokens.id(piece) : undefined;
    if (whole !== undefined && avoid?.has(whole) !== true) return [whole];
    return yield* this.#merge(this.#symbols(piece, avoid), avoid);
  }

  #symbols(piece: string, avoid: ReadonlySet<number> | undefined): number[] {
    const symbols: number[] = [];
    let unknownBefore = false;
    let place = 0;
    for (const character of piece) {
      const first = place === 0;
      place += character.length;
      const text = (first ? '' : this.#prefix) + character + (place === piece.length ? this.#suffix : '');
      const id = this.#tokens.id(text);
      if (id !== undefined && avoid?.has(id) !== true) {
        symbols.push(id);
        unknownBefore = false;
        continue;
      }
      const bytes = this.#spelled(text);
      if (bytes !== undefined) {
        symbols.push(...bytes);
        unknownBefore = false;
      } else if (this.#unknownToken !== null) {
        if (this.#unknownId === undefined) throw this.#unsayable(text);
        if (!(unknownBefore && this.#fuseUnknown)) symbols.push(this.#unknownId);
        unknownBefore = true;
      }
      // Without an unknown token such characters vanish, as in the reference.
    }
    return symbols;
  }

  /** Ids of a character's bytes; undefined where one has none. */
  #spelled(text: string): number[] | undefined {
    if (this.#byteIds === undefined) return undefined;
    const ids: number[] = [];
    for (const byte of Buffer.from(text)) {
      const id = this.#byteIds[byte];
      if (id === undefined) return undefined;
      ids.push(id);
    }
    return ids;
  }

  #unsayable(text: string): TokenizerFileError {
    return new TokenizerFileError({
      what: `the vocabulary has no token for ${quote(text)}, nor the unknown token ${quote(this.#unknownToken!)}`,
      where: this.#file,
      fix: 'leave such characters out of the text, or use another tokenizer',
    });
  }

  *#merge(symbols: number[], avoid: ReadonlySet<number> | undefined): InSteps<number[]> {
    if (symbols.length < 2) return symbols;
    const rankOf = (left: number, right: number): number | undefined => {
      const rank = this.#ranks.get(symbols[left]!, symbols[right]!);
      return rank !== undefined && avoid?.has(this.#merged[rank]!) === true ? undefined : rank;
    };
    yield* mergeInSteps(symbols.length, rankOf, (left, right) => {
      symbols[left] = this.#merged[rankOf(left, right)!]!;
      symbols[right] = -1;
    });
    return symbols.filter((id) => id >= 0);
  }
}

function ranksOf({ left, right }: Merges): { get(left: number, right: number): number | undefined } {
  const ranks = new Map<number, number>();
  for (let rank = 0; rank < left.length; rank++) {
    // A pair that is listed twice keeps its last rank, as in the reference.
    ranks.set(left[rank]! * MAX_VOCABULARY + right[rank]!, rank);
  }
  return { get: (first, second) => ranks.get(first * MAX_VOCABULARY + second) };
}

function byteIds(tokens: TokenTable): (number | undefined)[] {
  return Array.from({ length: 256 }, (_, byte) => tokens.id(`<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`));
}
