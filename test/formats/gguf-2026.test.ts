// GGUF files of 2026: type 42 in both meanings, PrismML's types, models in several parts, files that are not what their
// name says.

import { readFileSync } from 'node:fs';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { FormatError, Q2GroupError, SplitFileError, TruncatedFileError } from '../../src/formats/errors.ts';
import { GgufFile } from '../../src/formats/gguf-file.ts';
import { ggufModels } from '../../src/formats/model-files.ts';
import { openCheckpoint } from '../../src/formats/open-checkpoint.ts';
import { type Q2Table, q2Group } from '../../src/formats/q2-group.ts';
import { type GgufPair, type GgufTensorToWrite, writeGguf } from '../../src/formats/write-gguf.ts';
import { resolveModel } from '../../src/hub/resolve-model.ts';

const golden = join(import.meta.dirname, '../golden/qwen3');

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'gguf-2026-'));
});
afterAll(() => rm(folder, { recursive: true }));

type Table = {
  note: string;
  tensors: { name: string; dims: number[]; type: number; offset: number }[];
  data_bytes: number;
  answer: 'g64' | 'g128' | 'ambiguous' | 'error';
};
const { tables } = JSON.parse(readFileSync(join(golden, 'layouts.json'), 'utf8')) as { tables: Table[] };

describe('type 42 by the tensor table', () => {
  const tableOf = ({ tensors, data_bytes }: Table): Q2Table => ({
    file: 'x.gguf',
    alignment: 32,
    dataBytes: data_bytes,
    records: tensors.map(({ name, dims, type, offset }) => ({
      name,
      offset,
      shape: dims.toReversed(),
      isQ2: type === 42,
    })),
  });

  for (const [i, table] of tables.entries()) {
    test(`${i}: ${table.note}`, () => {
      const { answer } = table;
      const decide = () => q2Group([tableOf(table)]);
      if (answer === 'g64' || answer === 'g128') expect(decide()).toBe(answer === 'g64' ? 64 : 128);
      else expect(decide).toThrow(FormatError);
    });
  }

  const messageOf = (table: Table): string => {
    try {
      q2Group([tableOf(table)]);
    } catch (error) {
      return (error as Error).message;
    }
    return '';
  };

  test('what is refused names both sizes', () => {
    const [ambiguous, neither, disagree, short] = tables.slice(5) as [Table, Table, Table, Table];
    expect(messageOf(ambiguous)).toMatch(/blocks of 64 or of 128 here.*288 as blocks of 64, 272 as blocks of 128/);
    expect(messageOf(neither)).toMatch(/46080 as blocks of 64, 43520 as blocks of 128/);
    expect(messageOf(disagree)).toMatch(/disagree: .* takes 27648 bytes.* takes 26112 bytes/);
    expect(messageOf(short)).toMatch(/takes 43486 bytes.*43520 as blocks of 128.*the file is cut off/);
    expect(() => q2Group([tableOf(short)])).toThrow(TruncatedFileError);
    expect(() => q2Group([tableOf(disagree)])).toThrow(Q2GroupError);
  });

  test('the last tensor may end with the file, not padded; one before it may not', () => {
    const table = (dataBytes: number, more: Q2Table['records'] = []): Q2Table => ({
      file: 'x.gguf',
      alignment: 32,
      dataBytes,
      records: [{ name: 'w', shape: [9, 128], offset: 0, isQ2: true }, ...more],
    });
    // 324 bytes as blocks of 64, 306 as blocks of 128; padded 352 and 320.
    expect([324, 352, 306, 320].map((bytes) => q2Group([table(bytes)]))).toEqual([64, 64, 128, 128]);
    expect(() => q2Group([table(325)])).toThrow(Q2GroupError);
    expect(() => q2Group([table(300)])).toThrow(TruncatedFileError);
    const norm = (offset: number) => [{ name: 'n', shape: [8], offset, isQ2: false }];
    expect(q2Group([table(384, norm(320))])).toBe(128);
    expect(() => q2Group([table(338, norm(306))])).toThrow(Q2GroupError);
    // No elements tell nothing.
    expect(q2Group([table(320, [{ name: 'none', shape: [0, 64], offset: 320, isQ2: true }])])).toBe(128);
  });

  test('parts decide together, and no such tensor decides nothing', () => {
    const [g64, g128] = tables as [Table, Table];
    const small = tableOf(tables[5]!);
    expect(q2Group([small, tableOf(g128)])).toBe(128);
    expect(q2Group([small, tableOf(g64)])).toBe(64);
    expect(() => q2Group([tableOf(g64), tableOf(g128)])).toThrow(/disagree/);
    expect(q2Group([{ ...small, records: small.records.filter(({ isQ2 }) => !isQ2) }])).toBeUndefined();
  });

  test('files: both meanings open, at the sizes that they have', async () => {
    const open = async (name: string) => {
      using file = await GgufFile.open(join(golden, 'qwen3_all_layouts_s2601', name));
      const { dtype, byteLength, shape } = file.info('token_embd.weight');
      return [dtype, byteLength, ...shape];
    };
    expect(await open('q2_0_g64.gguf')).toEqual(['Q2_0', (296 * 256 * 18) / 64, 296, 256]);
    expect(await open('q2_0_g128.gguf')).toEqual(['Q2_0_G128', (296 * 256 * 34) / 128, 296, 256]);
    expect(await open('pq2_0.gguf')).toEqual(['PQ2_0', (296 * 256 * 34) / 128, 296, 256]);
    expect(await open('ptq1_0.gguf')).toEqual(['PTQ1_0', (296 * 256 * 28) / 128, 296, 256]);
  });

  test('PrismML’s types and both blocks are written by name', async () => {
    const path = join(folder, 'written.gguf');
    const sizes = { Q2_0_G128: 34, PQ2_0: 34, PTQ1_0: 28, Q1_0: 18 };
    for (const [type, size] of Object.entries(sizes)) {
      const bytes = new Uint8Array(size * 9).map((_, i) => i);
      await writeGguf(path, { metadata: [], tensors: [{ name: 'w', type, shape: [9, 128], bytes }] });
      using file = await GgufFile.open(path);
      expect(file.info('w').dtype).toBe(type);
      expect(await file.readBytes('w')).toEqual(bytes);
    }
  });
});

test('an unknown type is refused by its number, and told what to convert to', async () => {
  const path = join(folder, 'unknown.gguf');
  await writeGguf(path, {
    metadata: [],
    tensors: [{ name: 'w', type: 'PTQ1_0', shape: [1, 128], bytes: new Uint8Array(28) }],
  });
  const bytes = await readFile(path);
  const at = bytes.indexOf(Buffer.of(143, 0, 0, 0));
  const refused = async (id: number): Promise<string> => {
    bytes.writeUInt32LE(id, at);
    await writeFile(path, bytes);
    return GgufFile.open(path).then(
      () => '',
      (error: Error) => error.message,
    );
  };
  expect(await refused(999)).toMatch(/type 999 \(unknown\).*convert it to one of F16, BF16, Q8_0, TQ2_0, Q2_0/);
  expect(await refused(135)).toMatch(/IQ2_BN of ik_llama.cpp/);
});

describe('a model in parts', () => {
  const key = (name: string, type: 'u16' | 'i32', value: number): GgufPair => ({ key: `split.${name}`, type, value });
  const f32 = (value: number) => new Uint8Array(Float32Array.of(value, -value).buffer);

  type Change = { no?: number; count?: number; tensors?: number; architecture?: string; name?: string };

  /** Three parts; the first has metadata alone, as llama-gguf-split can write it. */
  async function write(name: string, changes: Readonly<Record<number, Change>> = {}): Promise<string[]> {
    const into = join(folder, name);
    await mkdir(into);
    const paths: string[] = [];
    for (let i = 0; i < 3; i++) {
      const { no = i, count = 3, tensors: total = 3, architecture, name: tensor } = changes[i] ?? {};
      const tensors: GgufTensorToWrite[] =
        i === 0
          ? []
          : [
              { name: tensor ?? `part${i}`, type: 'F32', shape: [2], bytes: f32(i) },
              ...(i === 2 ? [{ name: 'last', type: 'F32', shape: [2], bytes: f32(9) }] : []),
            ];
      const path = join(into, `m-0000${i + 1}-of-00003.gguf`);
      const own: GgufPair[] = [
        ...(i === 0 || architecture !== undefined
          ? [{ key: 'general.architecture', type: 'string', value: architecture ?? 'qwen3' } as const]
          : []),
        ...(i === 0 ? [{ key: 'qwen3.block_count', type: 'u32', value: 7 } as const] : []),
      ];
      await writeGguf(path, {
        metadata: [...own, key('no', 'u16', no), key('count', 'u16', count), key('tensors.count', 'i32', total)],
        tensors,
      });
      paths.push(path);
    }
    return paths;
  }

  const refused = (path: string) =>
    GgufFile.open(path).then(
      () => 'opened',
      (error: unknown) => {
        expect(error).toBeInstanceOf(FormatError);
        return (error as Error).message;
      },
    );

  test('is opened whole from any of them, and from their folder', async () => {
    const paths = await write('whole');
    for (const path of [...paths, join(folder, 'whole')]) {
      using file = (await openCheckpoint(path)) as GgufFile;
      expect(file.path).toBe(paths[0]);
      expect(file.architecture).toBe('qwen3');
      expect(file.number('qwen3.block_count')).toBe(7);
      expect(file.names()).toEqual(['part1', 'part2', 'last']);
      expect(await file.readBytes('part1')).toEqual(f32(1));
      expect((await file.read('part2')).bytes).toEqual(f32(2));
      expect(await file.readRange('last', 4, 8)).toEqual(f32(9).slice(4));
      const into = new Uint8Array(4);
      await file.readInto('part1', 0, into);
      expect(into).toEqual(f32(1).slice(0, 4));
      expect(file.info('last').file).toBe(paths[2]);
      expect(file.readSync('part1').bytes).toEqual(f32(1));
    }
    using ahead = await GgufFile.open(paths[1]!, { readAhead: true });
    expect(await ahead.readBytes('last')).toEqual(f32(9));
    expect(await resolveModel(join(folder, 'whole'))).toMatchObject({ kind: 'gguf', path: paths[0] });
  });

  test('a part that is not there is named', async () => {
    const paths = await write('missing');
    await rm(paths[1]!);
    expect(await refused(paths[2]!)).toMatch(
      /this is part 3 of 3 of one model, and m-00002-of-00003.gguf is not beside it.*download all parts/,
    );
    await rm(paths[0]!);
    await expect(GgufFile.open(paths[2]!)).rejects.toThrow(SplitFileError);
    expect(await refused(paths[2]!)).toMatch(/m-00001-of-00003.gguf, m-00002-of-00003.gguf are not beside it/);
  });

  test('parts that do not belong together are refused', async () => {
    const from = async (name: string, changes: Readonly<Record<number, Change>>, part = 0) =>
      refused((await write(name, changes))[part]!);
    expect(await from('number', { 1: { no: 2 } })).toMatch(/says that it is part 3 of 3, its name that it is 2 of 3/);
    expect(await from('count', { 2: { count: 4 } })).toMatch(/it is part 3 of 4/);
    expect(await from('total', { 1: { tensors: 5 } })).toMatch(/counts 5 tensors in all parts, the first part 3/);
    const all = { 0: { tensors: 4 }, 1: { tensors: 4 }, 2: { tensors: 4 } };
    expect(await from('sum', all)).toMatch(/the 3 parts hold 3 tensors, split.tensors.count says 4/);
    expect(await from('architecture', { 2: { architecture: 'llama' } })).toMatch(/architecture is "llama"/);
    expect(await from('twice', { 1: { name: 'last' } })).toMatch(/"last" occurs twice/);
    expect(await from('own number', { 0: { no: 7 } })).toMatch(/split.no is 7 of split.count 3/);
    const [first] = await write('renamed');
    const renamed = join(folder, 'renamed', 'other.gguf');
    await writeFile(renamed, await readFile(first!));
    expect(await refused(renamed)).toMatch(/part 1 of 3 of one model, but its name does not say so/);
  });

  test('a joined file keeps its keys, with no parts', async () => {
    const path = join(folder, 'joined.gguf');
    const metadata = [key('no', 'u16', 0), key('count', 'u16', 0), key('tensors.count', 'i32', 1)];
    await writeGguf(path, { metadata, tensors: [{ name: 'w', type: 'F32', shape: [2], bytes: f32(1) }] });
    using file = await GgufFile.open(path);
    expect(file.names()).toEqual(['w']);
  });

  test('type 42 is decided over all parts: one part alone could not tell', async () => {
    const into = join(folder, 'q2 parts');
    await mkdir(into);
    const tensors = [
      // 272 bytes, padded 288: both blocks fit.
      { name: 'small', type: 'Q2_0_G128', shape: [8, 128], bytes: new Uint8Array(272) },
      { name: 'large', type: 'Q2_0_G128', shape: [64, 128], bytes: new Uint8Array(64 * 34) },
    ];
    for (const [i, tensor] of tensors.entries()) {
      const metadata = [key('no', 'u16', i), key('count', 'u16', 2), key('tensors.count', 'i32', 2)];
      await writeGguf(join(into, `m-0000${i + 1}-of-00002.gguf`), { metadata, tensors: [tensor] });
    }
    using file = (await openCheckpoint(into)) as GgufFile;
    expect(file.info('small')).toMatchObject({ dtype: 'Q2_0_G128', byteLength: 272 });
  });
});

test('what lies beside a model, and parts, are no other models', () => {
  const parts = ['m-00002-of-00002.gguf', 'm-00001-of-00002.gguf'];
  expect(ggufModels([...parts, 'mmproj-F16.gguf', 'imatrix.gguf', 'README.md'])).toEqual(['m-00001-of-00002.gguf']);
  expect(ggufModels(['a.gguf', 'a-mmproj.gguf', 'a.imatrix.gguf'])).toEqual(['a.gguf']);
  expect(ggufModels(['b.gguf', 'a.gguf', 'x-00001-of-00002.gguf'])).toEqual([
    'a.gguf',
    'b.gguf',
    'x-00001-of-00002.gguf',
  ]);
  expect(ggufModels(['mmproj.gguf'])).toEqual(['mmproj.gguf']);
  expect(ggufModels(['a-00001-of-00002.gguf', 'a-00001-of-00003.gguf'])).toHaveLength(2);
});
