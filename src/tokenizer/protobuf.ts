// The part of the protobuf wire format that a sentencepiece model needs. Written for hostile input: every read is checked
// against the end of its message, and nothing is allocated from a length that the bytes do not cover.

import { TokenizerFileError } from './tokenizer-error.ts';

/** One field of a message and its place in the file (of the content, for bytes). Byte values are views into the file. */
export type Field =
  | { readonly number: number; readonly wire: 'varint'; readonly value: bigint; readonly offset: number }
  | { readonly number: number; readonly wire: 'fixed32'; readonly value: Uint8Array; readonly offset: number }
  | { readonly number: number; readonly wire: 'fixed64'; readonly value: Uint8Array; readonly offset: number }
  | { readonly number: number; readonly wire: 'bytes'; readonly value: Uint8Array; readonly offset: number };

/** The fields of a message in order. `base` is the message's place in the file, for error messages. */
export function* readFields(bytes: Uint8Array, file: string, base = 0): Generator<Field> {
  let at = 0;
  const broken = (what: string, where: number): TokenizerFileError =>
    new TokenizerFileError({
      what: `not a readable sentencepiece model: ${what}`,
      where: `${file}, byte ${base + where}`,
      fix: 'fetch the file again; it may be cut off',
    });
  const varint = (): bigint => {
    const start = at;
    const first = bytes[at];
    if (first !== undefined && first < 0x80) {
      at++;
      return BigInt(first);
    }
    let value = 0n;
    for (let shift = 0n; shift < 70n; shift += 7n) {
      const byte = bytes[at++];
      if (byte === undefined) throw broken('a number runs past the end', start);
      value |= BigInt(byte & 0x7f) << shift;
      if (byte < 0x80) return BigInt.asUintN(64, value);
    }
    throw broken('a number has more than 10 bytes', start);
  };
  const take = (length: number, start: number): Uint8Array => {
    if (length > bytes.length - at) {
      throw broken(`a field of ${length} bytes runs past the end (${bytes.length - at} left)`, start);
    }
    at += length;
    return bytes.subarray(at - length, at);
  };
  while (at < bytes.length) {
    const offset = at;
    const tag = Number(varint());
    const number = Math.floor(tag / 8);
    if (number < 1 || number > 0x1fffffff) throw broken(`field number ${number} is out of range`, offset);
    switch (tag % 8) {
      case 0:
        yield { number, wire: 'varint', value: varint(), offset: base + offset };
        break;
      case 1:
        yield { number, wire: 'fixed64', value: take(8, offset), offset: base + offset };
        break;
      case 2: {
        const value = take(Number(varint()), offset);
        yield { number, wire: 'bytes', value, offset: base + at - value.length };
        break;
      }
      case 5:
        yield { number, wire: 'fixed32', value: take(4, offset), offset: base + offset };
        break;
      default:
        throw broken(`wire type ${tag % 8} is not used in such files`, offset);
    }
  }
}
