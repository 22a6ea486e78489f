// Files that are broken, contradictory or lying: each ends in one error that names the file and says what to do.

import { readFileSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { BitnetError } from '../../src/errors.ts';
import { loadTokenizer } from '../../src/tokenizer/load-tokenizer.ts';
import { parseSentencepieceModel } from '../../src/tokenizer/sentencepiece-model.ts';
import { folderOf, goldenFolder, goldenTokenizer, type Json } from './model-folder.ts';

/** Loading must fail with this code and a message that has the file and every given word. */
async function expectRefusal(folder: string, code: string, ...words: string[]): Promise<void> {
  const error = await loadTokenizer(folder).then(
    () => undefined,
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(BitnetError);
  expect((error as BitnetError).code).toBe(code);
  for (const word of [folder, ...words]) expect((error as BitnetError).message).toContain(word);
  expect((error as BitnetError).text.fix).toBeTruthy();
}

const changed = (change: (json: ReturnType<typeof goldenTokenizer>) => void): string => {
  const json = goldenTokenizer('llama3');
  change(json);
  return folderOf({ 'tokenizer.json': json });
};

test('no tokenizer', async () => {
  await expectRefusal(folderOf({ 'config.json': {} }), 'NO_TOKENIZER', 'tokenizer.json');
  await expectRefusal(join(folderOf({}), 'nowhere'), 'NO_TOKENIZER', 'no such');
  await expectRefusal(join(folderOf({ 'model.bin': 'x' }), 'model.bin'), 'NO_TOKENIZER');
});

describe('tokenizer.json', () => {
  test.each<[name: string, content: unknown, word: string]>([
    ['empty', '', 'the text is empty, not JSON'],
    ['cut off', readFileSync(join(goldenFolder('llama3'), 'tokenizer.json')).subarray(0, 5000), 'not JSON: expected'],
    ['a web page', '<!doctype html>', 'this is a web page, not JSON'],
    ['an array', '[]', 'an array'],
    ['null', 'null', 'null'],
    ['without a model', {}, '"model"'],
    ['with a model of text', { model: 'BPE' }, '"model"'],
    ['of another kind', { model: { type: 'Trigram', vocab: [] } }, 'Trigram'],
    ['of a kind that is no name', { model: { type: { a: 1 }, vocab: [] } }, 'an object'],
    ['with an empty list as vocabulary', { model: { type: 'Unigram', vocab: [] } }, 'empty'],
    ['with a token without a score', { model: { type: 'Unigram', vocab: [['a']] } }, 'model.vocab[0]'],
    ['with an unk_id beyond', { model: { vocab: [['a', 0]], unk_id: 1 } }, 'unk_id is 1'],
    ['with an unk_id of text', { model: { vocab: [['a', 0]], unk_id: 'length' } }, 'unk_id is "length"'],
    ['without vocabulary', { model: { type: 'BPE', merges: [] } }, '"vocab"'],
    ['with an empty vocabulary', { model: { vocab: {}, merges: [] } }, 'empty'],
    ['with a list as vocabulary', { model: { type: 'BPE', vocab: ['a'], merges: [] } }, 'an array'],
    ['without merges', { model: { vocab: { a: 0 } } }, 'merges'],
    ['with an id of text', { model: { vocab: { a: '0' }, merges: [] } }, '"a" has the id 0'],
    ['with a negative id', { model: { vocab: { a: -1 }, merges: [] } }, '-1'],
    ['with a fractional id', { model: { vocab: { a: 0.5 }, merges: [] } }, '0.5'],
    ['with a huge id', { model: { vocab: { a: 4e9 }, merges: [] } }, '4000000000'],
    ['with one id twice', { model: { vocab: { a: 0, b: 0 }, merges: [] } }, 'two tokens, "a" and "b"'],
    ['with a merge of one part', { model: { vocab: { a: 0 }, merges: ['a'] } }, 'merges[0]'],
    ['with a merge of three parts', { model: { vocab: { a: 0 }, merges: ['a a a'] } }, 'merges[0]'],
    ['with a merge of numbers', { model: { vocab: { a: 0 }, merges: [[1, 2]] } }, 'merges[0]'],
    ['with an unknown part', { model: { vocab: { a: 0, ab: 1 }, merges: [['a', 'b']] } }, '"b"'],
    ['with an unknown result', { model: { vocab: { a: 0, b: 1 }, merges: [['a', 'b']] } }, '"ab"'],
    ['with an unknown token of another type', { model: { vocab: { a: 0 }, merges: [], unk_token: {} } }, 'unk_token'],
    ['with a flag of another type', { model: { vocab: { a: 0 }, merges: [], fuse_unk: 'yes' } }, '"fuse_unk"'],
    [
      'with an endless prefix',
      { model: { vocab: { a: 0 }, merges: [], continuing_subword_prefix: '#'.repeat(999) } },
      'continuing_subword_prefix has 999',
    ],
    ['with dropout', { model: { vocab: { a: 0 }, merges: [], dropout: 0.1 } }, 'dropout'],
  ])('%s', async (_name, content, word) => {
    await expectRefusal(folderOf({ 'tokenizer.json': content }), 'BAD_TOKENIZER_FILE', 'tokenizer.json', word);
  });

  test.each<[name: string, change: (json: Json & { model: Json; added_tokens: Json[] }) => void, word: string]>([
    ['added token without content', (json) => json.added_tokens.push({ id: 2000 }), 'content'],
    ['added token with another token’s id', (json) => json.added_tokens.push({ id: 3, content: 'new' }), 'id 3'],
    ['added token against the vocabulary', (json) => json.added_tokens.push({ id: 2000, content: 'a' }), '"a"'],
    ['added tokens that are none', (json) => json.added_tokens.push(7 as unknown as Json), 'added_tokens[7]'],
    ['decoder of another kind', (json) => Object.assign(json, { decoder: { type: 'CTCX' } }), 'CTCX'],
    ['decoder of an object', (json) => Object.assign(json, { decoder: { type: { toString: 1 } } }), 'an object'],
    ['post-processor of another kind', (json) => Object.assign(json, { post_processor: { type: 'X' } }), '"X"'],
    [
      'post-processor with a stranger',
      (json) =>
        Object.assign(json, {
          post_processor: { type: 'TemplateProcessing', single: [{ SpecialToken: { id: '<x>' } }] },
        }),
      '<x>',
    ],
    ['normalizer of another kind', (json) => Object.assign(json, { normalizer: { type: 'Nonsense' } }), 'Nonsense'],
    [
      'pattern that does not parse',
      (json) => Object.assign(json, { pre_tokenizer: split('(') }),
      'a group without end',
    ],
    [
      'pattern of an object',
      (json) => Object.assign(json, { pre_tokenizer: { type: 'Split', pattern: {} } }),
      'pattern',
    ],
    [
      'behavior of an object',
      (json) => Object.assign(json, { pre_tokenizer: { ...split('a'), behavior: { toString: 1 } } }),
      '"behavior" must be a string, found an object',
    ],
    [
      'replacement of two characters',
      (json) => Object.assign(json, { pre_tokenizer: { type: 'Metaspace', replacement: '__' } }),
      'one character',
    ],
    ['special id beyond the vocabulary', (json) => Object.assign(json, { post_processor: roberta(99_999) }), '99999'],
    ['special id of text', (json) => Object.assign(json, { post_processor: roberta('7') }), '"7"'],
    [
      'special id of an object',
      (json) => Object.assign(json, { post_processor: roberta({ toString: 1 }) }),
      'an object',
    ],
    ['normalizers in normalizers', (json) => Object.assign(json, { normalizer: deep('normalizers') }), '16 deep'],
    ['pre-tokenizers', (json) => Object.assign(json, { pre_tokenizer: deep('pretokenizers') }), '16 deep'],
    ['decoders', (json) => Object.assign(json, { decoder: deep('decoders') }), '16 deep'],
    ['post-processors', (json) => Object.assign(json, { post_processor: deep('processors') }), '16 deep'],
    [
      'a thousand steps',
      (json) =>
        Object.assign(json, { normalizer: { type: 'Sequence', normalizers: Array(1000).fill({ type: 'NFC' }) } }),
      '256 steps',
    ],
  ])('%s', async (_name, change, word) => {
    await expectRefusal(changed(change), 'BAD_TOKENIZER_FILE', word);
  });

  test('names like __proto__ are tokens like others', async () => {
    const vocab = JSON.parse('{"__proto__":0,"constructor":1,"a":2}') as Json;
    const tokenizer = await loadTokenizer(
      folderOf({
        'tokenizer.json': JSON.stringify({
          model: { vocab, merges: [], ignore_merges: true },
          decoder: { type: 'ByteLevel' },
        }),
      }),
    );
    expect(tokenizer.encode('__proto__')).toEqual([0]);
    expect(tokenizer.encode('toString')).toEqual([]);
    expect(tokenizer.decode([1])).toBe('constructor');
  });
});

test.skipIf(process.platform === 'win32')('links in the place of a file', async () => {
  for (const name of ['tokenizer.json', 'tokenizer.model']) {
    const folder = folderOf({});
    symlinkSync(name, join(folder, name));
    await expectRefusal(folder, 'BAD_TOKENIZER_FILE', name, 'ELOOP');
  }
});

// No more is read than the file says it has: some files of /proc wait without end for what comes.
test.skipIf(process.platform !== 'linux')('a link to /proc is not read', async () => {
  const folder = folderOf({});
  symlinkSync('/proc/self/mem', join(folder, 'tokenizer.json'));
  await expectRefusal(folder, 'BAD_TOKENIZER_FILE', 'the text is empty, not JSON');
});

test('broken files around a good tokenizer.json', async () => {
  const json = goldenTokenizer('llama3');
  const withFile = (name: string, content: unknown): string => folderOf({ 'tokenizer.json': json, [name]: content });
  await expectRefusal(withFile('tokenizer_config.json', '{'), 'BAD_TOKENIZER_FILE', 'tokenizer_config.json');
  await expectRefusal(withFile('config.json', '[1]'), 'BAD_TOKENIZER_FILE', 'config.json');
  const added = { added_tokens_decoder: { x: { content: '<new>' } } };
  await expectRefusal(withFile('tokenizer_config.json', added), 'BAD_TOKENIZER_FILE', '<new>');
});

describe('tokenizer.model', () => {
  const good = readFileSync(join(goldenFolder('sentencepiece'), 'tokenizer.model'));
  const piece = (text: string): number[] => {
    const bytes = Buffer.from(text);
    return [0x0a, bytes.length + 2, 0x0a, bytes.length, ...bytes];
  };
  const bpe = [0x12, 0x02, 0x18, 0x02];
  const identity = [0x1a, 0x00];

  test.each<[name: string, content: Uint8Array, word: string]>([
    ['empty', new Uint8Array(), 'no pieces'],
    ['a pointer file', Buffer.from('version https://git-lfs.github.com/spec/v1\n'), 'Git LFS pointer'],
    ['cut off', good.subarray(0, good.length - 7), 'past the end'],
    ['a length beyond the file', Uint8Array.of(0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f), 'past the end'],
    ['a number without end', new Uint8Array(64).fill(0xff), 'more than 10 bytes'],
    ['field number 0', Uint8Array.of(0x02, 0x00), 'field number 0'],
    ['a group', Uint8Array.of(0x0b), 'wire type 3'],
    ['unigram', readFileSync(join(goldenFolder('unigram'), 'tokenizer.model')), 'unigram'],
    ['an empty piece', Uint8Array.of(0x0a, 0x00, ...bpe, ...identity), 'piece 0 has 0 characters'],
    ['one piece twice', Uint8Array.of(...piece('a'), ...piece('a'), ...bpe, ...identity), 'pieces 0 and 1'],
    ['a character map', Uint8Array.of(...piece('a'), ...bpe, 0x1a, 0x03, 0x12, 0x01, 0x00), 'character map'],
    ['unk_id out of range', Uint8Array.of(...piece('a'), 0x12, 0x05, 0x18, 0x02, 0xc0, 0x02, 0x09), 'unk_id 9'],
    [
      'byte fallback without bytes',
      Uint8Array.of(...piece('a'), 0x12, 0x05, 0x18, 0x02, 0x98, 0x02, 0x01),
      'byte fallback',
    ],
  ])('%s', async (_name, content, word) => {
    await expectRefusal(folderOf({ 'tokenizer.model': content }), 'BAD_TOKENIZER_FILE', 'tokenizer.model', word);
  });

  test('any change of bytes is read or refused, never worse', () => {
    const change = fc.record({ at: fc.nat({ max: good.length - 1 }), byte: fc.integer({ min: 0, max: 255 }) });
    fc.assert(
      fc.property(fc.array(change, { minLength: 1, maxLength: 6 }), fc.nat({ max: good.length }), (changes, cut) => {
        const bytes = Uint8Array.from(good);
        for (const { at, byte } of changes) bytes[at] = byte;
        try {
          parseSentencepieceModel(bytes.subarray(0, cut > 100 ? cut : good.length), 'fuzz');
        } catch (error) {
          expect(error).toBeInstanceOf(BitnetError);
        }
      }),
      { numRuns: 300 },
    );
  });
});

test('brackets in each other by the thousand', async () => {
  for (const [open, close] of [
    ['[', ']'],
    ['{"normalizers":[', ']}'],
  ] as const) {
    const normalizer = open.repeat(20_000) + close.repeat(20_000);
    const folder = folderOf({ 'tokenizer.json': `{"model":{"vocab":{"a":0},"merges":[]},"normalizer":${normalizer}}` });
    await expectRefusal(folder, 'BAD_TOKENIZER_FILE', 'nested');
  }
});

test('whatever a file has, its error is one readable sentence', async () => {
  const long = 'x'.repeat(437_000);
  const bad: Json[] = [
    { normalizer: { type: long } },
    { normalizer: { type: { [long]: long } } },
    { pre_tokenizer: split(`(?<${long}`) },
    { pre_tokenizer: { ...split('a'), behavior: long } },
    { decoder: { type: [long] } },
    { post_processor: { type: 'BertProcessing', cls: [long, long], sep: [long, 0] } },
    { model: { type: long, vocab: {} } },
    { model: { type: 'BPE', vocab: { a: 0 }, merges: [long] } },
    { model: { type: 'BPE', vocab: { a: 0 }, merges: [[long, long, long]] } },
    { model: { type: 'BPE', vocab: { a: long }, merges: [] } },
    { model: { type: 'BPE', vocab: { a: 0 }, merges: [], dropout: long } },
    { added_tokens: [{ id: long, content: 'a' }] },
    { added_tokens: [{ id: 0, content: long }] },
  ];
  for (const change of bad) {
    const folder = changed((json) => Object.assign(json, change));
    const error = await loadTokenizer(folder).catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(BitnetError);
    expect((error as BitnetError).message.length).toBeLessThan(500);
  }
});

function roberta(id: unknown): Json {
  return { type: 'RobertaProcessing', sep: ['</s>', id], cls: ['<s>', 0] };
}

/** Sequences in each other. */
function deep(key: string): Json {
  let inner: Json = { type: 'Sequence', [key]: [] };
  for (let i = 0; i < 40; i++) inner = { type: 'Sequence', [key]: [inner] };
  return inner;
}

function split(pattern: string): Json {
  return { type: 'Split', pattern: { Regex: pattern }, behavior: 'Isolated', invert: false };
}
