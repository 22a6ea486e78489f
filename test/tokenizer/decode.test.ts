// The streaming decoder: its pieces join to the decoded whole whatever the ids are, and replacement characters are counted
// as the web platform counts them.

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { loadTokenizer } from '../../src/tokenizer/load-tokenizer.ts';
import { strictUtf8, Utf8Stream } from '../../src/tokenizer/utf8-stream.ts';
import { folderOf, goldenFolder, goldenTokenizer } from './model-folder.ts';

const bytes = fc.array(
  fc.oneof(
    fc.integer({ min: 0, max: 255 }),
    fc.constantFrom(0xe0, 0xed, 0xf0, 0xf4, 0x80, 0x9f, 0xa0, 0xbf, 0xc2, 0xef),
  ),
  { maxLength: 40 },
);

test('UTF-8 in pieces is what TextDecoder makes of the whole', () => {
  const reference = new TextDecoder('utf-8', { ignoreBOM: true });
  fc.assert(
    fc.property(bytes, (all) => {
      const stream = new Utf8Stream('sequence');
      const text = all.map((byte) => stream.push([byte])).join('') + stream.end();
      expect(text).toBe(reference.decode(Uint8Array.from(all)));
    }),
    { numRuns: 2000 },
  );
});

test('strictUtf8 accepts exactly what a fatal TextDecoder accepts', () => {
  const fatal = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
  const reference = (all: number[]): string | undefined => {
    try {
      return fatal.decode(Uint8Array.from(all));
    } catch {
      return undefined;
    }
  };
  fc.assert(
    fc.property(bytes, (all) => {
      expect(strictUtf8(all)).toBe(reference(all));
    }),
  );
  fc.assert(
    fc.property(fc.string({ unit: 'binary' }), (text) => {
      expect(strictUtf8(Buffer.from(text))).toBe(text);
    }),
  );
  expect(strictUtf8(Buffer.from('\u{fffd}'))).toBe('\u{fffd}');
});

describe.each(['llama3', 'neox', 'llama2', 'sentencepiece'])('%s', async (name) => {
  const tokenizer = await loadTokenizer(goldenFolder(name));
  const ids = fc.array(fc.integer({ min: 0, max: tokenizer.vocabSize - 1 }), { maxLength: 30 });

  test('pieces join to the whole, with and without special tokens', () => {
    fc.assert(
      fc.property(ids, fc.boolean(), (list, skipSpecial) => {
        const stream = tokenizer.streamDecoder({ skipSpecial });
        const text = list.map((each) => stream.push(each)).join('') + stream.end();
        expect(text).toBe(tokenizer.decode(list, { skipSpecial }));
      }),
    );
  });

  test('text comes back', () => {
    const known = fc.string({ unit: 'binary', maxLength: 40 });
    fc.assert(
      fc.property(known, (text) => {
        // NFC is part of that tokenizer; the mark of a space reads as a space.
        const normal = name === 'neox' ? text.normalize('NFC') : text.replaceAll('▁', name === 'llama3' ? '▁' : ' ');
        expect(tokenizer.decode(tokenizer.encode(text, { addSpecial: false }))).toBe(normal);
      }),
    );
  });

  test('prompt and continuation join without losing or gaining a space', () => {
    const prompt = tokenizer.encode('the heron');
    const more = tokenizer
      .encode('the heron waited 🐸', { addSpecial: false })
      .slice(prompt.length - tokenizer.encode('').length);
    const stream = tokenizer.streamDecoder({ after: prompt });
    const text = more.map((each) => stream.push(each)).join('') + stream.end();
    expect(tokenizer.decode(prompt, { skipSpecial: true }) + text).toBe('the heron waited 🐸');
  });

  test('nothing is nothing', () => {
    expect(tokenizer.decode([])).toBe('');
    expect(tokenizer.encode('', { addSpecial: false })).toEqual([]);
    expect(tokenizer.streamDecoder().end()).toBe('');
  });

  test('what is not an id is refused', () => {
    for (const bad of [-1, 0.5, Number.NaN, tokenizer.vocabSize, 2 ** 40]) {
      expect(() => tokenizer.decode([bad])).toThrow(expect.objectContaining({ code: 'BAD_ARGUMENT' }));
    }
  });

  test('lone surrogates count as U+FFFD', () => {
    expect(tokenizer.encode('a\ud83d b\udc38')).toEqual(tokenizer.encode('a\u{fffd} b\u{fffd}'));
  });
});

test('a first word after BOS alone has no space; after text it has', async () => {
  const tokenizer = await loadTokenizer(goldenFolder('llama2'));
  const [the] = tokenizer.encode('the', { addSpecial: false });
  const first = tokenizer.streamDecoder({ after: tokenizer.encode('') });
  expect(first.push(the!)).toBe('the');
  const later = tokenizer.streamDecoder({ after: tokenizer.encode('a') });
  expect(later.push(the!)).toBe(' the');
  expect(tokenizer.tokenText(the!)).toBe(' the');
});

test('a character appears with the token that completes it', async () => {
  const tokenizer = await loadTokenizer(goldenFolder('llama3'));
  const ids = tokenizer.encode('𐍈!', { addSpecial: false });
  const stream = tokenizer.streamDecoder();
  const pieces = ids.map((each) => stream.push(each));
  expect(pieces).toEqual([...Array(ids.length - 2).fill(''), '𐍈', '!']);
});

test('rows of a padded embedding table have no text but are ids', async () => {
  const json = goldenTokenizer('llama3');
  const tokenizer = await loadTokenizer(folderOf({ 'tokenizer.json': json, 'config.json': { vocab_size: 1024 } }));
  expect(tokenizer.vocabSize).toBeLessThan(1023);
  expect(tokenizer.decode([1023])).toBe('');
  expect(() => tokenizer.decode([1024])).toThrow(expect.objectContaining({ code: 'BAD_ARGUMENT' }));
});
