// The patterns of tokenizer files, in JavaScript.

import { expect, test } from 'vitest';
import { translateRegex } from '../../src/tokenizer/split-regex.ts';

test.each([
  ['\\s+', '\\p{White_Space}+'],
  ['[^\\s\\p{L}]', '[^\\p{White_Space}\\p{L}]'],
  ["(?i:'s|'ll)", "(?:'[sS]|'[lL][lL])"],
  ['(a|b)(?=c)(?!d)(?:e)', '(?:a|b)(?=c)(?!d)(?:e)'],
  ['\\d{1,3}?', '\\p{Nd}{1,3}?'],
  ['.', '[^\\n]'],
  ['[-+*]', '[-\\+\\*]'],
])('%s becomes %s', (source, expected) => {
  expect(translateRegex(source)?.source).toBe(new RegExp(expected, 'gu').source);
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
  const matched = (text: string): boolean => translateRegex('\\s')!.test(text);
  expect([matched('\u0085'), matched('\ufeff'), matched('\u3000')]).toEqual([true, false, true]);
});
