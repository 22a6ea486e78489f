// The patterns of tokenizer files, in JavaScript.

import fc from 'fast-check';
import { expect, test } from 'vitest';
import { GPT2, LLAMA3 } from '../../src/tokenizer/pattern.ts';
import { translateRegex } from '../../src/tokenizer/split-regex.ts';

test.each([
  ['\\s+', '\\p{White_Space}+'],
  ['[^\\s\\p{L}]', '[^\\p{White_Space}\\p{L}]'],
  ["(?i:'s|'ll)", "(?:'[sS\u017f]|'[lL][lL])"],
  ['(a|b)(?=c)(?!d)(?:e)', '(?:a|b)(?=c)(?!d)(?:e)'],
  ['\\d{1,3}?', '\\p{Nd}{1,3}?'],
  ['.', '[^\\n]'],
  ['[-+*]', '[-\\+\\*]'],
])('%s becomes %s', (source, expected) => {
  expect(translateRegex(source)?.('é').source).toBe(new RegExp(expected, 'gu').source);
});

test.each([
  ['\\s+', '[\\t-\\r ]+'],
  ['\\S', '[^\\t-\\r ]'],
  ['[^\\s\\p{L}]\\d?', '[^\\t-\\r A-Za-z][0-9]?'],
  // What ASCII has of these is not known, or no part of a class.
  ['\\p{Lu}', '\\p{Lu}'],
  ['\\p{L}\\p{Script=Greek}?', undefined],
  ['[\\S]', '[\\P{White_Space}]'],
  ['[-\\p{N}]', '[-\\p{N}]'],
])('%s becomes %s for a text of ASCII', (source, expected) => {
  expect(translateRegex(source)?.('e').source).toBe(
    expected === undefined ? undefined : new RegExp(expected, 'gu').source,
  );
});

test('a hyphen after a property is as wrong as it is without ASCII', () => {
  expect(translateRegex('[\\p{L}-z]')).toBeUndefined();
  expect(translateRegex('[a-\\p{L}]')).toBeUndefined();
});

const PATTERNS = [
  LLAMA3,
  GPT2,
  LLAMA3.replace('{1,3}', ''),
  '\\s+|\\S+',
  '[^\\s\\d]+|\\d|\\s',
  "(?i:'s|re)(?!\\p{N})|[\\p{L}\\p{N}_]+|.",
];

test.each(PATTERNS)('%s matches the same with ASCII alone', (source) => {
  const regexFor = translateRegex(source)!;
  const matches = (regex: RegExp, text: string) =>
    [...text.matchAll(regex)].map(({ 0: match, index }) => [index, match]);
  const wide = regexFor('é');
  expect(regexFor('e')).not.toBe(wide);
  const likely = fc.constantFrom(...'aZ09 \t\n\r\v\f\x1c\x7f_\'"!-.', "'s", "'RE", '  ', '\r\n');
  const ascii = fc.oneof(
    fc.string({ unit: 'binary-ascii' }),
    fc.array(likely).map((parts) => parts.join('')),
  );
  fc.assert(
    fc.property(ascii, (text) => {
      expect(matches(regexFor(text), text)).toEqual(matches(wide, text));
    }),
    { numRuns: 1000 },
  );
});

test.each([
  ['a possessive quantifier', 'a++'],
  ['an atomic group', '(?>a)'],
  ['look-behind', '(?<=a)b'],
  ['a nested class', '[a[b]]'],
  ['a POSIX class', '[[:alpha:]]'],
  ['an intersection', '[a&&b]'],
  ['an anchor', '^a$'],
  ['a word border', '\\bword'],
  ['a class that ignores case', '(?i:[a-z])'],
  ['a property that ignores case', '(?i:\\p{Lu})'],
  ['a letter beyond ASCII that ignores case', '(?i:é)'],
  ['an open group', '(a'],
  ['a closed group', 'a)'],
  ['an unknown property', '\\p{Nonsense}'],
  ['an open class', '[a'],
  ['an empty class', '[]'],
  ['a very long pattern', 'a'.repeat(5000)],
])('%s is left to the library', (_name, source) => {
  expect(translateRegex(source)).toBeUndefined();
});

test('white space is Unicode’s', () => {
  const matched = (text: string): boolean => translateRegex('\\s')!(text).test(text);
  expect([matched('\u0085'), matched('\ufeff'), matched('\u3000')]).toEqual([true, false, true]);
});
