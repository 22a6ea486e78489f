// llama.cpp's own vocabularies and expected ids. The files are another project's and not copied here.

import { existsSync, readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { loadTokenizer } from '../../src/tokenizer/load-tokenizer.ts';

const folder = new URL('../../../shared/golden/tokenizer/', import.meta.url);

test.for(['gpt-2', 'llama-spm'])('llama.cpp vocabulary %s', async (name, { skip }) => {
  if (!existsSync(folder)) skip('the folder shared/golden/tokenizer is not beside this repository');
  const file = new URL(`ggml-vocab-${name}.gguf`, folder).pathname;
  const texts = readFileSync(`${file}.inp`, 'utf8').split('\n__ggml_vocab_test__\n');
  // The last text is followed by its separator's line break, and each line of ids by one.
  const lines = readFileSync(`${file}.out`, 'utf8').split('\n').slice(0, texts.length);
  const expected = lines.map((line) =>
    line
      .split(' ')
      .filter((id) => id !== '')
      .map(Number),
  );
  const tokenizer = await loadTokenizer(file);
  const wrong = texts.flatMap((text, i) => {
    const ids = tokenizer.encode(text, { addSpecial: false });
    return JSON.stringify(ids) === JSON.stringify(expected[i]) ? [] : [{ text, ids, expected: expected[i] }];
  });
  expect(texts.length).toBeGreaterThan(40);
  expect(wrong).toEqual([]);
  for (const text of texts) expect(tokenizer.decode(tokenizer.encode(text, { addSpecial: false }))).toBe(text);
});
