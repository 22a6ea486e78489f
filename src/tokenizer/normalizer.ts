// The normalizers of tokenizer.json: they rewrite a text before it is cut.

import { toByteAlphabet } from './byte-alphabet.ts';
import { readCharacterMap } from './character-map.ts';
import { setOf, WHITE_SPACE } from './character-set.ts';
import type { JsonObject } from './json-file.ts';
import type { Normalized } from './normalized.ts';
import { type Finder, finderOf } from './pattern.ts';
import { flatStages, type Place, shown } from './place.ts';
import type { WorkBudget } from './work-budget.ts';

export type { Normalized } from './normalized.ts';

export type Normalizer = {
  normalize(text: string, budget: WorkBudget): Normalized;
  /**
   * A text of so many bytes becomes at least their part `1 / shrinks` in bytes; undefined where it may lose any number.
   */
  readonly shrinks: number | undefined;
};

type Step = {
  readonly apply: (from: Normalized, budget: WorkBudget) => Normalized;
  readonly shrinks: number | undefined;
};

/** Builds the normalizer. Throws TokenizerFileError for a kind that is not known. */
export function buildNormalizer(config: JsonObject | null, at: Place): Normalizer {
  const steps = flatStages(config, 'normalizers', at).map((step) => stepOf(step, at));
  return {
    normalize(text, budget) {
      let out: Normalized = { text, opening: widthAt(text, 0) };
      for (const step of steps) {
        // The reference has nothing to align in an empty text.
        if (out.text === '') break;
        out = step.apply(out, budget);
        budget.checkLength(out.text.length, 'the normalizer');
      }
      return out;
    },
    shrinks: steps.reduce<number | undefined>(
      (all, { shrinks }) => (all === undefined || shrinks === undefined ? undefined : all * shrinks),
      1,
    ),
  };
}

function stepOf(config: JsonObject, at: Place): Step {
  switch (config.type) {
    case 'NFC':
    case 'NFD':
    case 'NFKC':
    case 'NFKD': {
      const form = config.type;
      // Composed of three characters of three bytes at most (Hangul), of marks less; NFKC makes ASCII of four bytes.
      return plain((text) => text.normalize(form), { NFC: 4, NFD: 4, NFKC: 16, NFKD: 16 }[form]);
    }
    case 'Lowercase':
      return plain(lowercase, 3);
    case 'Strip':
      return strip(at.flag(config, 'strip_left', true), at.flag(config, 'strip_right', true));
    case 'StripAccents':
      return filter((codePoint) => !MARK.has(codePoint));
    case 'Nmt':
      return nmt();
    case 'ByteLevel':
      return plain(toByteAlphabet, 1);
    case 'Prepend': {
      const prefix = at.text(config, 'prepend');
      return {
        apply: ({ text, opening }) => ({ text: prefix + text, opening: opening === 0 ? 0 : opening + prefix.length }),
        shrinks: 1,
      };
    }
    case 'Replace':
      return replace(config, at);
    case 'BertNormalizer':
      return bert(config, at);
    case 'Precompiled':
      return { apply: readCharacterMap(at.text(config, 'precompiled_charsmap'), at), shrinks: undefined };
    default:
      throw at.error(
        `the normalizer ${shown(config.type)} is not supported`,
        'supported: NFC, NFD, NFKC, NFKD, Lowercase, Strip, StripAccents, Nmt, ByteLevel, Prepend, Replace, ' +
          'BertNormalizer, Precompiled, Sequence',
      );
  }
}

function plain(change: (text: string) => string, shrinks: number | undefined): Step {
  return { apply: (from) => changed(from, change), shrinks };
}

function changed({ text, opening }: Normalized, change: (text: string) => string): Normalized {
  return { text: change(text), opening: change(text.slice(0, opening)).length };
}

function widthAt(text: string, place: number): number {
  return (text.codePointAt(place) ?? 0) > 0xffff ? 2 : 1;
}

/** Character by character: JavaScript knows the final sigma, the reference does not. */
function lowercase(text: string): string {
  return text.replaceAll('Σ', 'σ').toLowerCase();
}

const MARK = setOf('\\p{M}');
const NONSPACING = setOf('\\p{Mn}');

function filter(keep: (codePoint: number) => boolean): Step {
  return plain((text) => mapped(text, (codePoint, character) => (keep(codePoint) ? character : '')), undefined);
}

function strip(left: boolean, right: boolean): Step {
  return {
    apply({ text, opening }) {
      let start = 0;
      let end = text.length;
      if (left) while (start < end && WHITE_SPACE.has(text.charCodeAt(start))) start++;
      if (right) while (end > start && WHITE_SPACE.has(text.charCodeAt(end - 1))) end--;
      return { text: text.slice(start, end), opening: Math.max(0, opening - start) };
    },
    shrinks: undefined,
  };
}

/** Of sentencepiece's rules for translation (nmt): controls go, other kinds of space become one. */
function nmt(): Step {
  const gone = setOf('[\\x01-\\x08\\x0b\\x0e-\\x1f\\x7f\\x8f\\x9f]');
  const spaces = setOf('[\\t\\n\\f\\r\\u1680\\u200b-\\u200f\\u2028\\u2029\\u2581\\ufeff\\ufffd]');
  const change = (codePoint: number, character: string): string => {
    if (gone.has(codePoint)) return '';
    return spaces.has(codePoint) ? ' ' : character;
  };
  return plain((text) => mapped(text, change), undefined);
}

function mapped(text: string, change: (codePoint: number, character: string) => string): string {
  let out = '';
  for (const character of text) out += change(character.codePointAt(0)!, character);
  return out;
}

function replace(config: JsonObject, at: Place): Step {
  const find = finderOf(config.pattern, at, 'the normalizer Replace');
  const content = at.text(config, 'content');
  const pattern = config.pattern as { readonly String?: unknown };
  const kept = typeof pattern.String === 'string' && Buffer.byteLength(content) >= Buffer.byteLength(pattern.String);
  return { apply: (from, budget) => replaceAll(from, find, content, budget), shrinks: kept ? 1 : undefined };
}

function replaceAll({ text, opening }: Normalized, find: Finder, content: string, budget: WorkBudget): Normalized {
  const parts: string[] = [];
  let done = 0;
  let length = text.length;
  let opens = opening;
  for (const [start, end] of find(text, budget)) {
    length += content.length - (end - start);
    budget.spend(1, 'the normalizer Replace');
    budget.checkLength(length, 'the normalizer Replace');
    parts.push(text.slice(done, start), content);
    // What is new stands for the last character of what was there.
    if (start < opening || (start === 0 && end === 0)) {
      const kept = end <= opening ? content.length : 0;
      opens += kept - (Math.min(end, opening) - start);
    }
    done = end;
  }
  if (parts.length === 0) return { text, opening };
  parts.push(text.slice(done));
  return { text: parts.join(''), opening: opens };
}

const CONTROL = setOf('[\\0\\ufffd\\p{Cc}\\p{Cf}\\p{Co}]');
/** Blocks of CJK ideographs, as BERT lists them. */
const CJK = setOf(
  '[\\u4e00-\\u9fff\\u3400-\\u4dbf\\u{20000}-\\u{2a6df}\\u{2a700}-\\u{2b73f}\\u{2b740}-\\u{2b81f}\\u{2b920}-\\u{2ceaf}\\uf900-\\ufaff\\u{2f800}-\\u{2fa1f}]',
);

function bert(config: JsonObject, at: Place): Step {
  const clean = at.flag(config, 'clean_text', true);
  const spaced = at.flag(config, 'handle_chinese_chars', true);
  const lower = at.flag(config, 'lowercase', true);
  const accents = at.flag(config, 'strip_accents', lower);
  const cleaned = (codePoint: number, character: string): string => {
    if (WHITE_SPACE.has(codePoint) && (WHITE.has(codePoint) || !CONTROL.has(codePoint))) return ' ';
    return CONTROL.has(codePoint) ? '' : character;
  };
  const apart = (codePoint: number, character: string) => (CJK.has(codePoint) ? ` ${character} ` : character);
  const unaccented = (codePoint: number, character: string) => (NONSPACING.has(codePoint) ? '' : character);
  return plain((from) => {
    let text = from;
    if (clean) text = mapped(text, cleaned);
    if (spaced) text = mapped(text, apart);
    if (accents) text = mapped(text.normalize('NFD'), unaccented);
    return lower ? lowercase(text) : text;
  }, undefined);
}

/** Controls that count as white space. */
const WHITE = setOf('[\\t\\n\\r]');
