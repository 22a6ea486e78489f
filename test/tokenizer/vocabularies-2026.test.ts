// Qwen's vocabularies in both kinds of file, and files of situations that people met, with the reference's ids.

import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { loadTokenizer } from '../../src/tokenizer/load-tokenizer.ts';
import { expressionFinder, QWEN35 } from '../../src/tokenizer/pattern.ts';
import { Place } from '../../src/tokenizer/place.ts';
import { WorkBudget } from '../../src/tokenizer/work-budget.ts';
import { folderOf, goldenTokenizer } from './model-folder.ts';

const at = (name: string): string => new URL(`../golden/tokenizer-2026/${name}`, import.meta.url).pathname;
const json = (name: string) => JSON.parse(readFileSync(at(name), 'utf8'));

type Case = {
  readonly text: string;
  readonly ids: number[];
  readonly decoded?: string;
  readonly pieces?: readonly string[];
};

describe.each(['qwen3', 'qwen3/tokenizer.gguf'])('%s', (name) => {
  const { cases, eos_set: ends } = json('qwen3/expected.json') as { cases: Case[]; eos_set: number[] };

  test('ids, without a BOS, and the way back', async () => {
    const tokenizer = await loadTokenizer(at(name));
    expect(cases.length).toBe(46);
    for (const { text, ids } of cases) {
      expect(tokenizer.encode(text), JSON.stringify(text)).toEqual(ids);
      expect(tokenizer.decode(ids)).toBe(text.normalize('NFC'));
    }
  });

  test('ends are the end of a turn and the end of a text', async () => {
    const tokenizer = await loadTokenizer(at(name));
    expect(tokenizer.stopIds(undefined, { eos_token_id: ends })).toEqual(ends);
    if (name.endsWith('.gguf')) expect([...tokenizer.eosIds].sort((a, b) => a - b)).toEqual(ends);
  });

  test('thoughts and tool calls are added tokens that are not special', async () => {
    const tokenizer = await loadTokenizer(at(name));
    for (const token of ['<think>', '</think>', '<tool_call>', '</tool_call>']) {
      const id = tokenizer.tokenId(token)!;
      expect(tokenizer.encode(token)).toEqual([id]);
      expect(tokenizer.isSpecial(id)).toBe(false);
      expect(tokenizer.decode([id], { skipSpecial: true })).toBe(token);
    }
    expect(tokenizer.isSpecial(tokenizer.tokenId('<|im_end|>')!)).toBe(true);
    expect(tokenizer.isSpecial(tokenizer.tokenId('<|endoftext|>')!)).toBe(true);
  });
});

describe('qwen35', () => {
  const { cases } = json('qwen35/expected.json') as { cases: Case[] };

  test('ids, without a BOS', async () => {
    const tokenizer = await loadTokenizer(at('qwen35/tokenizer.gguf'));
    for (const { text, ids } of cases) expect(tokenizer.encode(text), JSON.stringify(text)).toEqual(ids);
  });

  test('pieces: marks join letters', () => {
    const find = expressionFinder(QWEN35, new Place('qwen35'), 'here');
    const pieces = cases.filter((one) => one.pieces !== undefined);
    expect(pieces.length).toBeGreaterThan(10);
    for (const one of pieces) {
      const text = one.text.normalize('NFC');
      const found = [...find(text, new WorkBudget('qwen35', text.length))].map(([start, end]) =>
        text.slice(start, end),
      );
      expect(found).toEqual(one.pieces);
    }
  });
});

test.each(['whitespace-words', 'possessive-split', 'metaspace-decoder'])('%s', async (name) => {
  const tokenizer = await loadTokenizer(at(name));
  for (const { text, ids, decoded } of json(`${name}/expected.json`) as Case[]) {
    expect(tokenizer.encode(text, { addSpecial: false }), JSON.stringify(text)).toEqual(ids);
    if (decoded !== undefined) expect(tokenizer.decode(ids)).toBe(decoded);
  }
});

describe('an unknown token that no vocabulary has', () => {
  test('is never asked for by byte-level BPE', async () => {
    const before = await loadTokenizer(folderOf({ 'tokenizer.json': goldenTokenizer('llama3') }));
    const changed = goldenTokenizer('llama3');
    changed.model.unk_token = '<unk>';
    const tokenizer = await loadTokenizer(folderOf({ 'tokenizer.json': changed }));
    for (const text of ['Once upon a time', 'é🐸\u{10ffff}'])
      expect(tokenizer.encode(text)).toEqual(before.encode(text));
  });

  test.each([
    ['BPE', { type: 'BPE', vocab: { a: 0 }, merges: [], unk_token: '<unk>' }],
    ['WordLevel', { type: 'WordLevel', vocab: { a: 0 }, unk_token: '<unk>' }],
    ['WordPiece', { type: 'WordPiece', vocab: { a: 0 }, unk_token: '<unk>' }],
    ['Unigram', { type: 'Unigram', vocab: [['a', 0]], unk_id: null }],
  ])('is named where %s needs it', async (_, model) => {
    const tokenizer = await loadTokenizer(folderOf({ 'tokenizer.json': { model } }));
    expect(tokenizer.encode('a')).toEqual([0]);
    expect(() => tokenizer.encode('b')).toThrow(
      /^the vocabulary has no token for "b", (nor|and no) .*unk.*tokenizer.json/,
    );
  });
});

describe('GGUF', () => {
  test('a turn’s end that is called normal text is one token, ends things, and is told of', async () => {
    const tokenizer = await loadTokenizer(at('turn-end-mislabelled/vocab.gguf'));
    expect(tokenizer.encode('hello<|eot_id|>')).toEqual([265, 259, 267]);
    expect(tokenizer.isSpecial(267)).toBe(true);
    expect(tokenizer.stopIds()).toContain(267);
    expect(tokenizer.stopTest()(267)).toBe(true);
    expect(tokenizer.encode('<|start_header_id|>')).toHaveLength(2);
    expect(tokenizer.warnings).toEqual([
      expect.stringMatching(
        /calls "<\|eot_id\|>", "<\|start_header_id\|>", "<\|end_header_id\|>" normal text .*control/,
      ),
    ]);
  });

  test('a word that merges make may be declared a token of its own', async () => {
    const tokenizer = await loadTokenizer(at('user-defined-merge/vocab.gguf'));
    expect(tokenizer.encode('hello world')).toEqual([265, 259, 264]);
    expect(tokenizer.isSpecial(259)).toBe(false);
    expect(tokenizer.warnings).toEqual([]);
  });

  test('so may a control token', async () => {
    const bytes = readFileSync(at('user-defined-merge/vocab.gguf'));
    const userDefined = bytes.indexOf(Buffer.from([4, 0, 0, 0]), typesAt(bytes));
    bytes[userDefined] = 3;
    const tokenizer = await loadTokenizer(`${folderOf({ 'vocab.gguf': bytes })}/vocab.gguf`);
    expect(tokenizer.encode('hello world')).toEqual([265, 259, 264]);
    expect(tokenizer.isSpecial(259)).toBe(true);
  });
});

/** Where the list of token types begins in a file. */
function typesAt(bytes: Buffer): number {
  return bytes.indexOf('tokenizer.ggml.token_type') + 'tokenizer.ggml.token_type'.length + 16;
}
