// Data on its way to batches, the tokenizer trainer, and the schedule.

import { mkdtempSync, rmSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, describe, expect, test } from 'vitest';
import { loadTokenizer } from '../../src/tokenizer/load-tokenizer.ts';
import { nextTokenSequence, type Sequence } from '../../src/train/batch.ts';
import { MIN_VOCABULARY, trainBpe } from '../../src/train/bpe-trainer.ts';
import {
  BatchDealer,
  type Cursor,
  parseJsonl,
  readDataset,
  sequencesOf,
  splitHeldOut,
  windows,
} from '../../src/train/dataset.ts';
import { writeJson } from '../../src/train/export-model.ts';
import { ratesAt } from '../../src/train/schedule.ts';

const folder = mkdtempSync(join(tmpdir(), 'bitnet-data-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const STORY = 'The fox ran home. The fox ran to the hill, and the hen ran home, too. Naïve 日本 🦊!\n\n'.repeat(5);

async function tokenizer(vocabSize = 290) {
  const bpe = trainBpe([STORY], vocabSize, 128);
  await writeJson(join(folder, 'tokenizer.json'), bpe.tokenizer);
  await writeJson(join(folder, 'tokenizer_config.json'), bpe.tokenizerConfig);
  return { bpe, tokenizer: await loadTokenizer(folder) };
}

describe('tokenizer trainer', () => {
  test('what it learns reads back any text, in fewer tokens than bytes where it has learned', async () => {
    const { bpe, tokenizer: learned } = await tokenizer();
    expect(bpe.vocabSize).toBe(290);
    expect(learned.vocabSize).toBe(290);
    expect(learned.bosId).toBe(0);
    const ids = learned.encode(STORY);
    expect(ids[0]).toBe(0);
    expect(ids.length).toBeLessThan(Buffer.byteLength(STORY) / 2.5);
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), (text) => {
        fc.pre(!text.includes('<|'));
        expect(learned.decode(learned.encode(text, { addSpecial: false }))).toBe(text);
      }),
    );
  });

  test('merges the commonest pair first, among equals the one with the lower ids, and stops when no pair comes twice', () => {
    const merges = (text: string, extra: number) =>
      (trainBpe([text], MIN_VOCABULARY + extra, 64).tokenizer.model as { merges: string[][] }).merges;
    expect(merges('abab abab cd', 2)).toEqual([
      ['a', 'b'],
      ['ab', 'ab'],
    ]);
    // ba and cd come twice each: b has the lower id.
    expect(merges('ba cd.ba,cd', 1)).toEqual([['b', 'a']]);
    expect(merges('abc', 50)).toEqual([]);
    expect(trainBpe(['abc'], 9999, 64).vocabSize).toBe(MIN_VOCABULARY);
    // Overlapping pairs: aaaa is two merges of aa, not three.
    expect(merges('aaaa aaaa', 2)).toEqual([
      ['a', 'a'],
      ['aa', 'aa'],
    ]);
  });

  test('a letter repeated without end gives no token that is too long to load', async () => {
    const bpe = trainBpe(['a'.repeat(100_000)], 300, 64);
    await writeJson(join(folder, 'tokenizer.json'), bpe.tokenizer);
    await writeJson(join(folder, 'tokenizer_config.json'), bpe.tokenizerConfig);
    const learned = await loadTokenizer(folder);
    // 14 doublings reach the limit of 16,384 characters.
    expect(learned.vocabSize).toBe(MIN_VOCABULARY + 14);
  });
});

describe('datasets', () => {
  test('a mistake is reported with its line', async () => {
    expect(() => parseJsonl('{"text":"a"}\n\n{"txt":"b"}', 'x.jsonl')).toThrow(/x\.jsonl, line 3/);
    expect(() => parseJsonl('{"text":"a"', 'x.jsonl')).toThrow(/line 1.*one JSON object a line/);
    expect(() => parseJsonl('{"messages":[{"role":"user"}]}', 'x.jsonl')).toThrow(/none of the known forms/);
    await expect(readDataset(join(folder, 'none.jsonl'))).rejects.toThrow(/no such file/);
    await expect(readDataset(folder)).rejects.toThrow(/not a regular file/);
    await writeFile(join(folder, 'empty.txt'), '  \n');
    await expect(readDataset(join(folder, 'empty.txt'))).rejects.toThrow(/no text/);
  });

  test('a byte order mark is no text, and bytes that are not UTF-8 are refused with their line', async () => {
    const path = join(folder, 'bytes.jsonl');
    await writeFile(path, '\ufeff{"text":"a"}\r\n\r\n{"text":"naïve \ufffd"}\r\n');
    expect(await readDataset(path)).toEqual([
      { kind: 'text', text: 'a' },
      { kind: 'text', text: 'naïve \ufffd' },
    ]);
    await writeFile(path, Buffer.from('{"text":"a"}\n{"text":"na\xefve"}\n{"text":"b"}\n', 'latin1'));
    await expect(readDataset(path)).rejects.toThrow(/not UTF-8.*line 2/);
    await writeFile(join(folder, 'bytes.txt'), '\ufeffOnce');
    expect(await readDataset(join(folder, 'bytes.txt'))).toEqual([{ kind: 'text', text: 'Once' }]);
  });

  test('text is learned whole, a completion without its prompt, a chat where the assistant speaks', async () => {
    const { tokenizer: t } = await tokenizer();
    const learned = ({ targets }: Sequence) => t.decode(Array.from(targets).filter((id) => id >= 0));
    const [text] = sequencesOf({ kind: 'text', text: 'The fox ran.' }, t, 100);
    expect(text!.tokens[0]).toBe(t.bosId);
    expect(learned(text!)).toBe('The fox ran.<|end_of_text|>');
    const [pair] = sequencesOf({ kind: 'completion', prompt: 'Who ran?', completion: ' The hen.' }, t, 100);
    expect(t.decode(Array.from(pair!.tokens))).toBe('<|begin_of_text|>Who ran? The hen.');
    expect(learned(pair!)).toBe(' The hen.<|end_of_text|>');
    const messages = [
      { role: 'user', content: 'Who ran?' },
      { role: 'assistant', content: 'The fox.' },
      { role: 'user', content: 'Where?' },
      { role: 'assistant', content: 'Home.' },
    ];
    const chat = sequencesOf({ kind: 'chat', messages }, t, 200);
    expect(chat.map(learned)).toEqual(['The fox.<|eot_id|>', 'Home.<|eot_id|>']);
    // What stands before an answer is, token by token, what the model is given when it is asked.
    const asked = t.encodeChat(messages.slice(0, 3), { addGenerationPrompt: true });
    expect(Array.from(chat[1]!.tokens).slice(0, asked.length)).toEqual(asked);
    // A literal inside what was said does not end the turn.
    const literal = [
      { role: 'user', content: 'Say it.' },
      { role: 'assistant', content: 'a <|eot_id|> b' },
    ];
    const [tricky] = sequencesOf({ kind: 'chat', messages: literal }, t, 200);
    expect(Array.from(tricky!.targets).filter((id) => t.endOfTurnIds.includes(id))).toHaveLength(1);
  });

  test('windows: every token but the first is a target exactly once, in order', () => {
    fc.assert(
      fc.property(fc.array(fc.nat(999), { maxLength: 200 }), fc.integer({ min: 1, max: 50 }), (ids, context) => {
        const sequences = windows(ids, context);
        expect(sequences.flatMap(({ targets }) => Array.from(targets))).toEqual(ids.slice(1));
        for (const { tokens, targets } of sequences) {
          expect(tokens.length).toBeLessThanOrEqual(context);
          expect(targets.length).toBe(tokens.length);
        }
      }),
    );
  });

  test('held-out records are a fixed choice of the seed and never learned from', () => {
    const records = Array.from({ length: 40 }, (_, i) => [nextTokenSequence([i, i, i]), nextTokenSequence([i, i])]);
    const a = splitHeldOut(records, { share: 0.1, seed: 7n });
    expect(splitHeldOut(records, { share: 0.1, seed: 7n })).toEqual(a);
    expect(splitHeldOut(records, { share: 0.1, seed: 8n })).not.toEqual(a);
    expect(a.heldOut).toHaveLength(8);
    expect(a.train).toHaveLength(72);
    const first = ({ tokens }: Sequence) => tokens[0];
    expect(a.train.map(first).filter((id) => a.heldOut.map(first).includes(id))).toEqual([]);
    expect(splitHeldOut(records, { share: 0, seed: 7n }).heldOut).toEqual([]);
    const one = splitHeldOut([records[0]!], { share: 0.1, seed: 7n });
    expect([one.train.length, one.heldOut.length]).toEqual([1, 1]);
  });

  test('a cursor is all that a dealer needs; each epoch deals every sequence once, in an order of its own', () => {
    const sequences = Array.from({ length: 30 }, (_, i) => nextTokenSequence(Array(2 + (i % 5)).fill(i)));
    const options = { tokens: 9, seed: 3n };
    const whole = new BatchDealer(sequences, options);
    let cursor: Cursor = { epoch: 0, next: 0 };
    const epochs: number[][] = [];
    while (cursor.epoch < 3) {
      const dealt = whole.deal(cursor);
      // A new dealer at the same cursor: what a resumed run has.
      expect(new BatchDealer(sequences, options).deal(cursor)).toEqual(dealt);
      const count = dealt.sequences.reduce((sum, { tokens }) => sum + tokens.length, 0);
      expect(count).toBeLessThanOrEqual(9);
      epochs[cursor.epoch] ??= [];
      epochs[cursor.epoch]!.push(...dealt.sequences.map(({ tokens }) => tokens[0]!));
      cursor = dealt.cursor;
    }
    for (const epoch of epochs) expect([...epoch].sort((a, b) => a - b)).toEqual([...Array(30).keys()]);
    expect(epochs[0]).not.toEqual(epochs[1]);
    expect(epochs[1]).not.toEqual(epochs[2]);
  });
});

describe('schedule', () => {
  const settings = { lr: 1.5e-3, weightDecay: 0.1, warmup: 0, steps: 1000 } as const;

  test('two-stage: the published rates, with decay in the first half only', () => {
    const at = (step: number) => ratesAt({ ...settings, kind: 'two-stage' }, step);
    expect(at(0)).toEqual({ lr: 1.5e-3, weightDecay: 0.1 });
    expect(at(499).lr).toBeCloseTo(8e-4, 5);
    expect(at(499).weightDecay).toBe(0.1);
    expect(at(500)).toEqual({ lr: 5e-4, weightDecay: 0 });
    expect(at(999).lr).toBeCloseTo(0, 5);
  });

  test('warm-up rises evenly to the schedule, cosine ends at a tenth, constant stays', () => {
    const warm = [0, 1, 2, 3, 4].map((step) => ratesAt({ ...settings, kind: 'constant', warmup: 3 }, step).lr / 1.5e-3);
    [0.25, 0.5, 0.75, 1, 1].forEach((share, i) => {
      expect(warm[i]).toBeCloseTo(share, 12);
    });
    const cosine = (step: number) => ratesAt({ ...settings, kind: 'cosine' }, step).lr / 1.5e-3;
    expect(cosine(0)).toBe(1);
    expect(cosine(500)).toBeCloseTo(0.55, 12);
    expect(cosine(1000)).toBeCloseTo(0.1, 12);
  });
});
