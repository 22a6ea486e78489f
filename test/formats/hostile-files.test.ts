// One small file for every defect we know how to make. Each must end in one of our own errors that names the file.

import { execFileSync } from 'node:child_process';
import { mkdir, mkdtemp, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import {
  DuplicateNameError,
  FileAccessError,
  FormatError,
  HeaderLimitError,
  HeaderSyntaxError,
  NoCheckpointError,
  ShardIndexError,
  TensorRangeError,
  TruncatedFileError,
  UnknownTensorError,
  UnsupportedTypeError,
} from '../../src/formats/errors.ts';
import { GgufFile } from '../../src/formats/gguf-file.ts';
import { openCheckpoint } from '../../src/formats/open-checkpoint.ts';
import { SafetensorsFile } from '../../src/formats/safetensors-file.ts';
import { writeGguf } from '../../src/formats/write-gguf.ts';
import { writeSafetensors } from '../../src/formats/write-safetensors.ts';

let folder: string;
let count = 0;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'hostile-'));
});
afterAll(() => rm(folder, { recursive: true }));

async function fileOf(bytes: Uint8Array, extension: string): Promise<string> {
  const path = join(folder, `${count++}.${extension}`);
  await writeFile(path, bytes);
  return path;
}

function withHeader(header: string | Uint8Array, data = 0, length?: bigint): Uint8Array {
  const json = typeof header === 'string' ? Buffer.from(header) : Buffer.from(header);
  const prefix = Buffer.alloc(8);
  prefix.writeBigUInt64LE(length ?? BigInt(json.length));
  return Buffer.concat([prefix, json, Buffer.alloc(data)]);
}

const entry = (dtype: string, shape: string, begin: number | string, end: number | string): string =>
  `{"dtype":"${dtype}","shape":[${shape}],"data_offsets":[${begin},${end}]}`;
const one = (tensor: string) => `{"w":${tensor}}`;

type ErrorClass = new (...args: never[]) => FormatError;

const BAD_SAFETENSORS: [string, Uint8Array, ErrorClass, string][] = [
  ['an empty file', Buffer.alloc(0), TruncatedFileError, 'has 0'],
  ['seven bytes', Buffer.alloc(7), TruncatedFileError, 'has 7'],
  ['N = 0', withHeader(''), HeaderSyntaxError, 'empty'],
  ['N beyond the file', withHeader('{}', 0, 3n), TruncatedFileError, 'the file has 2'],
  ['N above the cap', withHeader('{}', 0, 100_000_001n), HeaderLimitError, '100000001'],
  ['N of 64 bits', withHeader('{}', 0, 2n ** 64n - 1n), HeaderLimitError, '18446744073709551615'],
  ['a byte order mark', withHeader('\ufeff{}'), HeaderSyntaxError, 'byte 0xef'],
  ['leading space', withHeader(' {}'), HeaderSyntaxError, 'must begin with "{"'],
  ['NUL padding', withHeader('{}\0\0'), HeaderSyntaxError, 'U+0000'],
  ['trailing garbage', withHeader('{}x'), HeaderSyntaxError, 'found "x"'],
  ['invalid UTF-8', withHeader(Buffer.from([0x7b, 0x22, 0xff, 0x22, 0x7d])), HeaderSyntaxError, 'UTF-8'],
  ['an array', withHeader('[]'), HeaderSyntaxError, 'must begin with "{"'],
  ['an unclosed object', withHeader('{"w":'), HeaderSyntaxError, 'the end'],
  ['an unclosed string', withHeader('{"w'), HeaderSyntaxError, 'not closed'],
  ['a trailing comma', withHeader(`{"w":${entry('U8', '1', 0, 1)},}`, 1), HeaderSyntaxError, 'expected a string'],
  ['a control character', withHeader('{"a\nb":1}'), HeaderSyntaxError, 'control character'],
  ['half a surrogate pair', withHeader('{"\\ud800":1}'), HeaderSyntaxError, 'surrogate'],
  ['nesting', withHeader(`{"w":{"x":${'['.repeat(200)}${']'.repeat(200)}}}`), HeaderSyntaxError, 'nested deeper'],
  ['an unknown dtype', withHeader(one(entry('Q9', '1', 0, 1)), 1), HeaderSyntaxError, 'the dtype "Q9" of tensor "w"'],
  ['a lower-case dtype', withHeader(one(entry('u8', '1', 0, 1)), 1), HeaderSyntaxError, '"u8"'],
  ['a negative size', withHeader(one(entry('U8', '-1', 0, 1)), 1), HeaderSyntaxError, 'found -1'],
  ['a fractional size', withHeader(one(entry('U8', '1.5', 0, 1)), 1), HeaderSyntaxError, 'found 1.5'],
  ['an exponent', withHeader(one(entry('U8', '1e0', 0, 1)), 1), HeaderSyntaxError, 'found 1e0'],
  [
    'a size above 2^53',
    withHeader(one(entry('U8', '9007199254740992', 0, 1)), 1),
    HeaderSyntaxError,
    'above the limit',
  ],
  ['an offset above 2^64', withHeader(one(entry('U8', '1', 0, '99999999999999999999')), 1), HeaderSyntaxError, 'limit'],
  [
    'a shape that overflows',
    withHeader(one(entry('U8', '4294967296,4294967296', 0, 1)), 1),
    TensorRangeError,
    'overflows',
  ],
  ['a string for a size', withHeader(one(entry('U8', '"1"', 0, 1)), 1), HeaderSyntaxError, 'non-negative integer'],
  [
    'three offsets',
    withHeader('{"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1,1]}}', 1),
    HeaderSyntaxError,
    '3 numbers',
  ],
  [
    'no dtype',
    withHeader('{"w":{"shape":[1],"data_offsets":[0,1]}}', 1),
    HeaderSyntaxError,
    '"dtype" of tensor "w" is missing',
  ],
  ['no shape', withHeader('{"w":{"dtype":"U8","data_offsets":[0,1]}}', 1), HeaderSyntaxError, '"shape"'],
  ['no offsets', withHeader('{"w":{"dtype":"U8","shape":[1]}}', 1), HeaderSyntaxError, '"data_offsets"'],
  [
    'a field twice',
    withHeader('{"w":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}}', 1),
    HeaderSyntaxError,
    'twice',
  ],
  ['null for a tensor', withHeader('{"w":null}'), HeaderSyntaxError, 'expected an object'],
  ['a number in the metadata', withHeader('{"__metadata__":{"a":1}}'), HeaderSyntaxError, 'expected a string'],
  ['null in the metadata', withHeader('{"__metadata__":{"a":null}}'), HeaderSyntaxError, 'expected a string'],
  ['metadata twice', withHeader('{"__metadata__":{},"__metadata__":{}}'), DuplicateNameError, '__metadata__'],
  [
    'a name twice',
    withHeader(`{"w":${entry('U8', '1', 0, 1)},"w":${entry('U8', '1', 0, 1)}}`, 1),
    DuplicateNameError,
    '"w"',
  ],
  [
    'an escaped name twice',
    withHeader(`{"w":${entry('U8', '1', 0, 1)},"\\u0077":${entry('U8', '1', 1, 2)}}`, 2),
    DuplicateNameError,
    '"w"',
  ],
  ['a start that is not 0', withHeader(one(entry('U8', '1', 1, 2)), 2), TensorRangeError, 'gap of 1'],
  [
    'a gap',
    withHeader(`{"a":${entry('U8', '1', 0, 1)},"b":${entry('U8', '1', 2, 3)}}`, 3),
    TensorRangeError,
    'tensor "b"',
  ],
  [
    'an overlap',
    withHeader(`{"a":${entry('U8', '2', 0, 2)},"b":${entry('U8', '2', 1, 3)}}`, 3),
    TensorRangeError,
    'overlaps',
  ],
  [
    'equal ranges',
    withHeader(`{"a":${entry('U8', '2', 0, 2)},"b":${entry('U8', '2', 0, 2)}}`, 2),
    TensorRangeError,
    'overlaps',
  ],
  ['an end before the begin', withHeader(one(entry('U8', '1', 1, 0)), 1), TensorRangeError, 'before it begins'],
  [
    'data too short',
    withHeader(one(entry('U8', '4', 0, 4)), 3),
    TruncatedFileError,
    'need 4 bytes of data, the file has 3',
  ],
  ['data too long', withHeader(one(entry('U8', '4', 0, 4)), 5), TensorRangeError, '1 bytes after the last tensor'],
  [
    'a size that is not the shape',
    withHeader(one(entry('F32', '2', 0, 4)), 4),
    TensorRangeError,
    'needs 8 bytes as F32 [2]',
  ],
  ['half a byte', withHeader(one(entry('F4', '3', 0, 1)), 1), TensorRangeError, 'whole number of bytes'],
];

describe('safetensors', () => {
  test.each(BAD_SAFETENSORS)('%s', async (_, bytes, type, text) => {
    const path = await fileOf(bytes, 'safetensors');
    const error = await failureOf(SafetensorsFile.open(path));
    expect(error).toBeInstanceOf(type);
    expect(error.message).toContain(text);
    expect(error.message).toContain(path);
  });

  const GOOD: [string, Uint8Array, number][] = [
    ['no tensors', withHeader('{}'), 0],
    ['trailing spaces', withHeader('{}      '), 0],
    ['metadata null', withHeader('{"__metadata__":null}'), 0],
    ['a metadata key twice', withHeader('{"__metadata__":{"a":"1","a":"2"}}'), 0],
    ['an unknown field', withHeader('{"w":{"x":[{"y":1.5e3}],"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', 1), 1],
    ['a scalar', withHeader(one(entry('F32', '', 0, 4)), 4), 1],
    ['a tensor of size 0', withHeader(`{"a":${entry('F32', '0,9', 0, 0)},"b":${entry('U8', '1', 0, 1)}}`, 1), 2],
    ['a misaligned tensor', withHeader(`{"a":${entry('U8', '1', 0, 1)},"b":${entry('F32', '1', 1, 5)}}`, 5), 2],
    ['the names of Object.prototype', withHeader(`{"__proto__":${entry('U8', '1', 0, 1)}}`, 1), 1],
  ];
  test.each(GOOD)('%s is fine', async (_, bytes, tensors) => {
    using file = await SafetensorsFile.open(await fileOf(bytes, 'safetensors'));
    expect(file.tensors.size).toBe(tensors);
    for (const name of file.names()) expect((await file.read(name)).bytes.byteLength).toBe(file.info(name).byteLength);
  });

  test('a dtype we cannot compute with fails only when it is read', async () => {
    using file = await SafetensorsFile.open(
      await fileOf(withHeader(one(entry('F8_E4M3', '2', 0, 2)), 2), 'safetensors'),
    );
    expect(await file.readBytes('w')).toEqual(new Uint8Array(2));
    await expect(file.read('w')).rejects.toThrow(UnsupportedTypeError);
  });

  test('a name that is not there, a range that is not there', async () => {
    using file = await SafetensorsFile.open(await fileOf(withHeader(one(entry('U8', '4', 0, 4)), 4), 'safetensors'));
    await expect(file.read('v')).rejects.toThrow(UnknownTensorError);
    await expect(file.readRange('w', 2, 5)).rejects.toThrow(TensorRangeError);
    await expect(file.readRange('w', -1, 2)).rejects.toThrow(TensorRangeError);
    await expect(file.readRange('w', 3, 2)).rejects.toThrow(TensorRangeError);
    expect(await file.readRows('w', 1, 3)).toEqual(new Uint8Array(2));
  });

  test('a file that shrinks after it was opened', async () => {
    const path = await fileOf(withHeader(one(entry('U8', '4', 0, 4)), 4), 'safetensors');
    using file = await SafetensorsFile.open(path);
    await truncate(path, 60);
    await expect(file.read('w')).rejects.toThrow(TruncatedFileError);
    expect(() => file.readSync('w')).toThrow(TruncatedFileError);
  });

  test('reading after disposal', async () => {
    const file = await SafetensorsFile.open(await fileOf(withHeader(one(entry('U8', '4', 0, 4)), 4), 'safetensors'));
    file[Symbol.dispose]();
    file[Symbol.dispose]();
    await expect(file.read('w')).rejects.toThrow(FileAccessError);
  });

  test('cut off at every byte', async () => {
    const path = join(folder, 'whole.safetensors');
    await writeSafetensors(path, [{ name: 'w', dtype: 'F32', shape: [2], bytes: new Uint8Array(8) }], { format: 'pt' });
    const whole = await readFile(path);
    for (let length = 0; length < whole.length; length++) {
      const cut = await fileOf(whole.subarray(0, length), 'safetensors');
      expect(await failureOf(openCheckpoint(cut)), `cut at ${length}`).toBeInstanceOf(FormatError);
    }
  });
});

describe('paths that are no checkpoint', () => {
  test('absent, a folder without weights, a pickle', async () => {
    expect(await failureOf(openCheckpoint(join(folder, 'absent')))).toBeInstanceOf(FileAccessError);
    expect(await failureOf(SafetensorsFile.open(folder))).toBeInstanceOf(FileAccessError);
    await mkdir(join(folder, 'empty'));
    expect(await failureOf(openCheckpoint(join(folder, 'empty')))).toBeInstanceOf(NoCheckpointError);
    const pickle = await fileOf(Buffer.from('PK\x03\x04 and so on'), 'bin');
    expect((await failureOf(openCheckpoint(pickle))).message).toContain('zip archive');
  });
});

describe('sharded', () => {
  type Shards = { map?: unknown; index?: string; files: Record<string, string[]> };

  async function model({ map, index, files }: Shards): Promise<string> {
    const path = join(folder, `model${count++}`);
    await mkdir(path);
    for (const [file, names] of Object.entries(files)) {
      await writeSafetensors(
        join(path, file),
        names.map((name) => ({ name, dtype: 'U8', shape: [1], bytes: Uint8Array.of(names.length) })),
      );
    }
    await writeFile(
      join(path, 'model.safetensors.index.json'),
      index ?? JSON.stringify({ metadata: {}, weight_map: map }),
    );
    return path;
  }

  test('the parts look like one', async () => {
    const path = await model({
      map: { a: '1.safetensors', b: '2.safetensors' },
      files: { '1.safetensors': ['a'], '2.safetensors': ['b'] },
    });
    using checkpoint = await openCheckpoint(path);
    expect(checkpoint.names()).toEqual(['a', 'b']);
    expect(checkpoint.info('b').file).toBe(join(path, '2.safetensors'));
    expect((await checkpoint.read('b')).bytes).toEqual(Uint8Array.of(1));
    expect(() => checkpoint.info('c')).toThrow(UnknownTensorError);
  });

  test.skipIf(process.platform === 'win32')('an index that is a pipe, or huge, is not read', async () => {
    const path = await model({ map: { a: '1.safetensors' }, files: { '1.safetensors': ['a'] } });
    const index = join(path, 'model.safetensors.index.json');
    await truncate(index, 3 * 2 ** 30);
    expect((await failureOf(openCheckpoint(path))).message).toContain('3221225472 bytes, at most');
    await rm(index);
    execFileSync('mkfifo', [index]);
    expect((await failureOf(openCheckpoint(path))).message).toContain('not a regular file');
  });

  const one = { '1.safetensors': ['a'] };
  test.each<[string, Shards, string]>([
    ['a missing shard', { map: { a: '1.safetensors', b: '2.safetensors' }, files: one }, 'which does not exist'],
    ['a shard elsewhere', { map: { a: '../1.safetensors' }, files: one }, 'not the plain name'],
    ['an absolute shard', { map: { a: '/1.safetensors' }, files: one }, 'not the plain name'],
    ['a shard of another kind', { map: { a: 'config.json' }, files: one }, 'not the plain name'],
    ['a tensor the file lacks', { map: { a: '1.safetensors', b: '1.safetensors' }, files: one }, 'it is not'],
    [
      'a tensor the index lacks',
      { map: { a: '1.safetensors' }, files: { '1.safetensors': ['a', 'b'] } },
      'does not list it',
    ],
    [
      'a tensor in two shards',
      { map: { a: '1.safetensors', b: '2.safetensors' }, files: { ...one, '2.safetensors': ['a', 'b'] } },
      'is also in',
    ],
    [
      'a tensor in another shard than the index says',
      { map: { a: '2.safetensors', b: '1.safetensors' }, files: { ...one, '2.safetensors': ['b'] } },
      'the index says it is in',
    ],
    ['no weight_map', { index: '{}', files: one }, 'no "weight_map"'],
    ['an empty weight_map', { map: {}, files: one }, 'at least one tensor'],
    ['a name mapped twice', { index: '{"weight_map":{"a":"1.safetensors","a":"1.safetensors"}}', files: one }, 'twice'],
    ['a number for a file', { map: { a: 1 }, files: one }, 'expected a string'],
    ['no JSON', { index: 'hello', files: one }, 'not valid'],
  ])('%s', async (_, shards, text) => {
    const error = await failureOf(openCheckpoint(await model(shards)));
    expect(error).toBeInstanceOf(ShardIndexError);
    expect(error.message).toContain(text);
  });

  test('beside model.safetensors an index counts only when it is complete', async () => {
    const stale = await model({ map: { a: 'gone.safetensors' }, files: { 'model.safetensors': ['single'] } });
    using checkpoint = await openCheckpoint(stale);
    expect(checkpoint.names()).toEqual(['single']);
    const complete = await model({ map: { a: '1.safetensors' }, files: { ...one, 'model.safetensors': ['single'] } });
    using sharded = await openCheckpoint(complete);
    expect(sharded.names()).toEqual(['a']);
  });
});

// GGUF by hand: every field can be wrong.
const u32 = (value: number) => Buffer.from(Uint32Array.of(value).buffer);
const u64 = (value: bigint | number) => Buffer.from(BigUint64Array.of(BigInt.asUintN(64, BigInt(value))).buffer);
const str = (text: string) => Buffer.concat([u64(Buffer.byteLength(text)), Buffer.from(text)]);
const pair = (key: string, type: number, value: Uint8Array) => Buffer.concat([str(key), u32(type), value]);
const tensor = (name: string, dims: (bigint | number)[], type: number, offset: bigint | number) =>
  Buffer.concat([str(name), u32(dims.length), ...dims.map(u64), u32(type), u64(offset)]);

function gguf(parts: {
  magic?: string;
  version?: number;
  tensorCount?: bigint;
  pairCount?: bigint;
  pairs?: Uint8Array[];
  tensors?: Uint8Array[];
  data?: number;
}): Uint8Array {
  const { magic = 'GGUF', version = 3, pairs = [], tensors = [], data = 0 } = parts;
  const head = Buffer.concat([
    Buffer.from(magic),
    u32(version),
    u64(parts.tensorCount ?? tensors.length),
    u64(parts.pairCount ?? pairs.length),
    ...pairs,
    ...tensors,
  ]);
  const padded = Math.ceil(head.length / 32) * 32;
  return Buffer.concat([head, Buffer.alloc(padded - head.length + data)]);
}

const BAD_GGUF: [string, Uint8Array, ErrorClass, string][] = [
  ['bad magic', gguf({ magic: 'GGML' }), HeaderSyntaxError, 'begins with "GGUF"'],
  ['version 1', gguf({ version: 1 }), HeaderSyntaxError, 'version 1'],
  ['version 4', gguf({ version: 4 }), HeaderSyntaxError, 'version 4'],
  ['big-endian', gguf({ version: 0x03000000 }), HeaderSyntaxError, 'big-endian'],
  ['a tensor bomb', gguf({ tensorCount: 2n ** 62n }), HeaderSyntaxError, 'tensors'],
  ['a negative tensor count', gguf({ tensorCount: -1n }), HeaderSyntaxError, '-1 tensors'],
  ['a pair bomb', gguf({ pairCount: 2n ** 40n }), HeaderSyntaxError, 'metadata pairs'],
  ['an empty key', gguf({ pairs: [pair('', 7, Buffer.of(1))] }), HeaderSyntaxError, 'empty'],
  ['a key twice', gguf({ pairs: [pair('a', 7, Buffer.of(1)), pair('a', 7, Buffer.of(1))] }), DuplicateNameError, '"a"'],
  ['an unknown value type', gguf({ pairs: [pair('a', 13, Buffer.of(1))] }), HeaderSyntaxError, 'value type 13'],
  ['a string bomb', gguf({ pairs: [pair('a', 8, u64(2n ** 40n))] }), HeaderSyntaxError, 'claims 1099511627776 bytes'],
  ['a key bomb', gguf({ pairs: [u64(2n ** 63n)], data: 64 }), HeaderSyntaxError, 'a metadata key claims'],
  [
    'an array bomb',
    gguf({ pairs: [pair('a', 9, Buffer.concat([u32(0), u64(2n ** 29n)]))] }),
    HeaderSyntaxError,
    'elements',
  ],
  [
    'a string array bomb',
    gguf({ pairs: [pair('a', 9, Buffer.concat([u32(8), u64(2n ** 20n)]))] }),
    HeaderSyntaxError,
    'elements',
  ],
  [
    'a bomb in a string array',
    gguf({ pairs: [pair('a', 9, Buffer.concat([u32(8), u64(1), u64(2n ** 30n)]))] }),
    HeaderSyntaxError,
    'string 0',
  ],
  [
    'an array of arrays',
    gguf({ pairs: [pair('a', 9, Buffer.concat([u32(9), u64(1), u32(0), u64(0)]))] }),
    HeaderSyntaxError,
    'holds arrays',
  ],
  [
    'a key that is not UTF-8',
    gguf({ pairs: [Buffer.concat([u64(1), Buffer.of(0xff), u32(7), Buffer.of(1)])] }),
    HeaderSyntaxError,
    'UTF-8',
  ],
  ['alignment 24', gguf({ pairs: [pair('general.alignment', 4, u32(24))] }), HeaderSyntaxError, 'power of two'],
  ['alignment 0', gguf({ pairs: [pair('general.alignment', 4, u32(0))] }), HeaderSyntaxError, 'power of two'],
  ['alignment as u64', gguf({ pairs: [pair('general.alignment', 10, u64(32))] }), HeaderSyntaxError, 'must be a u32'],
  [
    'a long tensor name',
    gguf({ tensors: [tensor('x'.repeat(64), [1], 0, 0)], data: 32 }),
    HeaderSyntaxError,
    '64 bytes',
  ],
  [
    'a tensor twice',
    gguf({ tensors: [tensor('w', [1], 0, 0), tensor('w', [1], 0, 32)], data: 64 }),
    DuplicateNameError,
    '"w"',
  ],
  [
    'five dimensions',
    gguf({ tensors: [tensor('w', [1, 1, 1, 1, 1], 0, 0)], data: 32 }),
    HeaderSyntaxError,
    '5 dimensions',
  ],
  [
    'a negative dimension',
    gguf({ tensors: [tensor('w', [-1n], 0, 0)], data: 32 }),
    HeaderSyntaxError,
    'negative or overflows',
  ],
  [
    'dimensions that overflow',
    gguf({ tensors: [tensor('w', [2n ** 32n, 2n ** 32n], 0, 0)], data: 32 }),
    HeaderSyntaxError,
    'overflows',
  ],
  ['an unknown type', gguf({ tensors: [tensor('w', [1], 99, 0)], data: 32 }), UnsupportedTypeError, '99 (unknown)'],
  ['a removed type', gguf({ tensors: [tensor('w', [32], 4, 0)], data: 32 }), UnsupportedTypeError, 'removed'],
  [
    'a row that is no whole block',
    gguf({ tensors: [tensor('w', [255], 35, 0)], data: 96 }),
    TensorRangeError,
    'multiple of 256',
  ],
  [
    'I2_S of 100 elements',
    gguf({ tensors: [tensor('w', [100], 36, 0)], data: 64 }),
    TensorRangeError,
    'multiple of 128',
  ],
  ['a first offset', gguf({ tensors: [tensor('w', [1], 0, 32)], data: 64 }), TensorRangeError, 'put it at 0'],
  [
    'a gap',
    gguf({ tensors: [tensor('a', [1], 0, 0), tensor('b', [1], 0, 64)], data: 96 }),
    TensorRangeError,
    'tensor "b"',
  ],
  [
    'an overlap',
    gguf({ tensors: [tensor('a', [9], 0, 0), tensor('b', [1], 0, 32)], data: 96 }),
    TensorRangeError,
    'tensor "b"',
  ],
  ['data cut off', gguf({ tensors: [tensor('w', [64], 0, 0)], data: 255 }), TruncatedFileError, 'tensor "w"'],
];

describe('gguf', () => {
  test.each(BAD_GGUF)('%s', async (_, bytes, type, text) => {
    const path = await fileOf(bytes, 'gguf');
    const error = await failureOf(GgufFile.open(path));
    expect(error).toBeInstanceOf(type);
    expect(error.message).toContain(text);
    expect(error.message).toContain(path);
  });

  test('version 2, a tensor of no dimensions, id 39 by architecture', async () => {
    using scalar = await GgufFile.open(
      await fileOf(gguf({ version: 2, tensors: [tensor('w', [], 0, 0)], data: 4 }), 'gguf'),
    );
    expect(scalar.info('w')).toMatchObject({ shape: [], byteLength: 4 });
    const mxfp4 = gguf({ tensors: [tensor('w', [32], 39, 0)], data: 17 });
    using upstream = await GgufFile.open(await fileOf(mxfp4, 'gguf'));
    expect(upstream.info('w').dtype).toBe('MXFP4');
    const architecture = pair('general.architecture', 8, str('bitnet-b1.58'));
    const tl2 = gguf({ pairs: [architecture], tensors: [tensor('w', [256, 32], 39, 0)], data: 4096 });
    using fork = await GgufFile.open(await fileOf(tl2, 'gguf'));
    expect(fork.info('w').dtype).toBe('TL2');
  });

  test('cut off at every byte', async () => {
    const path = join(folder, 'whole.gguf');
    await writeGguf(path, {
      metadata: [
        { key: 'general.architecture', type: 'string', value: 'bitnet' },
        { key: 'list', type: 'array', elementType: 'string', value: ['a', 'bc'] },
      ],
      tensors: [{ name: 'w', type: 'F32', shape: [8], bytes: new Uint8Array(32) }],
    });
    const whole = await readFile(path);
    for (let length = 0; length < whole.length; length++) {
      const cut = await fileOf(whole.subarray(0, length), 'gguf');
      expect(await failureOf(GgufFile.open(cut)), `cut at ${length}`).toBeInstanceOf(FormatError);
    }
  });
});

test('flipped bytes never hang, crash or allocate more than the file suggests', async () => {
  const shapes = [2, 3];
  const safetensors = join(folder, 'seed.safetensors');
  await writeSafetensors(
    safetensors,
    [
      { name: 'model.layers.0.w', dtype: 'F32', shape: shapes, bytes: new Uint8Array(24) },
      { name: 'u', dtype: 'U8', shape: [5], bytes: new Uint8Array(5) },
    ],
    { format: 'pt' },
  );
  const ggufSeed = join(folder, 'seed.gguf');
  await writeGguf(ggufSeed, {
    metadata: [
      { key: 'general.architecture', type: 'string', value: 'bitnet' },
      { key: 'n', type: 'u64', value: 7 },
      { key: 'tokens', type: 'array', elementType: 'string', value: ['a', 'bc', ''] },
      { key: 'scores', type: 'array', elementType: 'f32', value: [1, 2] },
    ],
    tensors: [
      { name: 'a', type: 'F32', shape: shapes, bytes: new Uint8Array(24) },
      { name: 'b', type: 'TQ2_0', shape: [1, 256], bytes: new Uint8Array(66) },
    ],
  });
  for (const seed of [safetensors, ggufSeed]) {
    const good = await readFile(seed);
    const flips = fc.array(fc.tuple(fc.nat(good.length - 1), fc.nat(255)), { minLength: 1, maxLength: 4 });
    const cut = fc.option(fc.nat(good.length));
    const path = join(folder, 'flipped');
    await fc.assert(
      fc.asyncProperty(flips, cut, async (list, length) => {
        const bytes = Uint8Array.from(good);
        for (const [at, value] of list) bytes[at] = value;
        await writeFile(path, bytes.subarray(0, length ?? bytes.length));
        const before = process.memoryUsage().arrayBuffers;
        try {
          using checkpoint = await openCheckpoint(path);
          for (const name of checkpoint.names()) await checkpoint.readBytes(name);
        } catch (error) {
          if (!(error instanceof FormatError)) throw error;
        }
        expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(2 ** 20);
      }),
      { numRuns: 600 },
    );
  }
});

async function failureOf(promise: Promise<Disposable>): Promise<Error> {
  try {
    (await promise)[Symbol.dispose]();
  } catch (error) {
    return error as Error;
  }
  return new Error('nothing was thrown');
}
