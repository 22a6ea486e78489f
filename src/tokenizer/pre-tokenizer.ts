// Pre-tokenizers of tokenizer.json: they cut a text into the pieces inside which BPE may merge, and the last one writes
// each piece in the model's alphabet.

import { toByteAlphabet } from './byte-alphabet.ts';
import { isObject, type JsonObject } from './json-file.ts';
import { type RegexFor, translateRegex } from './split-regex.ts';

/** Cuts every piece further. `atStart` says that the first piece stands at the very beginning of the text. */
export type PreTokenizer = (pieces: readonly string[], atStart: boolean) => string[];

/** GPT-2's pattern, used by ByteLevel when it splits by itself; contractions in lower case only. */
const GPT2_SPLIT = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

/** Builds a pre-tokenizer; undefined when one of its parts is of another kind or has unusual settings. */
export function buildPreTokenizer(config: JsonObject | null): PreTokenizer | undefined {
  if (config === null) return (pieces) => [...pieces];
  switch (config.type) {
    case 'Sequence': {
      if (!Array.isArray(config.pretokenizers)) return undefined;
      const steps = config.pretokenizers.map((step: unknown) => (isObject(step) ? buildPreTokenizer(step) : undefined));
      if (!steps.every((step) => step !== undefined)) return undefined;
      return (pieces, atStart) => steps.reduce((out: string[], step) => step(out, atStart), [...pieces]);
    }
    case 'Split':
      return buildSplit(config);
    case 'Digits':
      return each(splitter(() => /\p{N}/gu, config.individual_digits === true ? 'isolated' : 'contiguous', false));
    case 'ByteLevel':
      return buildByteLevel(config);
    case 'Metaspace':
      return buildMetaspace(config);
    default:
      return undefined;
  }
}

function buildSplit(config: JsonObject): PreTokenizer | undefined {
  const { pattern } = config;
  let regex: RegexFor | undefined;
  if (isObject(pattern) && typeof pattern.Regex === 'string') regex = translateRegex(pattern.Regex);
  else if (isObject(pattern) && typeof pattern.String === 'string' && pattern.String !== '') {
    const literal = new RegExp(pattern.String.replace(/[\\^$.*+?()[\]{}|/]/g, '\\$&'), 'gu');
    regex = () => literal;
  }
  const behavior = BEHAVIORS.find((name) => name === String(config.behavior).toLowerCase());
  if (regex === undefined || behavior === undefined) return undefined;
  return each(splitter(regex, behavior, config.invert === true));
}

function buildByteLevel(config: JsonObject): PreTokenizer {
  const split =
    config.use_regex === false ? (text: string) => [text] : splitter(translateRegex(GPT2_SPLIT)!, 'isolated', false);
  const prefix = config.add_prefix_space === true;
  return each((piece) => split(prefix && !piece.startsWith(' ') ? ` ${piece}` : piece).map(toByteAlphabet));
}

function buildMetaspace(config: JsonObject): PreTokenizer | undefined {
  const mark = config.replacement ?? '▁';
  const scheme = config.prepend_scheme ?? (config.add_prefix_space === false ? 'never' : 'always');
  if (typeof mark !== 'string' || [...mark].length !== 1) return undefined;
  if (scheme !== 'always' && scheme !== 'first' && scheme !== 'never') return undefined;
  const marks = new RegExp(mark, 'gu');
  const split = splitter(() => marks, 'mergedwithnext', false);
  return (pieces, atStart) =>
    pieces.flatMap((piece, i) => {
      let text = piece.replaceAll(' ', mark);
      const wanted = scheme === 'always' || (scheme === 'first' && atStart && i === 0);
      if (wanted && !text.startsWith(mark)) text = mark + text;
      return config.split === false ? [text] : split(text);
    });
}

function each(cut: (piece: string) => string[]): PreTokenizer {
  return (pieces) => {
    const out: string[] = [];
    for (const piece of pieces) for (const part of cut(piece)) if (part !== '') out.push(part);
    return out;
  };
}

const BEHAVIORS = ['isolated', 'removed', 'mergedwithprevious', 'mergedwithnext', 'contiguous'] as const;

/** What becomes of the stretches that match (with `invert`, of those that do not), as the reference names it. */
function splitter(
  regexFor: RegexFor,
  behavior: (typeof BEHAVIORS)[number],
  invert: boolean,
): (text: string) => string[] {
  return (text) => {
    const out: string[] = [];
    let previous: boolean | undefined;
    const take = (part: string, matched: boolean): void => {
      if (part === '') return;
      const delimiter = matched !== invert;
      const joins =
        (behavior === 'contiguous' && delimiter === previous) ||
        (behavior === 'mergedwithprevious' && delimiter && previous === false) ||
        (behavior === 'mergedwithnext' && !delimiter && previous === true);
      if (joins) out[out.length - 1] += part;
      else if (behavior !== 'removed' || !delimiter) out.push(part);
      previous = delimiter;
    };
    let end = 0;
    for (const match of text.matchAll(regexFor(text))) {
      take(text.slice(end, match.index), false);
      take(match[0], true);
      end = match.index + match[0].length;
    }
    take(text.slice(end), false);
    return out;
  };
}
