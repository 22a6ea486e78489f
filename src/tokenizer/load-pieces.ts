// A tokenizer.model with the tokens its surroundings add, as vocabulary, encoder and decoder.

import { pieceEncoder } from './piece-encoder.ts';
import { PIECE, type PieceModel, parseSentencepieceModel } from './sentencepiece-model.ts';
import type { TextEncoding } from './text-encoding.ts';
import type { DecoderPlan } from './token-decoder.ts';
import { TokenizerFileError } from './tokenizer-error.ts';
import { type AddedToken, quote, TokenMap, Vocabulary } from './vocabulary.ts';

export { MAX_SENTENCEPIECE_BYTES } from './sentencepiece-model.ts';

export type LoadedPieces = {
  readonly vocabulary: Vocabulary;
  readonly encoding: TextEncoding;
  readonly decoder: DecoderPlan;
  readonly ids: { readonly bosId: number | undefined; readonly eosId: number | undefined };
};

/**
 * `more` are added tokens of other files, `declared` literals to which those files give a role. Both are matched in text,
 * as Hugging Face does; in a bare tokenizer.model "<s>" is three characters, as sentencepiece has it.
 */
export function loadPieces(
  bytes: Uint8Array,
  file: string,
  more: readonly AddedToken[],
  declared: readonly string[],
): LoadedPieces {
  const model = parseSentencepieceModel(bytes, file);
  const ids = new Map<string, number>();
  for (const [id, piece] of model.pieces.entries()) {
    const other = ids.get(piece.text);
    if (other !== undefined) {
      throw new TokenizerFileError({
        what: `pieces ${other} and ${id} are both ${quote(piece.text)}`,
        where: file,
        fix: 'fetch the file again',
      });
    }
    ids.set(piece.text, id);
  }
  const matched = new Map(more.map((token) => [token.content, token]));
  for (const content of declared) {
    const id = ids.get(content);
    if (id !== undefined && !matched.has(content)) matched.set(content, special(id, content));
  }
  const added = new Map(matched);
  for (const [id, piece] of model.pieces.entries()) {
    const structural = piece.type === PIECE.control || piece.type === PIECE.unknown;
    if (structural && !added.has(piece.text)) added.set(piece.text, special(id, piece.text));
  }
  return {
    vocabulary: new Vocabulary(
      new TokenMap(
        ids,
        model.pieces.map((piece) => piece.text),
      ),
      [...added.values()],
      file,
    ),
    encoding: pieceEncoder(model, [...matched.values()]),
    decoder: pieceDecoder(model),
    ids: { bosId: model.bosId, eosId: model.eosId },
  };
}

/** Ids of such a vocabulary to text, as sentencepiece does it: the space the encoder put in front goes again. */
export function pieceDecoder(model: PieceModel): DecoderPlan {
  const stripStart = model.addDummyPrefix || model.removeExtraWhitespaces ? 1 : 0;
  return { kind: 'pieces', replace: [['▁', ' ']], bytes: 'character', stripStart, separator: '' };
}

function special(id: number, content: string): AddedToken {
  return { id, content, special: true, normalized: false, singleWord: false, lstrip: false, rstrip: false };
}
