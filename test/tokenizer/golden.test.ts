// Ids and texts against Hugging Face's tokenizers and sentencepiece (test/golden/tokenizer, made by scripts/golden/tokenizer.py).

import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { loadTokenizer } from '../../src/tokenizer/load-tokenizer.ts';

type Case = {
  ids: number[][];
  idsWithSpecial?: number[][];
  decode: [ids: number[], text: string, withoutSpecial?: string][];
};
const golden = new URL('../golden/tokenizer/', import.meta.url);
const cases = JSON.parse(readFileSync(new URL('cases.json', golden), 'utf8')) as { texts: string[] } & Record<
  string,
  Case
>;
const texts = cases.texts as string[];

describe.each(['first-model', 'llama3', 'neox', 'odd', 'llama2', 'sentencepiece', 'sentencepiece-symbols'])(
  '%s',
  async (name) => {
    const expected = cases[name]!;
    const tokenizer = await loadTokenizer(new URL(name, golden).pathname);

    test('encodes every text as the reference does', () => {
      const wrong = texts.flatMap((text, i) => {
        const ids = tokenizer.encode(text, { addSpecial: false });
        return JSON.stringify(ids) === JSON.stringify(expected.ids[i])
          ? []
          : [{ text, ids, reference: expected.ids[i] }];
      });
      expect(wrong).toEqual([]);
    });

    test.runIf(expected.idsWithSpecial !== undefined)('adds the same ids around a text', () => {
      for (const [i, ids] of expected.idsWithSpecial!.entries()) expect(tokenizer.encode(texts[i]!)).toEqual(ids);
    });

    test('decodes every list of ids as the reference does, whole and streamed', () => {
      for (const [ids, text, withoutSpecial] of expected.decode) {
        expect(tokenizer.decode(ids), JSON.stringify(ids)).toBe(text);
        const stream = tokenizer.streamDecoder();
        expect(ids.map((id) => stream.push(id)).join('') + stream.end()).toBe(text);
        if (withoutSpecial !== undefined) expect(tokenizer.decode(ids, { skipSpecial: true })).toBe(withoutSpecial);
      }
    });
  },
);
