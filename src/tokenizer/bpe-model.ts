// Byte pair encoding of one piece: start from single characters and join, again and again, the neighbours whose pair has
// the lowest rank, leftmost first, until no pair is left.

import { mergeNeighbours } from './merge-neighbours.ts';
import type { BpeTokenizer, Merges } from './tokenizer-json.ts';
import { MAX_VOCABULARY, type TokenTable } from './vocabulary.ts';

/** Pieces seen before are not merged again; the table is emptied when it holds this many. */
const CACHE_ENTRIES = 20_000;
/** Longer pieces are rare and not worth keeping. */
const CACHE_LENGTH = 64;

export class BpeModel {
  readonly #tokens: TokenTable;
  readonly #ranks: { get(left: number, right: number): number | undefined };
  /** What the pair of a rank becomes. */
  readonly #merged: Int32Array;
  readonly #ignoreMerges: boolean;
  readonly #byteIds: readonly number[] | undefined;
  readonly #unknownId: number | undefined;
  readonly #fuseUnknown: boolean;
  readonly #cache = new Map<string, readonly number[]>();

  constructor(from: BpeTokenizer) {
    const tokens = from.modelTokens;
    this.#tokens = tokens;
    this.#merged = from.merges.merged;
    this.#ranks = from.merges.ranks ?? ranksOf(from.merges);
    this.#ignoreMerges = from.ignoreMerges;
    this.#byteIds = from.byteFallback ? byteIds(tokens) : undefined;
    this.#unknownId = from.unknownToken === null ? undefined : tokens.id(from.unknownToken);
    this.#fuseUnknown = from.fuseUnknown;
  }

  /** Ids of a piece written in the model's alphabet. Ids in `avoid` do not come out, except for unknown characters. */
  encode(piece: string, avoid?: ReadonlySet<number>): readonly number[] {
    if (avoid !== undefined) return this.#encode(piece, avoid);
    const cached = this.#cache.get(piece);
    if (cached !== undefined) return cached;
    const ids = this.#encode(piece, undefined);
    if (piece.length <= CACHE_LENGTH) {
      if (this.#cache.size >= CACHE_ENTRIES) this.#cache.clear();
      this.#cache.set(piece, ids);
    }
    return ids;
  }

  #encode(piece: string, avoid: ReadonlySet<number> | undefined): number[] {
    const whole = this.#ignoreMerges ? this.#tokens.id(piece) : undefined;
    if (whole !== undefined && avoid?.has(whole) !== true) return [whole];
    return this.#merge(this.#symbols(piece, avoid), avoid);
  }

  #symbols(piece: string, avoid: ReadonlySet<number> | undefined): number[] {
    const symbols: number[] = [];
    let unknownBefore = false;
    for (const character of piece) {
      const id = this.#tokens.id(character);
      if (id !== undefined && avoid?.has(id) !== true) {
        symbols.push(id);
        unknownBefore = false;
      } else if (this.#byteIds !== undefined) {
        for (const byte of Buffer.from(character)) symbols.push(this.#byteIds[byte]!);
        unknownBefore = false;
      } else if (this.#unknownId !== undefined) {
        // Without an unknown token such characters vanish, as in the reference.
        if (!(unknownBefore && this.#fuseUnknown)) symbols.push(this.#unknownId);
        unknownBefore = true;
      }
    }
    return symbols;
  }

  #merge(symbols: number[], avoid: ReadonlySet<number> | undefined): number[] {
    if (symbols.length < 2) return symbols;
    const rankOf = (left: number, right: number): number | undefined => {
      const rank = this.#ranks.get(symbols[left]!, symbols[right]!);
      return rank !== undefined && avoid?.has(this.#merged[rank]!) === true ? undefined : rank;
    };
    mergeNeighbours(symbols.length, rankOf, (left, right) => {
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

/** The ids of <0x00> to <0xFF>, if all are there. */
function byteIds(tokens: TokenTable): number[] | undefined {
  const ids: number[] = [];
  for (let byte = 0; byte < 256; byte++) {
    const id = tokens.id(`<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`);
    if (id === undefined) return undefined;
    ids.push(id);
  }
  return ids;
}
