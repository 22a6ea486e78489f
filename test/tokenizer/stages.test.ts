// Every stage of tokenizer.json beside the reference (Hugging Face's tokenizers, in Rust): files drawn from a seed, with
// texts that have in them what stages disagree about. The answers in test/golden/tokenizer-2026/stages.json were given by
// tokenizers 0.23.2; where it is installed, more files are drawn and it is asked itself.

import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { Place } from '../../src/tokenizer/place.ts';
import { buildPreTokenizer } from '../../src/tokenizer/pre-tokenizer.ts';
import { textEncoder } from '../../src/tokenizer/text-encoder.ts';
import { atOnce } from '../../src/tokenizer/text-encoding.ts';
import { openStream } from '../../src/tokenizer/token-decoder.ts';
import { TokenizerFileError } from '../../src/tokenizer/tokenizer-error.ts';
import { parseTokenizerJson } from '../../src/tokenizer/tokenizer-json.ts';
import { WorkBudget } from '../../src/tokenizer/work-budget.ts';
import { missingReference, type Reference, referenceOf } from './reference.ts';
import { type StageCase, stageCase } from './stage-cases.ts';

type Golden = { readonly seed: number; readonly answer: Reference };
const goldens = JSON.parse(
  readFileSync(new URL('../golden/tokenizer-2026/stages.json', import.meta.url), 'utf8'),
) as readonly Golden[];

/** Null where the tokenizer refuses the text. */
function orRefused<T>(work: () => T): T | null {
  try {
    return work();
  } catch (error) {
    if (error instanceof TokenizerFileError) return null;
    throw error;
  }
}

async function expectSame(seed: number, { tokenizer, texts, ids }: StageCase, answer: Reference): Promise<void> {
  // The reference panics on some files of its own making; what it does not answer is not compared.
  if (answer.error !== undefined) return;
  const parsed = parseTokenizerJson(tokenizer, 'drawn');
  const encoding = await textEncoder(parsed);
  const preTokenizer = buildPreTokenizer(parsed.preTokenizer, new Place('drawn'));
  for (const [i, text] of texts.entries()) {
    const about = `seed ${seed}, text ${JSON.stringify(text)}`;
    const opening = (text.codePointAt(0) ?? 0) > 0xffff ? 2 : 1;
    const pieces = answer.pieces[i];
    if (pieces != null) {
      expect([...preTokenizer.pieces(text, opening, new WorkBudget('drawn', text.length))], about).toEqual(pieces);
    }
    const got = orRefused(() => atOnce(encoding.encode(text, { parseSpecial: true })));
    if (answer.ids[i] !== null) expect(got, about).toEqual(answer.ids[i]);
  }
  for (const [i, list] of ids.entries()) {
    for (const skipSpecial of [false, true]) {
      const wanted = (skipSpecial ? answer.shown : answer.decoded)[i];
      if (wanted == null) continue;
      const stream = openStream(parsed.decoder, parsed.vocabulary, { skipSpecial });
      const text = list.map((id) => stream.push(id)).join('') + stream.end();
      expect(text, `seed ${seed}, ids ${list.join(',')}`).toBe(wanted);
    }
  }
}

test('drawn files: pieces, ids and decoded texts are the reference’s', async () => {
  expect(goldens.length).toBeGreaterThan(100);
  for (const { seed, answer } of goldens) await expectSame(seed, stageCase(seed), answer);
});

test('the drawn files have every stage', () => {
  const found = new Set<string>();
  JSON.stringify(
    goldens.map(({ seed }) => stageCase(seed).tokenizer),
    (key, value: unknown) => {
      if (key === 'type') found.add(String(value));
      return key === 'vocab' ? undefined : value;
    },
  );
  expect([...found].sort()).toEqual([
    'BPE',
    'BPEDecoder',
    'BertNormalizer',
    'BertPreTokenizer',
    'ByteFallback',
    'ByteLevel',
    'CTC',
    'CharDelimiterSplit',
    'Digits',
    'FixedLength',
    'Fuse',
    'Lowercase',
    'Metaspace',
    'NFC',
    'NFD',
    'NFKC',
    'NFKD',
    'Nmt',
    'Prepend',
    'Punctuation',
    'Replace',
    'Sequence',
    'Split',
    'Strip',
    'StripAccents',
    'UnicodeScripts',
    'Unigram',
    'Whitespace',
    'WhitespaceSplit',
    'WordLevel',
    'WordPiece',
  ]);
});

const missing = missingReference();

test.skipIf(missing !== undefined)(
  `the installed reference agrees on other files${missing === undefined ? '' : ` (${missing})`}`,
  async () => {
    const first = 100_000;
    const cases = Array.from({ length: 200 }, (_, i) => stageCase(first + i));
    const answers = referenceOf(cases);
    for (const [i, one] of cases.entries()) await expectSame(first + i, one, answers[i]!);
  },
);
