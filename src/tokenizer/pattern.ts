// What a stage looks for in a text: a literal, an expression, or characters of a set.

import type { CharacterSet } from './character-set.ts';
import { isObject } from './json-file.ts';
import type { Place } from './place.ts';
import { Expression, ExpressionError, isPlain, parseExpression } from './split-expression.ts';
import { type RegexFor, translateRegex } from './split-regex.ts';
import { quote } from './vocabulary.ts';
import type { WorkBudget } from './work-budget.ts';

/** Matches in order, as start and end. Texts are well formed. */
export type Finder = (text: string, budget: WorkBudget) => Iterable<readonly [start: number, end: number]>;

/** GPT-2's, which ByteLevel has in itself; contractions in lower case only. */
export const GPT2 = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
export const LLAMA3 =
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
export const QWEN2 = LLAMA3.replace('\\p{N}{1,3}', '\\p{N}');
/** Marks join letters. */
export const QWEN35 =
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

/**
 * Expressions that JavaScript's own engine may run: in each, whatever run an alternative gives up is taken whole by the
 * next ones at the same place, so that no character is looked at more than a few times. `|'(?i:…)` forms are the same.
 */
const HARMLESS: ReadonlySet<string> = new Set([
  GPT2,
  LLAMA3,
  QWEN2,
  QWEN35,
  LLAMA3.replace("(?i:'s|'t|'re|'ve|'m|'ll|'d)", "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"),
  QWEN2.replace("(?i:'s|'t|'re|'ve|'m|'ll|'d)", "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"),
]);

/** The finder of `{"String": …}`, `{"Regex": …}`. Throws TokenizerFileError for anything else. */
export function finderOf(pattern: unknown, at: Place, where: string): Finder {
  if (isObject(pattern) && typeof pattern.String === 'string') return literalFinder(pattern.String);
  if (isObject(pattern) && typeof pattern.Regex === 'string') return expressionFinder(pattern.Regex, at, where);
  throw at.error(`${where} needs a "pattern" that is {"String": …} or {"Regex": …}`);
}

export function literalFinder(literal: string): Finder {
  if (literal === '') return everyBorder;
  return function* find(text) {
    for (let at = text.indexOf(literal); at >= 0; at = text.indexOf(literal, at + literal.length)) {
      yield [at, at + literal.length];
    }
  };
}

/** Nothing stands before, between and after all characters. */
function* everyBorder(text: string): Generator<readonly [number, number]> {
  let at = 0;
  for (const character of text) {
    yield [at, at];
    at += character.length;
  }
  yield [at, at];
}

export function expressionFinder(source: string, at: Place, where: string): Finder {
  const known = HARMLESS.has(source) ? translateRegex(source) : undefined;
  if (known !== undefined) return regexFinder(known);
  try {
    const tree = parseExpression(source);
    const plain = isPlain(tree) ? translateRegex(source) : undefined;
    if (plain !== undefined) return regexFinder(plain);
    const expression = new Expression(tree);
    return (text, budget) => expression.matches(text, budget);
  } catch (cause) {
    if (!(cause instanceof ExpressionError)) throw cause;
    throw at.error(
      `${where}: the expression ${quote(source)} has ${cause.message}, which is not supported`,
      'use another tokenizer, or write the expression in another way',
      cause,
    );
  }
}

function regexFinder(regexFor: RegexFor): Finder {
  return function* find(text) {
    const regex = new RegExp(regexFor(text));
    let lastEnd = -1;
    for (let match = regex.exec(text); match !== null; match = regex.exec(text)) {
      const end = match.index + match[0].length;
      if (end > match.index) {
        yield [match.index, end];
        lastEnd = end;
        continue;
      }
      if (end !== lastEnd) yield [end, end];
      regex.lastIndex += (text.codePointAt(end) ?? 0) > 0xffff ? 2 : 1;
    }
  };
}

/** Every character of a set by itself. */
export function characterFinder(set: CharacterSet): Finder {
  return function* find(text) {
    for (let at = 0; at < text.length; ) {
      const codePoint = text.codePointAt(at)!;
      const end = at + (codePoint > 0xffff ? 2 : 1);
      if (set.has(codePoint)) yield [at, end];
      at = end;
    }
  };
}
