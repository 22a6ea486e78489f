// The first embedded model's tokenizer against the ids and texts that transformers computed with it, and the shipped
// model's against its own configuration.

import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { loadTokenizer } from '../../src/tokenizer/load-tokenizer.ts';

describe('first embedded model', async () => {
  const folder = new URL('../golden/tokenizer/first-model/', import.meta.url);
  const expected = JSON.parse(readFileSync(new URL('expected.json', folder), 'utf8')) as {
    rows: { prompt: string; input_ids: number[]; greedy: number[]; text: string }[];
  };
  const tokenizer = await loadTokenizer(folder.pathname);

  test.each(expected.rows)('$prompt', ({ prompt, input_ids, greedy, text }) => {
    expect(tokenizer.encode(prompt)).toEqual(input_ids);
    expect(tokenizer.encode(prompt, { addSpecial: false })).toEqual(input_ids.slice(1));
    expect(tokenizer.decode(greedy)).toBe(text);
    const stream = tokenizer.streamDecoder({ after: input_ids });
    expect(greedy.map((id) => stream.push(id)).join('') + stream.end()).toBe(text);
  });

  test('the ids that begin and end things', () => {
    expect(tokenizer.vocabSize).toBe(4096);
    expect(tokenizer.bosId).toBe(0);
    expect(tokenizer.eosIds).toEqual([1, 2]);
    expect(tokenizer.stopIds()).toEqual([1, 2]);
  });

  test('a chat begins with one BOS, though template and post-processor both write one', () => {
    const ids = tokenizer.encodeChat([{ role: 'user', content: 'Hi' }]);
    expect(ids).toEqual([0, 363, 28, 1439, 201, 362, 28]);
    expect(tokenizer.renderChat([{ role: 'user', content: 'Hi' }])).toBe('<|begin_of_text|>User: Hi\nAssistant:');
  });
});

test('the shipped model’s tokenizer fits its configuration', async () => {
  const folder = new URL('../../models/default/', import.meta.url);
  const config = JSON.parse(readFileSync(new URL('config.json', folder), 'utf8')) as {
    vocab_size: number;
    bos_token_id: number;
    eos_token_id: number | number[];
  };
  const tokenizer = await loadTokenizer(folder.pathname);
  expect(tokenizer.vocabSize).toBe(config.vocab_size);
  expect(tokenizer.bosId).toBe(config.bos_token_id);
  expect(tokenizer.eosIds).toEqual(expect.arrayContaining([config.eos_token_id].flat()));
  const ids = tokenizer.encodeChat([{ role: 'user', content: 'Hi' }]);
  expect(ids.filter((id) => id === config.bos_token_id)).toHaveLength(1);
  expect(ids[0]).toBe(config.bos_token_id);
});
