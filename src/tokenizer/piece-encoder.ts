// Text to ids the way sentencepiece's BPE does it: of all neighbours whose joined text is a piece, the one with the
// highest score is joined first, the leftmost of equals; what is left without a piece is spelled in bytes.

import { AddedTokenMatcher } from './added-token-matcher.ts';
import { mergeNeighbours } from './merge-neighbours.ts';
import { PIECE, type PieceModel } from './sentencepiece-model.ts';
import type { TextEncoding } from './text-encoding.ts';
import { TokenizerFileError } from './tokenizer-error.ts';
import type { AddedToken } from './vocabulary.ts';

const SPACE = '▁';

/** `added` are matched in the raw text first; each stretch between them is encoded by itself, with its own prefix. */
export function pieceEncoder(model: PieceModel, added: readonly AddedToken[]): TextEncoding {
  const matcher = new AddedTokenMatcher(added);
  const encoder = new PieceEncoder(model);
  return {
    encode(text, { parseSpecial }) {
      const ids: number[] = [];
      for (const stretch of matcher.split(text, (token) => !parseSpecial && token.special)) {
        if (stretch.id !== undefined) ids.push(stretch.id);
        else for (const id of encoder.encode(stretch.text)) ids.push(id);
      }
      return ids;
    },
  };
}

class PieceEncoder {
  readonly #model: PieceModel;
  /** Pieces that text may become; CONTROL, UNKNOWN, UNUSED and BYTE pieces never match. */
  readonly #ids = new Map<string, number>();
  /** Place of each id in the order of scores, best first; equal scores share a place. */
  readonly #order: Int32Array;
  readonly #byteIds: (number | undefined)[] = [];
  readonly #symbols: AddedTokenMatcher;

  constructor(model: PieceModel) {
    this.#model = model;
    const userDefined: AddedToken[] = [];
    for (const [id, piece] of model.pieces.entries()) {
      if (piece.type === PIECE.byte) {
        const byte = /^<0x([0-9A-F]{2})>$/.exec(piece.text)?.[1];
        if (byte !== undefined) this.#byteIds[Number.parseInt(byte, 16)] = id;
      } else if (piece.type === PIECE.normal || piece.type === PIECE.userDefined) {
        this.#ids.set(piece.text, id);
        if (piece.type === PIECE.userDefined) userDefined.push(symbolOf(piece.text, id));
      }
    }
    if (model.byteFallback && [...Array(256).keys()].some((byte) => this.#byteIds[byte] === undefined)) {
      throw new TokenizerFileError({
        what: 'byte fallback is on, but not all of <0x00> to <0xFF> are pieces',
        where: model.file,
        fix: 'fetch the file again',
      });
    }
    this.#order = scoreOrder(model.pieces.map((piece) => piece.score));
    this.#symbols = new AddedTokenMatcher(userDefined);
  }

  encode(text: string): number[] {
    const prepared = this.#prepare(text);
    if (prepared === '') return [];
    const symbols: string[] = [];
    const frozen: boolean[] = [];
    for (const stretch of this.#symbols.split(prepared)) {
      for (const symbol of stretch.id === undefined ? stretch.text : [stretch.text]) {
        symbols.push(symbol);
        frozen.push(stretch.id !== undefined);
      }
    }
    this.#merge(symbols, frozen);
    return this.#toIds(symbols);
  }

  #prepare(text: string): string {
    const { addDummyPrefix, removeExtraWhitespaces } = this.#model;
    const prefix = addDummyPrefix ? SPACE : '';
    if (!removeExtraWhitespaces) return text === '' ? '' : prefix + text.replaceAll(' ', SPACE);
    const single = text.replace(/^ +/, '').replace(/ {2,}/g, ' ');
    // At the end the mark itself goes too, wherever it came from; nothing may be left.
    return single === '' ? '' : (prefix + single.replaceAll(' ', SPACE)).replace(/▁+$/, '');
  }

  /** Joined symbols grow at their left place; the right one becomes ''. */
  #merge(symbols: string[], frozen: readonly boolean[]): void {
    const rankOf = (left: number, right: number): number | undefined => {
      if (frozen[left]! || frozen[right]!) return undefined;
      const id = this.#ids.get(symbols[left]! + symbols[right]!);
      return id === undefined ? undefined : this.#order[id]!;
    };
    mergeNeighbours(symbols.length, rankOf, (left, right) => {
      symbols[left] += symbols[right]!;
      symbols[right] = '';
    });
  }

  #toIds(symbols: readonly string[]): number[] {
    const ids: number[] = [];
    let unknownBefore = false;
    for (const symbol of symbols) {
      if (symbol === '') continue;
      const id = this.#ids.get(symbol);
      if (id !== undefined) ids.push(id);
      else if (this.#model.byteFallback) for (const byte of Buffer.from(symbol)) ids.push(this.#byteIds[byte]!);
      // Neighbouring unknown characters make one token.
      else if (!unknownBefore) ids.push(this.#model.unknownId);
      unknownBefore = id === undefined && !this.#model.byteFallback;
    }
    return ids;
  }
}

function symbolOf(content: string, id: number): AddedToken {
  return { id, content, special: false, normalized: false, singleWord: false, lstrip: false, rstrip: false };
}

function scoreOrder(scores: readonly number[]): Int32Array {
  const distinct = [...new Set(scores)].sort((a, b) => b - a);
  const places = new Map(distinct.map((score, place) => [score, place]));
  return Int32Array.from(scores, (score) => places.get(score)!);
}
