// Our encoder beside @huggingface/tokenizers: the same ids wherever the library covers what a file asks for.

import fc from 'fast-check';
import { expect, test } from 'vitest';
import { bpeEncoder } from '../../src/tokenizer/bpe-encoder.ts';
import { libraryEncoder } from '../../src/tokenizer/library-encoder.ts';
import { loadTokenizer } from '../../src/tokenizer/load-tokenizer.ts';
import { parseTokenizerJson } from '../../src/tokenizer/tokenizer-json.ts';
import { folderOf, goldenTokenizer } from './model-folder.ts';

const unit = fc.oneof(
  fc.constantFrom(
    'a',
    'e',
    'th',
    'the',
    ' ',
    ' ',
    '\n',
    '1',
    '12',
    "'s",
    "'LL",
    '.',
    '<|eot_id|>',
    'é',
    '猫',
    '🐸',
    '\t',
    '\u00a0',
  ),
  fc.string({ unit: 'grapheme', maxLength: 3 }),
);
const text = fc.array(unit, { maxLength: 30 }).map((parts) => parts.join(''));

test.each(['llama3', 'llama2'])('%s: the library agrees', (name) => {
  const parsed = parseTokenizerJson(goldenTokenizer(name), name);
  const ours = bpeEncoder(parsed)!;
  const library = libraryEncoder(parsed);
  fc.assert(
    fc.property(text, fc.boolean(), (input, parseSpecial) => {
      expect(ours.encode(input, { parseSpecial })).toEqual(library.encode(input, { parseSpecial }));
    }),
    { numRuns: 500 },
  );
});

test('a stage that only the library has is left to it', async () => {
  const json = goldenTokenizer('neox');
  json.normalizer = { type: 'Lowercase' };
  expect(bpeEncoder(parseTokenizerJson(json, 'test'))).toBeUndefined();
  const tokenizer = await loadTokenizer(folderOf({ 'tokenizer.json': json }));
  expect(tokenizer.decode(tokenizer.encode('The HERON'))).toBe('the heron');
});
