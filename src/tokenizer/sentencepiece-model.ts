// tokenizer.model, the file of Google's sentencepiece: a protobuf message with the pieces in the order of their ids, and
// the settings of trainer and normalizer. Field numbers are those of sentencepiece_model.proto.

import { type Field, readFields } from './protobuf.ts';
import { TokenizerFileError } from './tokenizer-error.ts';
import { MAX_TOKEN_LENGTH, MAX_VOCABULARY } from './vocabulary.ts';

/** Numbers of the file format. */
export const PIECE = { normal: 1, unknown: 2, control: 3, userDefined: 4, unused: 5, byte: 6 } as const;

export type Piece = { readonly text: string; readonly score: number; readonly type: number };

/** What an encoder of this kind is made of; GGUF files give the same. */
export type PieceModel = {
  readonly file: string;
  readonly pieces: readonly Piece[];
  readonly byteFallback: boolean;
  readonly unknownId: number;
  readonly bosId: number | undefined;
  readonly eosId: number | undefined;
  readonly addDummyPrefix: boolean;
  readonly removeExtraWhitespaces: boolean;
};

/** Largest seen: 4.2 MB (Gemma). */
export const MAX_SENTENCEPIECE_BYTES = 64 * 2 ** 20;

const BPE = 2;
const MODEL_TYPES: Readonly<Record<number, string>> = { 1: 'unigram', 3: 'word', 4: 'char' };

/** Reads and checks a model file. Throws TokenizerFileError. */
export function parseSentencepieceModel(bytes: Uint8Array, file: string): PieceModel {
  const pieces: Piece[] = [];
  const trainer = {
    modelType: 1,
    byteFallback: false,
    unkId: 0,
    bosId: 1,
    eosId: 2,
    suffix: false,
    surface: ' \u2047 ',
  };
  const normalizer = { charsmapBytes: 0, addDummyPrefix: true, removeExtraWhitespaces: true, escapeWhitespaces: true };
  for (const field of readFields(bytes, file)) {
    if (field.wire !== 'bytes') continue;
    if (field.number === 1) {
      if (pieces.length === MAX_VOCABULARY)
        throw refuse(file, `more than ${MAX_VOCABULARY} pieces`, 'use another tokenizer');
      pieces.push(readPiece(field, pieces.length, file));
    } else if (field.number === 2) {
      for (const inner of readFields(field.value, file, field.offset)) {
        if (inner.number === 3) trainer.modelType = integer(inner);
        else if (inner.number === 24) trainer.suffix = integer(inner) !== 0;
        else if (inner.number === 35) trainer.byteFallback = integer(inner) !== 0;
        else if (inner.number === 40) trainer.unkId = integer(inner);
        else if (inner.number === 41) trainer.bosId = integer(inner);
        else if (inner.number === 42) trainer.eosId = integer(inner);
      }
    } else if (field.number === 3) {
      for (const inner of readFields(field.value, file, field.offset)) {
        if (inner.number === 2 && inner.wire === 'bytes') normalizer.charsmapBytes = inner.value.length;
        else if (inner.number === 3) normalizer.addDummyPrefix = integer(inner) !== 0;
        else if (inner.number === 4) normalizer.removeExtraWhitespaces = integer(inner) !== 0;
        else if (inner.number === 5) normalizer.escapeWhitespaces = integer(inner) !== 0;
      }
    }
  }
  if (pieces.length === 0)
    throw refuse(file, 'the file has no pieces', 'fetch the file again; it may be cut off or empty');
  const supported = 'use a tokenizer.json of this model, or a BPE model with identity normalization, as Llama 2 has';
  if (trainer.modelType !== BPE) {
    const name = MODEL_TYPES[trainer.modelType] ?? `number ${trainer.modelType}`;
    throw refuse(file, `the model type is ${name}; only bpe is supported`, supported);
  }
  if (normalizer.charsmapBytes > 0) {
    throw refuse(
      file,
      `the normalizer has a character map (${normalizer.charsmapBytes} bytes); only identity is supported`,
      supported,
    );
  }
  if (trainer.suffix || !normalizer.escapeWhitespaces) {
    throw refuse(file, 'white space is marked in an unusual way (suffix or not escaped)', supported);
  }
  const inRange = (id: number): number | undefined => (id >= 0 && id < pieces.length ? id : undefined);
  const unknownId = inRange(trainer.unkId);
  if (unknownId === undefined)
    throw refuse(file, `unk_id ${trainer.unkId} is not the id of a piece`, 'fetch the file again');
  return {
    file,
    pieces,
    byteFallback: trainer.byteFallback,
    unknownId,
    bosId: inRange(trainer.bosId),
    eosId: inRange(trainer.eosId),
    addDummyPrefix: normalizer.addDummyPrefix,
    removeExtraWhitespaces: normalizer.removeExtraWhitespaces,
  };
}

function readPiece(field: Field & { wire: 'bytes' }, id: number, file: string): Piece {
  let piece = '';
  let score = 0;
  let type: number = PIECE.normal;
  for (const inner of readFields(field.value, file, field.offset)) {
    if (inner.number === 1 && inner.wire === 'bytes') piece = text(inner.value);
    else if (inner.number === 2 && inner.wire === 'fixed32') score = float(inner.value);
    else if (inner.number === 3) type = integer(inner);
  }
  if (piece === '' || piece.length > MAX_TOKEN_LENGTH) {
    throw refuse(
      file,
      `piece ${id} has ${piece.length} characters; expected 1 to ${MAX_TOKEN_LENGTH}`,
      'fetch the file again',
    );
  }
  if (Number.isNaN(score)) throw refuse(file, `the score of piece ${id} is NaN`, 'fetch the file again');
  return { text: piece, score, type };
}

/** An int32 or bool; negative ids are written as 10-byte varints. */
function integer(field: Field): number {
  return field.wire === 'varint' ? Number(BigInt.asIntN(32, field.value)) : Number.NaN;
}

function float(bytes: Uint8Array): number {
  return new DataView(bytes.buffer, bytes.byteOffset, 4).getFloat32(0, true);
}

function text(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('utf8');
}

function refuse(file: string, what: string, fix: string): TokenizerFileError {
  return new TokenizerFileError({ what, where: file, fix });
}
