// Reading the JSON files around a model: size limit first, then one clear error for whatever is wrong. Synchronous,
// because six small files through the thread pool cost 5 ms of the 100 in which a first token is due.

import { FileAccessError, TruncatedFileError } from '../formats/errors.ts';
import { isLfsPointer, LfsPointerError } from '../formats/lfs-pointer.ts';
import { readSmallFileSync } from '../formats/read-small-file.ts';
import { JsonError, parseJson } from '../formats/strict-json.ts';
import { TokenizerFileError } from './tokenizer-error.ts';

export type JsonObject = { readonly [key: string]: unknown };

/** tokenizer.json. Largest seen: 33 MB (Gemma 3); Llama 3's has 17 MB. */
export const MAX_TOKENIZER_JSON_BYTES = 128 * 2 ** 20;
/** Any other JSON file of a model folder. Largest seen: 1.2 MB (Gemma 3's tokenizer_config.json). */
export const MAX_CONFIG_JSON_BYTES = 16 * 2 ** 20;

/** The bytes of a regular file of at most `limit` bytes, never waited for; undefined when there is none. */
export function readLimited(path: string, limit: number): Buffer | undefined {
  try {
    const bytes = readSmallFileSync(path, limit);
    if (bytes !== undefined && isLfsPointer(bytes)) throw new LfsPointerError(path);
    return bytes;
  } catch (cause) {
    if (cause instanceof LfsPointerError) throw new TokenizerFileError(cause.text, { cause });
    if (!(cause instanceof FileAccessError || cause instanceof TruncatedFileError)) throw cause;
    if (cause instanceof FileAccessError && cause.errno === 'ENOTDIR') return undefined;
    throw new TokenizerFileError({ ...cause.text, where: path }, { cause });
  }
}

/** A JSON file whose top level is an object; undefined when there is no such file. */
export function readJsonObject(path: string, limit: number): JsonObject | undefined {
  const bytes = readLimited(path, limit);
  if (bytes === undefined) return undefined;
  let value: unknown;
  try {
    value = parseJson(bytes, { where: path });
  } catch (cause) {
    if (!(cause instanceof JsonError)) throw cause;
    throw new TokenizerFileError(cause.text, { cause });
  }
  if (!isObject(value)) {
    throw new TokenizerFileError({
      what: `expected a JSON object at the top level, found ${kindOf(value)}`,
      where: path,
      fix: 'fetch the file again',
    });
  }
  return value;
}

export function isObject(value: unknown): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** What a JSON value is, for messages. */
export function kindOf(value: unknown): string {
  if (value === undefined) return 'nothing';
  if (value === null) return 'null';
  if (Array.isArray(value)) return 'an array';
  return typeof value === 'object' ? 'an object' : `a ${typeof value}`;
}
