// Which ids go around a text, and which files decide it.

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { loadTokenizer } from '../../src/tokenizer/load-tokenizer.ts';
import { folderOf, goldenFolder, goldenTokenizer } from './model-folder.ts';

const around = async (files: Readonly<Record<string, unknown>>): Promise<string[]> => {
  const tokenizer = await loadTokenizer(folderOf(files));
  return tokenizer.encode('').map((id) => tokenizer.token(id)!);
};
const llama3 = goldenTokenizer('llama3');
const names = { bos_token: '<|begin_of_text|>', eos_token: { content: '<|end_of_text|>' } };

describe('tokenizer.json', () => {
  test('the post-processor decides', async () => {
    expect(await around({ 'tokenizer.json': llama3 })).toEqual(['<|begin_of_text|>']);
    expect(await around({ 'tokenizer.json': goldenTokenizer('neox') })).toEqual([]);
    expect(await around({ 'tokenizer.json': goldenTokenizer('odd') })).toEqual(['<s>', '</s>']);
  });

  test('tokenizer_config.json has the last word', async () => {
    const off = { ...names, add_bos_token: false };
    expect(await around({ 'tokenizer.json': llama3, 'tokenizer_config.json': off })).toEqual([]);
    const both = { ...names, add_bos_token: true, add_eos_token: true };
    expect(await around({ 'tokenizer.json': llama3, 'tokenizer_config.json': both })).toEqual([
      '<|begin_of_text|>',
      '<|end_of_text|>',
    ]);
  });

  test('Llama 3’s early files, whose post-processor adds nothing, get their BOS', async () => {
    const early = { ...llama3, post_processor: { type: 'ByteLevel' } };
    expect(await around({ 'tokenizer.json': early, 'tokenizer_config.json': names })).toEqual(['<|begin_of_text|>']);
    expect(await around({ 'tokenizer.json': early })).toEqual([]);
  });

  test('ends of texts come from all configurations', async () => {
    const tokenizer = await loadTokenizer(
      folderOf({
        'tokenizer.json': llama3,
        'tokenizer_config.json': names,
        'config.json': { eos_token_id: 5 },
        'generation_config.json': { eos_token_id: [5, 6] },
      }),
    );
    expect(tokenizer.eosIds).toEqual([tokenizer.tokenId('<|end_of_text|>'), 5, 6]);
    expect(tokenizer.bosId).toBe(tokenizer.tokenId('<|begin_of_text|>'));
  });

  test('tokens that only the files around it name are matched too', async () => {
    const size = (await loadTokenizer(goldenFolder('llama3'))).vocabSize;
    const tokenizer = await loadTokenizer(
      folderOf({
        'tokenizer.json': llama3,
        'tokenizer_config.json': { added_tokens_decoder: { [size]: { content: '<|new|>', special: true } } },
        'added_tokens.json': { '<extra>': size + 1 },
      }),
    );
    expect(tokenizer.encode('<|new|><extra>', { addSpecial: false })).toEqual([size, size + 1]);
    expect(tokenizer.isSpecial(size)).toBe(true);
    expect(tokenizer.isSpecial(size + 1)).toBe(false);
  });
});

describe('tokenizer.model', () => {
  const model = readFileSync(join(goldenFolder('sentencepiece'), 'tokenizer.model'));

  test('begins with BOS; a literal is text unless a configuration gives it a role', async () => {
    const bare = await loadTokenizer(folderOf({ 'tokenizer.model': model }));
    expect(bare.encode('')).toEqual([1]);
    expect([bare.bosId, bare.eosIds]).toEqual([1, [2]]);
    expect(bare.encode('<s>', { addSpecial: false })).not.toContain(1);
    const config = { bos_token: '<s>', eos_token: '</s>', unk_token: '<unk>' };
    const told = await loadTokenizer(folderOf({ 'tokenizer.model': model, 'tokenizer_config.json': config }));
    expect(told.encode('<s></s>', { addSpecial: false })).toEqual([1, 2]);
    expect(told.encode('<s>', { addSpecial: false, parseSpecial: false })).toEqual(
      bare.encode('<s>', { addSpecial: false }),
    );
  });

  test('as 1bitLLM ships it: two more tokens, and every stretch of text has its own leading space', async () => {
    const tokenizer = await loadTokenizer(
      folderOf({
        'tokenizer.model': model,
        'added_tokens.json': { '<pad>': 800, '<more>': 801 },
        'special_tokens_map.json': { bos_token: '<s>', eos_token: '</s>', unk_token: '<unk>', pad_token: '<pad>' },
      }),
    );
    const the = tokenizer.encode('the', { addSpecial: false });
    expect(tokenizer.vocabSize).toBe(802);
    expect(tokenizer.encode('the<pad>the<more>')).toEqual([1, ...the, 800, ...the, 801]);
    expect([tokenizer.isSpecial(800), tokenizer.isSpecial(801)]).toEqual([true, false]);
  });

  test('gives the ids of the same vocabulary as tokenizer.json', async () => {
    const json = await loadTokenizer(goldenFolder('llama2'));
    const tokenizer = await loadTokenizer(folderOf({ 'tokenizer.model': model }));
    for (const text of ['the heron waits', 'Straße 🐸 猫', '  a  b ', 'x'.repeat(300), 'the '.repeat(500)]) {
      expect(tokenizer.encode(text)).toEqual(json.encode(text));
    }
  });
});
