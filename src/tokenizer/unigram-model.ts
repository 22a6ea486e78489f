// Unigram: of all ways to cut a piece into tokens, the one whose scores add up to most. A character without a token costs
// a little more than the worst token; neighbouring unknown ones are one.

import { SortedTexts } from './sorted-texts.ts';
import { atOnce, type InSteps } from './text-encoding.ts';
import type { TokenModel } from './token-model.ts';
import { TokenizerFileError } from './tokenizer-error.ts';
import type { UnigramTokenizer } from './tokenizer-json.ts';
import { quote, type TokenTable } from './vocabulary.ts';

/** What an unknown character costs beyond the lowest score. */
const UNKNOWN_PENALTY = 10;
/** Characters between two rests. */
const STEPS = 1 << 11;

export class UnigramModel implements TokenModel {
  readonly keepsAll: boolean;
  readonly #file: string;
  readonly #tokens: TokenTable;
  readonly #scores: Float64Array;
  readonly #unknownId: number | undefined;
  readonly #unknownScore: number;
  readonly #byteIds: readonly (number | undefined)[] | undefined;
  readonly #texts: SortedTexts;

  constructor(from: UnigramTokenizer) {
    this.#file = from.file;
    this.#tokens = from.modelTokens;
    this.#scores = from.scores;
    this.#unknownId = from.unknownId;
    this.#unknownScore = from.scores.reduce((least, score) => Math.min(least, score), Infinity) - UNKNOWN_PENALTY;
    this.#byteIds = from.byteFallback
      ? Array.from({ length: 256 }, (_, byte) =>
          from.modelTokens.id(`<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`),
        )
      : undefined;
    this.#texts = new SortedTexts(from.modelTokens.entries());
    this.keepsAll = this.#byteIds?.every((id) => id !== undefined) === true;
  }

  encode(piece: string, avoid?: ReadonlySet<number>): readonly number[] {
    return atOnce(this.encodeLong(piece, avoid));
  }

  *encodeLong(piece: string, avoid?: ReadonlySet<number>): InSteps<number[]> {
    // The best way that ends at each place: its score, and the id and beginning of its last token.
    const best = new Float64Array(piece.length + 1);
    const from = new Int32Array(piece.length + 1).fill(-1);
    const ids = new Int32Array(piece.length + 1);
    let start = 0;
    let alone = false;
    let width = 1;
    const offer = (id: number | undefined, end: number, score: number): void => {
      const total = best[start]! + score;
      if (from[end]! >= 0 && !(total > best[end]!)) return;
      if (id === undefined) throw this.#unsayable(piece.slice(start, end));
      best[end] = total;
      from[end] = start;
      ids[end] = id;
    };
    const found = (id: number, length: number): void => {
      if (avoid?.has(id) === true) return;
      if (length === width) alone = true;
      offer(id, start + length, this.#scores[id]!);
    };
    for (let steps = 1; start < piece.length; steps++) {
      if (steps % STEPS === 0) yield;
      width = piece.codePointAt(start)! > 0xffff ? 2 : 1;
      alone = false;
      this.#texts.prefixesAt(piece, start, found);
      if (!alone) offer(this.#unknownId, start + width, this.#unknownScore);
      start += width;
    }
    const out: number[] = [];
    for (let end = piece.length; end > 0; ) {
      let begin = from[end]!;
      if (ids[end] !== this.#unknownId) out.push(ids[end]!);
      else {
        while (begin > 0 && ids[begin] === this.#unknownId) begin = from[begin]!;
        for (const id of this.#unknown(piece.slice(begin, end), avoid).reverse()) out.push(id);
      }
      end = begin;
    }
    return out.reverse();
  }

  #unknown(text: string, avoid: ReadonlySet<number> | undefined): number[] {
    const known = this.#tokens.id(text);
    if (known !== undefined && avoid?.has(known) !== true) return [known];
    if (this.#byteIds !== undefined) {
      const ids = Array.from(Buffer.from(text), (byte) => this.#byteIds![byte]);
      if (ids.every((id) => id !== undefined)) return ids;
    }
    return [this.#unknownId!];
  }

  #unsayable(text: string): TokenizerFileError {
    return new TokenizerFileError({
      what: `the vocabulary has no token for ${quote(text)}, and no unknown token (model.unk_id)`,
      where: this.#file,
      fix: 'leave such characters out of the text, or use another tokenizer',
    });
  }
}
