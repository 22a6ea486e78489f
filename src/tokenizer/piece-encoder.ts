// Text to ids the way sentencepiece's BPE does it: of all neighbours whose joined text is a piece, the one with the
// highest score is joined first, the leftmost of equals; what is left without a piece is spelled in bytes.

import { AddedTokenMatcher } from './added-token-matcher.ts';
import { mergeInSteps } from './merge-neighbours.ts';
import { PIECE, type PieceModel } from './sentencepiece-model.ts';
import { type InSteps, type Least, longestBytes, type TextEncoding } from './text-encoding.ts';
import { TokenizerFileError } from './tokenizer-error.ts';
import type { AddedToken } from './vocabulary.ts';
import { WorkBudget } from './work-budget.ts';

const SPACE = '▁';

/** `added` are matched in the raw text first; each stretch between them is encoded by itself, with its own prefix. */
export function pieceEncoder(model: PieceModel, added: readonly AddedToken[]): TextEncoding {
  const matcher = new AddedTokenMatcher(added);
  const encoder = new PieceEncoder(model);
  let least: Least | undefined;
  return {
    *encode(text, { parseSpecial }) {
      const ids: number[] = [];
      const budget = new WorkBudget(model.file, text.length);
      for (const stretch of matcher.split(text, (token) => !parseSpecial && token.special, budget)) {
        if (stretch.id !== undefined) {
          ids.push(stretch.id);
          if (ids.length % STRETCHES === 0) yield;
        } else for (const id of yield* encoder.encode(stretch.text, budget)) ids.push(id);
      }
      return ids;
    },
    // Any number of unknown characters is one token where they are not spelled in bytes.
    least: !model.byteFallback
      ? undefined
      : () => {
          least ??= {
            bytesPerId: longestBytes([...model.pieces.map(({ text }) => text), ...added.map(({ content }) => content)]),
            spaceVanishes: model.removeExtraWhitespaces || added.some(({ lstrip, rstrip }) => lstrip || rstrip),
          };
          return least;
        },
  };
}

/** Added tokens between two rests. */
const STRETCHES = 1 << 8;
/** Symbols between two rests. */
const SYMBOLS = 1 << 12;

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

  *encode(text: string, budget: WorkBudget): InSteps<number[]> {
    const prepared = this.#prepare(text);
    if (prepared === '') return [];
    const symbols: string[] = [];
    const frozen: boolean[] = [];
    for (const stretch of this.#symbols.split(prepared, () => false, budget)) {
      for (const symbol of stretch.id === undefined ? stretch.text : [stretch.text]) {
        symbols.push(symbol);
        frozen.push(stretch.id !== undefined);
        if (symbols.length % SYMBOLS === 0) yield;
      }
    }
    yield* this.#merge(symbols, frozen);
    return yield* this.#toIds(symbols);
  }

  #prepare(text: string): string {
    const { addDummyPrefix, removeExtraWhitespaces } = this.#model;
    const prefix = addDummyPrefix ? SPACE : '';
    if (!removeExtraWhitespaces) return text === '' ? '' : prefix + text.replaceAll(' ', SPACE);
    const single = text.replace(/^ +/, '').replace(/ {2,}/g, ' ');
    // At the end the mark itself goes too, wherever it came from; nothing may be left.
    if (single === '') return '';
    const marked = prefix + single.replaceAll(' ', SPACE);
    let end = marked.length;
    while (end > 0 && marked[end - 1] === SPACE) end--;
    return marked.slice(0, end);
  }

  /** Joined symbols grow at their left place; the right one becomes ''. */
  *#merge(symbols: string[], frozen: readonly boolean[]): InSteps<void> {
    const rankOf = (left: number, right: number): number | undefined => {
      if (frozen[left]! || frozen[right]!) return undefined;
      const id = this.#ids.get(symbols[left]! + symbols[right]!);
      return id === undefined ? undefined : this.#order[id]!;
    };
    yield* mergeInSteps(symbols.length, rankOf, (left, right) => {
      symbols[left] += symbols[right]!;
      symbols[right] = '';
    });
  }

  *#toIds(symbols: readonly string[]): InSteps<number[]> {
    const ids: number[] = [];
    let unknownBefore = false;
    for (const [i, symbol] of symbols.entries()) {
      if (i % SYMBOLS === 0) yield;
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
