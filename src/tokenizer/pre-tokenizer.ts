// Pre-tokenizers of tokenizer.json: they cut a text into the pieces that a model takes one by one, and some write each
// piece in the model's alphabet. Pieces are made as they are asked for, so that a long text can be encoded in slices.

import { toByteAlphabet } from './byte-alphabet.ts';
import { CharacterSet, NUMERIC, PUNCTUATION, WHITE_SPACE, WORD } from './character-set.ts';
import type { JsonObject } from './json-file.ts';
import { characterFinder, expressionFinder, type Finder, finderOf, GPT2, literalFinder } from './pattern.ts';
import { flatStages, type Place, shown } from './place.ts';
import { scriptOf } from './scripts.ts';
import type { WorkBudget } from './work-budget.ts';

export type PreTokenizer = {
  /**
   * `opening`: so many of the text's first units stand for the first character of all that was given (0 for a text
   * further on). No piece is empty.
   */
  pieces(text: string, opening: number, budget: WorkBudget): Iterable<string>;
  /** Whether all that goes in comes out. */
  readonly keepsAll: boolean;
  /** Whether pieces are written in the byte-level alphabet. */
  readonly writesBytes: boolean;
};

/** `opening` of the piece that was given last: one for each border between two steps, read right after the piece. */
type Start = { opening: number };
type Step = {
  readonly run: (pieces: Iterable<string>, from: Start, to: Start, budget: WorkBudget) => Iterable<string>;
  readonly keepsAll: boolean;
  readonly writesBytes?: true;
};

/** Builds the pre-tokenizer. Throws TokenizerFileError for a kind that is not known. */
export function buildPreTokenizer(config: JsonObject | null, at: Place): PreTokenizer {
  const steps = flatStages(config, 'pretokenizers', at).map((step) => stepOf(step, at));
  return {
    pieces(text, opening, budget) {
      if (text === '') return [];
      let from: Start = { opening };
      let pieces: Iterable<string> = [text];
      for (const step of steps) {
        const to: Start = { opening: 0 };
        pieces = step.run(pieces, from, to, budget);
        from = to;
      }
      return pieces;
    },
    keepsAll: steps.every((step) => step.keepsAll),
    writesBytes: steps.at(-1)?.writesBytes === true,
  };
}

function stepOf(config: JsonObject, at: Place): Step {
  switch (config.type) {
    case 'Split': {
      const find = finderOf(config.pattern, at, 'the pre-tokenizer Split');
      return cutting(find, behaviorOf(config, at), at.flag(config, 'invert', false));
    }
    case 'Digits': {
      const alone = at.flag(config, 'individual_digits', false);
      return cutting(characterFinder(NUMERIC), alone ? 'isolated' : 'contiguous');
    }
    case 'Punctuation':
      return cutting(characterFinder(PUNCTUATION), behaviorOf(config, at, 'isolated'));
    case 'WhitespaceSplit':
      return cutting(characterFinder(WHITE_SPACE), 'removed');
    case 'Whitespace':
      return cutting(wordsAndSigns, 'removed', true);
    case 'CharDelimiterSplit': {
      const delimiter = at.character(config, 'delimiter').codePointAt(0)!;
      return cutting(characterFinder(new CharacterSet((codePoint) => codePoint === delimiter)), 'removed');
    }
    case 'BertPreTokenizer':
      return chained(
        cutting(characterFinder(WHITE_SPACE), 'removed'),
        cutting(characterFinder(PUNCTUATION), 'isolated'),
      );
    case 'FixedLength':
      return cutting(blocksOf(at.count(config, 'length', 1, 5)), 'isolated');
    case 'UnicodeScripts':
      return cutting(scriptRuns, 'removed', true);
    case 'ByteLevel':
      return byteLevel(config, at);
    case 'Metaspace':
      return metaspace(config, at);
    default:
      throw at.error(
        `the pre-tokenizer ${shown(config.type)} is not supported`,
        'supported: ByteLevel, Metaspace, Whitespace, WhitespaceSplit, Split, Punctuation, Digits, BertPreTokenizer, ' +
          'CharDelimiterSplit, FixedLength, UnicodeScripts, Sequence',
      );
  }
}

function byteLevel(config: JsonObject, at: Place): Step {
  const prefix = at.flag(config, 'add_prefix_space', true);
  const find = at.flag(config, 'use_regex', true)
    ? expressionFinder(GPT2, at, 'the pre-tokenizer ByteLevel')
    : undefined;
  return {
    *run(pieces, from, to, budget) {
      for (const piece of pieces) {
        const text = prefix && !piece.startsWith(' ') ? ` ${piece}` : piece;
        const opening = from.opening === 0 ? 0 : from.opening + text.length - piece.length;
        if (find === undefined) {
          to.opening = toByteAlphabet(text.slice(0, opening)).length;
          yield toByteAlphabet(text);
          continue;
        }
        for (const part of cut(text, find, 'isolated', false, opening, to, budget)) {
          to.opening = toByteAlphabet(part.slice(0, to.opening)).length;
          yield toByteAlphabet(part);
        }
      }
    },
    keepsAll: true,
    writesBytes: true,
  };
}

const SCHEMES = ['always', 'first', 'never'] as const;

function metaspace(config: JsonObject, at: Place): Step {
  const mark = at.character(config, 'replacement', '▁');
  // Before there were schemes, there was add_prefix_space.
  const before = at.flag(config, 'add_prefix_space', true) ? 'always' : 'never';
  const named = at.text(config, 'prepend_scheme', before);
  const scheme = SCHEMES.find((name) => name === named);
  if (scheme === undefined) {
    throw at.error(`Metaspace.prepend_scheme is ${shown(named)}`, `supported: ${SCHEMES.join(', ')}`);
  }
  if (before === 'never' && named !== 'never') {
    throw at.error(`Metaspace.prepend_scheme is ${shown(named)} though add_prefix_space is false`);
  }
  const splits = at.flag(config, 'split', true);
  const marked = (text: string): string => text.replaceAll(' ', () => mark);
  const find = literalFinder(mark);
  return {
    *run(pieces, from, to, budget) {
      for (const piece of pieces) {
        let text = marked(piece);
        let opening = from.opening === 0 ? 0 : marked(piece.slice(0, from.opening)).length;
        const wanted = scheme === 'always' || (scheme === 'first' && opening > 0);
        if (wanted && !text.startsWith(mark)) {
          text = mark + text;
          if (opening > 0) opening += mark.length;
        }
        if (splits) yield* cut(text, find, 'mergedwithnext', false, opening, to, budget);
        else {
          to.opening = opening;
          yield text;
        }
      }
    },
    keepsAll: true,
  };
}

const BEHAVIORS = ['isolated', 'removed', 'mergedwithprevious', 'mergedwithnext', 'contiguous'] as const;
type Behavior = (typeof BEHAVIORS)[number];

function behaviorOf(config: JsonObject, at: Place, fallback?: Behavior): Behavior {
  const name = at.text(config, 'behavior', fallback);
  const behavior = BEHAVIORS.find((known) => known === name.toLowerCase());
  if (behavior !== undefined) return behavior;
  throw at.error(
    `${shown(config.type)} has the behavior ${shown(name)}`,
    'supported: Isolated, Removed, MergedWithPrevious, MergedWithNext, Contiguous',
  );
}

function cutting(find: Finder, behavior: Behavior, invert = false): Step {
  return {
    *run(pieces, from, to, budget) {
      for (const piece of pieces) yield* cut(piece, find, behavior, invert, from.opening, to, budget);
    },
    keepsAll: behavior !== 'removed',
  };
}

function chained(first: Step, second: Step): Step {
  return {
    run(pieces, from, to, budget) {
      const between: Start = { opening: 0 };
      return second.run(first.run(pieces, from, between, budget), between, to, budget);
    },
    keepsAll: first.keepsAll && second.keepsAll,
  };
}

/**
 * What becomes of the stretches that match (with `invert`, of those that do not), as the reference names it. A match may
 * be empty: it then keeps its neighbours apart.
 */
function* cut(
  text: string,
  find: Finder,
  behavior: Behavior,
  invert: boolean,
  opening: number,
  to: Start,
  budget: WorkBudget,
): Generator<string> {
  if (behavior === 'isolated') {
    // The usual one, by a shorter way.
    let done = 0;
    for (const [start, end] of find(text, budget)) {
      if (start > done) {
        to.opening = Math.max(0, Math.min(opening, start) - done);
        yield text.slice(done, start);
      }
      if (end > start) {
        to.opening = Math.max(0, Math.min(opening, end) - start);
        yield text.slice(start, end);
      }
      done = end;
    }
    if (done < text.length) {
      to.opening = Math.max(0, opening - done);
      yield text.slice(done);
    }
    return;
  }
  let pieceStart = 0;
  let pieceEnd = 0;
  let previous: boolean | undefined;
  for (const [start, end, matched] of stretches(text, find, budget)) {
    const delimiter = matched !== invert;
    const joins =
      (behavior === 'contiguous' && delimiter === previous) ||
      (behavior === 'mergedwithprevious' && delimiter && previous === false) ||
      (behavior === 'mergedwithnext' && !delimiter && previous === true);
    previous = delimiter;
    if (joins) {
      pieceEnd = end;
      continue;
    }
    if (pieceEnd > pieceStart) {
      to.opening = Math.max(0, Math.min(opening, pieceEnd) - pieceStart);
      yield text.slice(pieceStart, pieceEnd);
    }
    pieceStart = behavior === 'removed' && delimiter ? end : start;
    pieceEnd = end;
  }
  if (pieceEnd > pieceStart) {
    to.opening = Math.max(0, Math.min(opening, pieceEnd) - pieceStart);
    yield text.slice(pieceStart, pieceEnd);
  }
}

/** The whole text, in order: what matches and what lies between. */
function* stretches(
  text: string,
  find: Finder,
  budget: WorkBudget,
): Generator<readonly [start: number, end: number, matched: boolean]> {
  let done = 0;
  for (const [start, end] of find(text, budget)) {
    if (start > done) yield [done, start, false];
    yield [start, end, true];
    done = end;
  }
  if (done < text.length) yield [done, text.length, false];
}

const isWord = (codePoint: number): boolean => WORD.has(codePoint);
const isSign = (codePoint: number): boolean => !WORD.has(codePoint) && !WHITE_SPACE.has(codePoint);

/** Runs of word characters, and runs of what is neither that nor white space. */
function* wordsAndSigns(text: string): Generator<readonly [number, number]> {
  for (let at = 0; at < text.length; ) {
    const start = at;
    const codePoint = text.codePointAt(at)!;
    const belongs = isWord(codePoint) ? isWord : isSign;
    while (at < text.length && belongs(text.codePointAt(at)!)) at += text.codePointAt(at)! > 0xffff ? 2 : 1;
    if (at > start) yield [start, at];
    else at += codePoint > 0xffff ? 2 : 1;
  }
}

function blocksOf(length: number): Finder {
  return function* blocks(text) {
    let start = 0;
    let count = 0;
    let at = 0;
    for (const character of text) {
      at += character.length;
      if (++count < length) continue;
      yield [start, at];
      start = at;
      count = 0;
    }
    if (at > start) yield [start, at];
  };
}

const SPACE = ' ';

/**
 * Runs of one script; Japanese is one with Chinese, and spaces go with what stands before them. With nothing before them
 * they vanish, as in the reference.
 */
function* scriptRuns(text: string): Generator<readonly [number, number]> {
  let start: number | undefined;
  let at = 0;
  let last: string | undefined;
  for (const character of text) {
    const script = character === SPACE ? undefined : scriptOf(character.codePointAt(0)!);
    if (script !== undefined && script !== last) {
      if (start !== undefined) yield [start, at];
      start = at;
      last = script;
    }
    at += character.length;
  }
  if (start !== undefined) yield [start, at];
}
