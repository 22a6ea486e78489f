// What a file may make of a text is limited: small files that would take time or memory without end are told by name.

import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { loadTokenizer } from '../../src/tokenizer/load-tokenizer.ts';
import { pieceEncoder } from '../../src/tokenizer/piece-encoder.ts';
import { atOnce } from '../../src/tokenizer/text-encoding.ts';
import type { Tokenizer } from '../../src/tokenizer/tokenizer.ts';
import { TokenizerFileError } from '../../src/tokenizer/tokenizer-error.ts';
import { fuzz as fuzzJson } from '../fuzz/tokenizer-json.ts';
import { fuzz as fuzzModel } from '../fuzz/tokenizer-model.ts';
import { folderOf, goldenFolder, goldenTokenizer, type Json } from './model-folder.ts';
import { stageCase } from './stage-cases.ts';

async function tokenizerWith(change: Json): Promise<Tokenizer> {
  const json = { model: { type: 'BPE', vocab: { a: 0, b: 1, u: 2 }, merges: [], unk_token: 'u' }, ...change };
  return await loadTokenizer(folderOf({ 'tokenizer.json': json }));
}

const split = (Regex: string): Json => ({
  pre_tokenizer: { type: 'Split', pattern: { Regex }, behavior: 'Isolated', invert: false },
});
const replaces = (content: string, times: number): Json => ({
  normalizer: {
    type: 'Sequence',
    normalizers: Array.from({ length: times }, () => ({ type: 'Replace', pattern: { String: 'a' }, content })),
  },
});

describe('steps', () => {
  test.each([
    '(a+)+$',
    '(a|a)*c',
    '(a|aa)+c',
    '(?:a*a*)*?b|(a?){30}a{30}c',
    '(?=(?:a+)+c)b',
    '(?>(a+)+c)b',
    '(?<!b)(a+)+c',
  ])('%s on thirty letters', async (expression) => {
    let tokenizer: Tokenizer;
    try {
      tokenizer = await tokenizerWith(split(expression));
    } catch (error) {
      // Endless repetition of what may be empty is refused when the file is read.
      expect(error).toBeInstanceOf(TokenizerFileError);
      return;
    }
    const text = `${'a'.repeat(30)}b`;
    try {
      tokenizer.encode(text);
    } catch (error) {
      expect(error).toBeInstanceOf(TokenizerFileError);
      expect((error as Error).message).toMatch(
        /^the split expression takes more than \d+ steps on a text of 31 characters/,
      );
    }
  });

  test('are counted: this one needs more', async () => {
    const tokenizer = await tokenizerWith(split('(?:(?:a+)+)+c'));
    expect(() => tokenizer.encode('a'.repeat(30))).toThrow(
      /^the split expression takes more than 1056256 steps on a text of 30 characters .*; give a shorter text/,
    );
  });

  test('a run of spaces is no trouble for the patterns of public models', async () => {
    for (const name of ['llama3', 'neox']) {
      const tokenizer = await loadTokenizer(goldenFolder(name));
      const text = `${' '.repeat(20_000)}x${'\n'.repeat(20_000)}y`;
      expect(tokenizer.decode(tokenizer.encode(text, { addSpecial: false }))).toBe(text);
    }
  });

  test('the expression itself is limited', async () => {
    await expect(tokenizerWith(split('a'.repeat(5000)))).rejects.toThrow('5000 characters, more than 4096');
    await expect(tokenizerWith(split('(?:(?:a{900}){900}){900}'))).rejects.toThrow('add up to too much');
    await expect(tokenizerWith(split('(?:){9999}'))).rejects.toThrow('more than 1000 repetitions');
    await expect(tokenizerWith(split('(?:(?:(?:){999}){999}){999}'))).rejects.toThrow('add up to too much');
    await expect(tokenizerWith(split(`${'('.repeat(50)}a${')'.repeat(50)}`))).rejects.toThrow(
      '32 groups in each other',
    );
    await expect(tokenizerWith(split(`${'['.repeat(50)}a${']'.repeat(50)}`))).rejects.toThrow(
      '32 classes in each other',
    );
  });

  test.each([
    ['(a)\\1', 'the escape "\\1"'],
    ['\\p{Nonsense}', 'the property "Nonsense"'],
    ['[[:punct:]]', '[:punct:]'],
    ['(?i:é)', 'characters beyond ASCII regardless of case'],
    ['(?i:ss)', '"ss" regardless of case'],
    ['(?~a)', 'the group "(?~a"'],
    ['(?<=a+)b', 'a look behind of no fixed length'],
    ['a)', 'a ")" too many'],
    ['(a*)*', 'endless repetition of nothing'],
    ['[b-a]', 'a range that runs backwards'],
    ['[a', 'a class without end'],
    ['\\', 'the escape'],
  ])('%s is refused by name', async (expression, word) => {
    await expect(tokenizerWith(split(expression))).rejects.toThrow(word);
    await expect(tokenizerWith(split(expression))).rejects.toBeInstanceOf(TokenizerFileError);
  });
});

describe('characters', () => {
  test('a chain of replacements that doubles the text each time', async () => {
    const tokenizer = await tokenizerWith(replaces('aa', 60));
    expect(() => tokenizer.encode('a'.repeat(1000))).toThrow(
      /^the normalizer Replace makes more than 36096 characters of a text of 1000 /,
    );
  });

  test('one replacement of a letter by a long text', async () => {
    const tokenizer = await tokenizerWith(replaces('b'.repeat(100_000), 1));
    expect(() => tokenizer.encode('a'.repeat(100_000))).toThrow('makes more than');
  });

  test('the same in a decoder', async () => {
    const decoders = Array.from({ length: 60 }, () => ({ type: 'Replace', pattern: { String: 'a' }, content: 'aa' }));
    const tokenizer = await tokenizerWith({ decoder: { type: 'Sequence', decoders } });
    expect(() => tokenizer.decode([0])).toThrow('the decoder makes more than');
  });

  test('the same in the contents of normalized added tokens, at loading', async () => {
    const added_tokens = [{ id: 3, content: 'a'.repeat(1000), normalized: true, special: false }];
    await expect(tokenizerWith({ ...replaces('aa', 60), added_tokens })).rejects.toThrow('makes more than');
  });

  test('white space at the end goes in one pass, and marks inside stay', () => {
    const pieces = ['<unk>', '▁', 'a', 'b'].map((text, id) => ({ text, score: -id, type: id === 0 ? 2 : 1 }));
    const encoding = pieceEncoder(
      {
        ...{ file: 'made up', pieces, unknownId: 0, bosId: undefined, eosId: undefined },
        ...{ byteFallback: false, addDummyPrefix: false, removeExtraWhitespaces: true },
      },
      [],
    );
    const ids = atOnce(encoding.encode(`  a${'▁'.repeat(100_000)}b${' ▁'.repeat(1000)}`, { parseSpecial: true }));
    expect(ids).toEqual([2, ...Array(100_000).fill(1), 3]);
  });
});

test('many long added tokens take no more memory than their text', async () => {
  const added_tokens = Array.from({ length: 400 }, (_, i) => ({
    id: 3 + i,
    content: `${String.fromCodePoint(0x4e00 + i)}${'xy'.repeat(2500)}${i}`,
    normalized: false,
    special: true,
  }));
  const before = process.memoryUsage().heapUsed;
  const tokenizer = await tokenizerWith({ added_tokens });
  const text = `${added_tokens[7]!.content}a${added_tokens[399]!.content}`;
  expect(tokenizer.encode(text)).toEqual([10, 0, 402]);
  // Two million units: a node for each would be half a gigabyte.
  expect(process.memoryUsage().heapUsed - before).toBeLessThan(150e6);
});

test('the mark of Metaspace is a character and no expression', async () => {
  const vocab = { '.': 0, a: 1, b: 2, '.a': 3, '.b': 4 };
  const model = { type: 'BPE', vocab, merges: ['. a', '. b'] };
  const pre_tokenizer = { type: 'Metaspace', replacement: '.', prepend_scheme: 'always', split: true };
  const tokenizer = await tokenizerWith({ model, pre_tokenizer });
  expect(tokenizer.encode('a b')).toEqual([3, 4]);
  expect(tokenizer.encode('ab')).toEqual([3, 2]);
});

describe('in slices', () => {
  test('the ids are the same, and others have their turn', async () => {
    for (const name of ['llama3', 'llama2', 'sentencepiece']) {
      const tokenizer = await loadTokenizer(goldenFolder(name));
      const text = 'Once upon a time there was a heron. <|eot_id|> 12345 naïve 日本\n'.repeat(6000);
      let turns = 0;
      let done = false;
      const count = (): void => {
        turns++;
        if (!done) setImmediate(count);
      };
      setImmediate(count);
      const ids = await tokenizer.encodeInSlices(text);
      done = true;
      expect(ids).toEqual(tokenizer.encode(text));
      expect(turns, name).toBeGreaterThan(2);
    }
  });

  test('a signal ends it', async () => {
    const tokenizer = await loadTokenizer(goldenFolder('llama3'));
    const stop = new AbortController();
    const encoding = tokenizer.encodeInSlices('Once upon a time. '.repeat(100_000), { signal: stop.signal });
    setImmediate(() => stop.abort());
    await expect(encoding).rejects.toThrow('abort');
  });
});

test('the least number of tokens is never above the true one, whatever the stages are', async () => {
  let counted = 0;
  for (let seed = 1; seed <= 60; seed++) {
    const { tokenizer: json, texts } = stageCase(seed);
    const tokenizer = await loadTokenizer(folderOf({ 'tokenizer.json': json }));
    for (const text of texts) {
      const least = tokenizer.leastTokens(text);
      if (least > 0) counted++;
      let ids: readonly number[];
      try {
        ids = tokenizer.encode(text, { addSpecial: false });
      } catch {
        continue;
      }
      expect(least, `seed ${seed}, ${JSON.stringify(text)}`).toBeLessThanOrEqual(ids.length);
    }
  }
  expect(counted).toBeGreaterThan(20);
});

describe('fuzz targets', () => {
  const bytesOf = (name: string, file: string): Buffer => readFileSync(`${goldenFolder(name)}${file}`);

  test('tokenizer.json: changed bytes are read or refused', async () => {
    // Without the vocabulary most changes fall on the stages.
    const small = Buffer.from(JSON.stringify({ ...goldenTokenizer('llama2'), ...stageCase(3).tokenizer }));
    const change = fc.record({ at: fc.nat({ max: small.length - 1 }), byte: fc.integer({ min: 32, max: 126 }) });
    await fc.assert(
      fc.asyncProperty(fc.array(change, { minLength: 1, maxLength: 4 }), async (changes) => {
        const bytes = Uint8Array.from(small);
        for (const { at, byte } of changes) bytes[at] = byte;
        await fuzzJson(bytes);
      }),
      { numRuns: 60 },
    );
  });

  test('tokenizer.model: changed bytes are read or refused', () => {
    const good = bytesOf('sentencepiece', 'tokenizer.model');
    const change = fc.record({ at: fc.nat({ max: good.length - 1 }), byte: fc.integer({ min: 0, max: 255 }) });
    fc.assert(
      fc.property(fc.array(change, { minLength: 1, maxLength: 6 }), (changes) => {
        const bytes = Uint8Array.from(good);
        for (const { at, byte } of changes) bytes[at] = byte;
        fuzzModel(bytes);
      }),
      { numRuns: 30 },
    );
  });
});
