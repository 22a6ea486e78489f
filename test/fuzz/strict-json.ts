// Any bytes as JSON: what JSON.parse takes is taken with the same meaning; what only we take holds NaN or Infinity.

import { isDeepStrictEqual } from 'node:util';
import { JsonError, JsonReader, JsonSyntaxError, parseJson } from '../../src/formats/strict-json.ts';

/** Throws for what is no refusal of ours, and where JSON.parse and we disagree. */
export function fuzz(bytes: Uint8Array): void {
  const ours = readBy(() => parseJson(bytes, { where: 'file' }));
  const text = Buffer.from(bytes).toString('utf8');
  const fromText = readBy(() => parseJson(text, { where: 'file' }));
  // Bytes that are not UTF-8 are refused as such.
  if (Buffer.from(text).equals(bytes) && !isDeepStrictEqual(ours, fromText)) throw new Error('bytes and text differ');
  const theirs = plain(text.replace(/^\ufeff/, ''));
  if (theirs !== undefined && fromText === undefined && !isDeep(text)) throw new Error('JSON.parse takes it');
  if (theirs !== undefined && fromText !== undefined && !isDeepStrictEqual(fromText, theirs))
    throw new Error('values differ');
  if (theirs === undefined && fromText !== undefined && !/NaN|Infinity/.test(text))
    throw new Error('JSON.parse refuses it');
  const reader = new JsonReader(text);
  try {
    reader.skip();
    reader.end();
  } catch (error) {
    if (!(error instanceof JsonSyntaxError)) throw error;
    // The reader of headers wants whole characters everywhere, and no NaN.
    if (theirs !== undefined && !isDeep(text) && !/\\u[dD]|^\ufeff/.test(text))
      throw new Error('the reader refuses it', { cause: error });
  }
}

type Value = { readonly value: unknown };

function readBy(work: () => unknown): Value | undefined {
  try {
    return { value: work() };
  } catch (error) {
    if (!(error instanceof JsonError)) throw error;
    if (error.message.length > 10_000) throw new Error('a message without end', { cause: error });
    return undefined;
  }
}

function plain(text: string): Value | undefined {
  try {
    return { value: JSON.parse(text) as unknown };
  } catch {
    return undefined;
  }
}

/** More brackets are open at once than we take; those in strings are counted, too, which only makes the check laxer. */
function isDeep(text: string): boolean {
  return (text.match(/[[{]/g)?.length ?? 0) > 128;
}

export const SEEDS: readonly Uint8Array[] = [
  '{"a": [1, -2.5e3, true, false, null], "b": {"c": "\\u00e9\\n"}}',
  '\ufeff{"x": NaN, "y": [Infinity, -Infinity]}',
  '["\\ud83e", NaN]',
  `${'['.repeat(130)}${']'.repeat(130)}`,
  '{"__proto__": {"a": 1}, "a": 1, "a": 2, "n": NaN}',
  'version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n',
  '<!doctype html>',
].map((text) => Buffer.from(text));
