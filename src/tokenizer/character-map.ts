// The normalizer that sentencepiece compiles into a model (Precompiled): a map of character sequences to texts, kept as
// a double array of prefixes and the texts one after the other, each ended by a zero byte.
//
//     u32 size of the array in bytes | array of u32 | texts
//
// A unit of the array: bits 0-7 the byte it is reached by, bit 8 whether a value hangs on it, bits 10-30 the offset of
// its children (times 256 where bit 9 is set); bit 31 marks the value, which is a place in the texts.

import type { Normalized } from './normalized.ts';
import type { Place } from './place.ts';
import type { WorkBudget } from './work-budget.ts';

/** Bytes. nmt_nfkc's map has 237,539. */
const MAX_MAP_BYTES = 1 << 23;
/** Longer groups of characters are never looked up whole. */
const MAX_GROUP_BYTES = 6;

/** Reads the map from base64. Throws TokenizerFileError. */
export function readCharacterMap(base64: string, at: Place): (from: Normalized, budget: WorkBudget) => Normalized {
  if (base64.length > 2 * MAX_MAP_BYTES) {
    throw at.error(`the normalizer Precompiled has a map of more than ${MAX_MAP_BYTES} bytes`, 'use another tokenizer');
  }
  const bytes = Buffer.from(base64, 'base64');
  const broken = () => at.error('the normalizer Precompiled has a map that cannot be read');
  if (bytes.length < 4) throw broken();
  const size = bytes.readUInt32LE(0);
  if (size % 4 !== 0 || size > bytes.length - 4 || size === 0) throw broken();
  const units = new Uint32Array(size / 4);
  for (let i = 0; i < units.length; i++) units[i] = bytes.readUInt32LE(4 + 4 * i);
  const texts = bytes.subarray(4 + size);
  const find = (key: string): string | undefined => {
    const place = shortestPrefix(units, Buffer.from(key));
    if (place === undefined || place >= texts.length) return undefined;
    const end = texts.indexOf(0, place);
    return texts.toString('utf8', place, end < 0 ? texts.length : end);
  };
  const known = new Map<string, string>();
  let segmenter: Intl.Segmenter | undefined;
  /** One user-perceived character: as a whole where it is short, else by its characters. */
  const change = (group: string): string => {
    const whole = Buffer.byteLength(group) < MAX_GROUP_BYTES ? find(group) : undefined;
    if (whole !== undefined) return whole;
    let out = '';
    for (const character of group) out += find(character) ?? character;
    return out;
  };
  return ({ text, opening }, budget) => {
    segmenter ??= new Intl.Segmenter('und', { granularity: 'grapheme' });
    let out = '';
    let place = 0;
    let opens = 0;
    for (const { segment } of segmenter.segment(text)) {
      budget.spend(1, 'the normalizer Precompiled');
      let changed = known.get(segment);
      if (changed === undefined) {
        changed = change(segment);
        if (known.size > 10_000) known.clear();
        if (segment.length <= 16) known.set(segment, changed);
      }
      out += changed;
      if (place < opening) opens = out.length;
      place += segment.length;
      budget.checkLength(out.length, 'the normalizer Precompiled');
    }
    return { text: out, opening: opens };
  };
}

/** The value of the shortest key that the bytes begin with, which is the one the reference takes. */
function shortestPrefix(units: Uint32Array, key: Uint8Array): number | undefined {
  const offset = (unit: number): number => (unit >>> 10) << ((unit & 0x200) >>> 6);
  let node = offset(units[0]!);
  for (const byte of key) {
    if (byte === 0) return undefined;
    node ^= byte;
    const unit = units[node >>> 0];
    if (unit === undefined || (unit & 0x800000ff) >>> 0 !== byte) return undefined;
    node ^= offset(unit);
    if ((unit & 0x100) !== 0) {
      const value = units[node >>> 0];
      return value === undefined ? undefined : value & 0x7fffffff;
    }
  }
  return undefined;
}
