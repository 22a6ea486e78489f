// Vocabularies of GGUF files that our own writer made from the golden tokenizers: the same ids must come out.

import { mkdtempSync, readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { GgufFile } from '../../src/formats/gguf-file.ts';
import { type GgufPair, writeGguf } from '../../src/formats/write-gguf.ts';
import { tokenizerFilesOf } from '../../src/tokenizer/export-vocabulary.ts';
import { loadTokenizer } from '../../src/tokenizer/load-tokenizer.ts';
import { parseSentencepieceModel } from '../../src/tokenizer/sentencepiece-model.ts';
import { goldenFolder, goldenTokenizer } from './model-folder.ts';

const texts = (
  JSON.parse(readFileSync(new URL('../golden/tokenizer/cases.json', import.meta.url), 'utf8')) as { texts: string[] }
).texts;

type Changes = Readonly<Record<string, GgufPair | undefined>>;

async function write(pairs: readonly GgufPair[], changes: Changes = {}): Promise<string> {
  const path = join(mkdtempSync(join(tmpdir(), 'tokenizer-')), 'vocabulary.gguf');
  const kept = pairs.filter((pair) => !(pair.key in changes));
  const metadata = [...kept, ...Object.values(changes).filter((pair) => pair !== undefined)];
  await writeGguf(path, { metadata, tensors: [] });
  return path;
}

const json = goldenTokenizer('llama3');
const model = json.model as { vocab: Record<string, number>; merges: [string, string][] };
const listed: string[] = [];
for (const [token, id] of Object.entries(model.vocab)) listed[id] = token;
for (const token of json.added_tokens) listed[token.id as number] = token.content as string;
const specials = new Set(json.added_tokens.map((token) => token.id as number));
const bosId = listed.indexOf('<|begin_of_text|>');
const bpe: GgufPair[] = [
  { key: 'general.architecture', type: 'string', value: 'bitnet' },
  { key: 'tokenizer.ggml.model', type: 'string', value: 'gpt2' },
  { key: 'tokenizer.ggml.pre', type: 'string', value: 'llama-bpe' },
  { key: 'tokenizer.ggml.tokens', type: 'array', elementType: 'string', value: listed },
  {
    key: 'tokenizer.ggml.token_type',
    type: 'array',
    elementType: 'i32',
    value: listed.map((_, id) => (specials.has(id) ? 3 : 1)),
  },
  {
    key: 'tokenizer.ggml.merges',
    type: 'array',
    elementType: 'string',
    value: model.merges.map((pair) => pair.join(' ')),
  },
  { key: 'tokenizer.ggml.bos_token_id', type: 'u32', value: bosId },
  { key: 'tokenizer.ggml.eos_token_id', type: 'u32', value: listed.indexOf('<|end_of_text|>') },
];

describe('byte-level', async () => {
  const folder = await loadTokenizer(goldenFolder('llama3'));

  test('gives the ids of the tokenizer.json it was made from', async () => {
    const tokenizer = await loadTokenizer(await write(bpe));
    for (const text of texts) expect(tokenizer.encode(text)).toEqual(folder.encode(text));
    expect(tokenizer.bosId).toBe(bosId);
    expect(tokenizer.warnings).toEqual([]);
  });

  test('add_bos_token decides; GPT-2’s kind adds none by itself', async () => {
    const off: GgufPair = { key: 'tokenizer.ggml.add_bos_token', type: 'bool', value: false };
    expect((await loadTokenizer(await write(bpe, { [off.key]: off }))).encode('')).toEqual([]);
    const pre: GgufPair = { key: 'tokenizer.ggml.pre', type: 'string', value: 'gpt-2' };
    expect((await loadTokenizer(await write(bpe, { [pre.key]: pre }))).encode('')).toEqual([]);
  });

  test('without a pre-tokenizer’s name, the default is used and said', async () => {
    const tokenizer = await loadTokenizer(await write(bpe, { 'tokenizer.ggml.pre': undefined }));
    expect(tokenizer.warnings.join()).toContain('tokenizer.ggml.pre');
    expect(tokenizer.decode(tokenizer.encode('1234567, ok?', { addSpecial: false }))).toBe('1234567, ok?');
  });

  test('several chat templates, and the way back into files', async () => {
    const several: GgufPair[] = [
      { key: 'tokenizer.chat_template', type: 'string', value: 'plain{{ bos_token }}' },
      { key: 'tokenizer.chat_templates', type: 'array', elementType: 'string', value: ['tool_use'] },
      { key: 'tokenizer.chat_template.tool_use', type: 'string', value: 'with tools' },
    ];
    const path = await write([...bpe, ...several]);
    const tokenizer = await loadTokenizer(path);
    const messages = [{ role: 'user', content: 'Hi' }];
    expect(tokenizer.renderChat(messages)).toBe('plain<|begin_of_text|>');
    expect(tokenizer.renderChat(messages, { tools: [] })).toBe('with tools');
    using file = await GgufFile.open(path);
    expect(tokenizerFilesOf(file).config.chat_template).toEqual([
      { name: 'tool_use', template: 'with tools' },
      { name: 'default', template: 'plain{{ bos_token }}' },
    ]);
  });

  test('2B-4T’s defective template gives way to the right one', async () => {
    const template: GgufPair = {
      key: 'tokenizer.chat_template',
      type: 'string',
      value: 'Human: x\n\nBITNETAssistant: ',
    };
    const tokenizer = await loadTokenizer(await write(bpe, { [template.key]: template }));
    expect(tokenizer.renderChat([{ role: 'user', content: 'Hi' }])).toBe('User: Hi<|eot_id|>Assistant: ');
    expect(tokenizer.endOfTurnIds).toEqual([listed.indexOf('<|eot_id|>')]);
    expect(tokenizer.encodeChat([{ role: 'user', content: 'Hi' }])[0]).toBe(bosId);
  });

  const one = (pair: GgufPair): Changes => ({ [pair.key]: pair });
  test.each<[name: string, changes: Changes, word: string]>([
    ['no vocabulary', { 'tokenizer.ggml.model': undefined }, 'no vocabulary'],
    ['another model', one({ key: 'tokenizer.ggml.model', type: 'string', value: 'bert' }), '"bert"'],
    ['an unknown pre-tokenizer', one({ key: 'tokenizer.ggml.pre', type: 'string', value: 'toString' }), 'llama-bpe'],
    ['no merges', { 'tokenizer.ggml.merges': undefined }, 'merges'],
    [
      'a merge of nothing known',
      one({ key: 'tokenizer.ggml.merges', type: 'array', elementType: 'string', value: ['qq zz'] }),
      'merges[0]',
    ],
    [
      'a merge without a space',
      one({ key: 'tokenizer.ggml.merges', type: 'array', elementType: 'string', value: ['ab'] }),
      'merges[0]',
    ],
    [
      'a token twice',
      one({ key: 'tokenizer.ggml.tokens', type: 'array', elementType: 'string', value: listed.with(5, listed[4]!) }),
      'tokens 4 and 5',
    ],
    [
      'too few types',
      one({ key: 'tokenizer.ggml.token_type', type: 'array', elementType: 'i32', value: [1, 1] }),
      '2 token types',
    ],
    [
      'a template of another type',
      one({ key: 'tokenizer.chat_template', type: 'u32', value: 1 }),
      'tokenizer.chat_template',
    ],
  ])('%s', async (_name, changes, word) => {
    await expect(loadTokenizer(await write(bpe, changes))).rejects.toThrow(
      expect.objectContaining({ fault: 'job', message: expect.stringContaining(word) }),
    );
  });
});

describe('sentencepiece', async () => {
  const folder = await loadTokenizer(goldenFolder('sentencepiece'));
  const { pieces } = parseSentencepieceModel(
    readFileSync(join(goldenFolder('sentencepiece'), 'tokenizer.model')),
    'golden',
  );
  const pairs: GgufPair[] = [
    { key: 'tokenizer.ggml.model', type: 'string', value: 'llama' },
    { key: 'tokenizer.ggml.tokens', type: 'array', elementType: 'string', value: pieces.map(({ text }) => text) },
    { key: 'tokenizer.ggml.scores', type: 'array', elementType: 'f32', value: pieces.map(({ score }) => score) },
    { key: 'tokenizer.ggml.token_type', type: 'array', elementType: 'i32', value: pieces.map(({ type }) => type) },
    { key: 'tokenizer.ggml.bos_token_id', type: 'u32', value: 1 },
    { key: 'tokenizer.ggml.eos_token_id', type: 'u32', value: 2 },
  ];

  test('gives the ids of the tokenizer.model it was made from', async () => {
    const tokenizer = await loadTokenizer(await write(pairs));
    for (const text of texts.filter((each) => !/<s>|<\/s>|<unk>/.test(each))) {
      expect(tokenizer.encode(text)).toEqual(folder.encode(text));
    }
  });

  test('without a space in front', async () => {
    const key = 'tokenizer.ggml.add_space_prefix';
    const tokenizer = await loadTokenizer(await write(pairs, { [key]: { key, type: 'bool', value: false } }));
    expect(tokenizer.decode(tokenizer.encode('the heron', { addSpecial: false }))).toBe('the heron');
    expect(tokenizer.token(tokenizer.encode('the', { addSpecial: false })[0]!)).not.toContain('▁');
  });

  test('scores must be as many as tokens', async () => {
    const key = 'tokenizer.ggml.scores';
    const path = await write(pairs, { [key]: { key, type: 'array', elementType: 'f32', value: [0] } });
    await expect(loadTokenizer(path)).rejects.toThrow('scores');
  });
});
