// A tokenizer that was kept is the one of the file, or it is not used.

import {
  appendFileSync,
  copyFileSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { readKeptTokenizer, settledState } from '../../src/tokenizer/kept-tokenizer.ts';
import { loadTokenizer } from '../../src/tokenizer/load-tokenizer.ts';
import { hashOfText, PackedRanks, PackedTokens } from '../../src/tokenizer/packed-tokens.ts';
import { goldenFolder } from './model-folder.ts';

const home = mkdtempSync(join(tmpdir(), 'kept-tokenizer-'));
afterAll(() => rmSync(home, { recursive: true }));

let cache: string;
let folder: string;
let file: string;
let count = 0;
beforeEach(() => {
  cache = join(home, `cache-${count}`);
  vi.stubEnv('XDG_CACHE_HOME', cache);
  folder = mkdtempSync(join(home, 'model-'));
  file = join(folder, 'tokenizer.json');
  count += 1;
  copyFileSync(join(goldenFolder('llama3'), 'tokenizer.json'), file);
  letTimePass();
});
afterEach(() => {
  vi.unstubAllEnvs();
  vi.restoreAllMocks();
});

/** What was written a moment ago is not kept; this is a minute later. */
function letTimePass() {
  const later = Date.now() + 60_000;
  vi.spyOn(Date, 'now').mockReturnValue(later);
}

const keptFile = () => {
  const kept = join(cache, 'bitnet-gf3-mcp', 'tokenizers');
  const names = readdirSync(kept);
  expect(names).toHaveLength(1);
  return join(kept, names[0]!);
};

const TEXTS = [
  'Once upon a time, 3 cats & 12345 dogs didn’t sleep…',
  '<|begin_of_text|>naïve café ☕ 東京\r\n\n  \ttabs',
  "I'LL 💡 \u0000\u0085\ufeff x",
  '',
];

describe.each(['first-model', 'llama2', 'llama3', 'neox', 'odd'])('%s', (name) => {
  test('a kept one does what the file says', async () => {
    copyFileSync(join(goldenFolder(name), 'tokenizer.json'), file);
    letTimePass();
    expect(readKeptTokenizer(file)).toBeUndefined();
    const parsed = await loadTokenizer(folder);
    expect(readKeptTokenizer(file)).toBeDefined();
    const kept = await loadTokenizer(folder);
    expect(kept.vocabSize).toBe(parsed.vocabSize);
    for (let id = 0; id < parsed.vocabSize + 3; id++) {
      expect(kept.token(id)).toBe(parsed.token(id));
      const token = parsed.token(id);
      if (token !== undefined) expect(kept.tokenId(token)).toBe(parsed.tokenId(token));
      expect(kept.isSpecial(id)).toBe(parsed.isSpecial(id));
    }
    for (const text of TEXTS) {
      for (const parseSpecial of [true, false]) {
        const ids = parsed.encode(text, { parseSpecial });
        expect(kept.encode(text, { parseSpecial })).toEqual(ids);
        expect(kept.decode(ids)).toBe(parsed.decode(ids));
      }
    }
    fc.assert(
      fc.property(fc.string({ unit: 'grapheme' }), (text) => {
        expect(kept.encode(text)).toEqual(parsed.encode(text));
      }),
    );
  });
});

describe('nothing is taken from what was kept of', () => {
  test.each<[string, () => void]>([
    [
      'a file of the same size and time',
      () => {
        const then = new Date('2026-01-01T00:00:00Z');
        const text = readFileSync(file, 'utf8');
        const { ctimeMs } = statSync(file);
        // Until the clock of the file system, which may tick every few milliseconds only, has gone on.
        do {
          writeFileSync(file, `${text.slice(0, -2)}${text.slice(-1)}${text.slice(-2, -1)}`);
          utimesSync(file, then, then);
        } while (statSync(file).ctimeMs === ctimeMs);
        expect(statSync(file)).toMatchObject({ size: Buffer.byteLength(text), mtime: then });
      },
    ],
    ['a file that has grown', () => appendFileSync(file, ' ')],
    ['a file that is gone', () => rmSync(file)],
  ])('%s', async (_, change) => {
    const then = new Date('2026-01-01T00:00:00Z');
    utimesSync(file, then, then);
    await loadTokenizer(folder);
    expect(readKeptTokenizer(file)).toBeDefined();
    change();
    letTimePass();
    expect(readKeptTokenizer(file)).toBeUndefined();
  });

  test.each<[string, (kept: Buffer) => Buffer]>([
    ['an empty file', () => Buffer.alloc(0)],
    ['other text', () => Buffer.from('not a tokenizer')],
    ['zeros', (kept) => Buffer.alloc(kept.length)],
    ['half of it', (kept) => kept.subarray(0, kept.length / 2)],
    ['one byte less', (kept) => kept.subarray(0, -1)],
    [
      'one byte changed',
      (kept) => {
        const changed = Buffer.from(kept);
        changed[kept.length - 100]! ^= 1;
        return changed;
      },
    ],
    ['another form', (kept) => Buffer.from(kept.toString('latin1').replaceAll('"format":2', '"format":1'), 'latin1')],
    [
      'another file',
      (kept) => Buffer.from(kept.toString('latin1').replaceAll('tokenizer.json', 'tokenizer_json'), 'latin1'),
    ],
  ])('a file in the cache that is %s', async (_, damage) => {
    const before = await loadTokenizer(folder);
    const sound = readFileSync(keptFile());
    writeFileSync(keptFile(), damage(sound));
    expect(readKeptTokenizer(file)).toBeUndefined();
    expect((await loadTokenizer(folder)).encode(TEXTS[0]!)).toEqual(before.encode(TEXTS[0]!));
    expect(readFileSync(keptFile())).toEqual(sound);
  });
});

test('a file written a moment ago is not kept', async () => {
  writeFileSync(file, readFileSync(file));
  // However long it takes to load it.
  vi.spyOn(Date, 'now').mockReturnValue(statSync(file).ctimeMs + 1000);
  expect(settledState(file)).toBeUndefined();
  await loadTokenizer(folder);
  letTimePass();
  expect(readKeptTokenizer(file)).toBeUndefined();
});

test('a broken file is reported every time', async () => {
  writeFileSync(file, readFileSync(file, 'utf8').replace('"ByteLevel"', '"BiteLevel"'));
  letTimePass();
  const errors = [];
  for (let i = 0; i < 2; i++) errors.push(await loadTokenizer(folder).then(String, (error: Error) => error.message));
  expect(errors[1]).toBe(errors[0]);
});

test('where nothing can be written, the file is parsed every time', async () => {
  writeFileSync(cache, 'in the way');
  const ids = (await loadTokenizer(folder)).encode(TEXTS[0]!);
  expect((await loadTokenizer(folder)).encode(TEXTS[0]!)).toEqual(ids);
  expect(readKeptTokenizer(file)).toBeUndefined();
});

test('what was kept of models that nobody has loaded for a month goes', async () => {
  await loadTokenizer(folder);
  const old = `${keptFile()}.old`;
  copyFileSync(keptFile(), old);
  const then = new Date(Date.now() - 31 * 24 * 60 * 60 * 1000);
  utimesSync(old, then, then);
  writeFileSync(file, `${readFileSync(file, 'utf8')} `);
  letTimePass();
  await loadTokenizer(folder);
  expect(readdirSync(join(cache, 'bitnet-gf3-mcp', 'tokenizers'))).toHaveLength(1);
});

describe('packed tables', () => {
  test('hold what a map of the tokens holds', () => {
    const tokens = fc
      .uniqueArray(fc.string({ unit: 'binary' }), { maxLength: 40 })
      .chain((all) =>
        fc.tuple(fc.constant(all), fc.array(fc.nat(3), { minLength: all.length, maxLength: all.length })),
      );
    fc.assert(
      fc.property(tokens, fc.string({ unit: 'binary' }), ([all, gaps], other) => {
        const table: (string | undefined)[] = [];
        for (const [i, token] of all.entries()) table.push(...Array(gaps[i]!).fill(undefined), token);
        const packed = PackedTokens.pack(table)!;
        expect(packed.size).toBe(table.length);
        for (let id = -1; id <= table.length; id++) expect(packed.token(id)).toBe(table[id]);
        for (const token of [...all, other]) {
          const id = table.indexOf(token);
          expect(packed.id(token)).toBe(id < 0 ? undefined : id);
        }
        expect([...packed.entries()]).toEqual(table.flatMap((token, id) => (token === undefined ? [] : [[token, id]])));
      }),
    );
  });

  test('give a pair its last rank', () => {
    const pairs = fc.array(fc.tuple(fc.nat(5), fc.nat(5)), { maxLength: 60 });
    fc.assert(
      fc.property(pairs, (all) => {
        const packed = PackedRanks.pack(
          Int32Array.from(all, ([a]) => a),
          Int32Array.from(all, ([, b]) => b),
        )!;
        for (let a = 0; a < 7; a++) {
          for (let b = 0; b < 7; b++) {
            const rank = all.findLastIndex(([first, second]) => first === a && second === b);
            expect(packed.get(a, b)).toBe(rank < 0 ? undefined : rank);
          }
        }
      }),
    );
  });

  test('are not made of tokens that were chosen to collide', () => {
    const colliding: string[] = [];
    for (let i = 0; colliding.length < 100; i++) if ((hashOfText(`${i}`) & 255) === 0) colliding.push(`${i}`);
    expect(PackedTokens.pack(colliding)).toBeUndefined();
    expect(PackedTokens.pack(Array.from({ length: 100 }, (_, i) => `${i}`))).toBeDefined();
  });
});
