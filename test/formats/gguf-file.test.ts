import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { UnsupportedTypeError } from '../../src/formats/errors.ts';
import { GgufFile } from '../../src/formats/gguf-file.ts';
import { GgufArray } from '../../src/formats/gguf-values.ts';
import { openCheckpoint } from '../../src/formats/open-checkpoint.ts';
import { type GgufPair, writeGguf } from '../../src/formats/write-gguf.ts';

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'gguf-'));
});
afterAll(() => rm(folder, { recursive: true }));

/** The 288 bytes of a file made by gguf-py: one I2_S tensor, an array of strings, a bool. */
const WORKED = [
  '47475546030000000100000000000000',
  '04000000000000001400000000000000',
  '67656e6572616c2e6172636869746563',
  '74757265080000000c00000000000000',
  '6269746e65742d62312e353811000000',
  '0000000067656e6572616c2e616c6967',
  '6e6d656e740400000020000000030000',
  '0000000000612e620900000008000000',
  '02000000000000000100000000000000',
  '780200000000000000797a0100000000',
  '00000063070000000101000000000000',
  '00770100000080000000000000002400',
  '00000000000000000000000000000000',
  '00000000000000000000000000000000',
  '000102030405060708090a0b0c0d0e0f',
  '101112131415161718191a1b1c1d1e1f',
  '0000403f000000000000000000000000',
  '00000000000000000000000000000000',
].join('');

const WORKED_PAIRS: GgufPair[] = [
  { key: 'general.architecture', type: 'string', value: 'bitnet-b1.58' },
  { key: 'general.alignment', type: 'u32', value: 32 },
  { key: 'a.b', type: 'array', elementType: 'string', value: ['x', 'yz'] },
  { key: 'c', type: 'bool', value: true },
];

test('the worked example is read', async () => {
  const path = join(folder, 'worked.gguf');
  await writeFile(path, Buffer.from(WORKED, 'hex'));
  using file = await GgufFile.open(path);
  expect(file.architecture).toBe('bitnet-b1.58');
  expect(file.number('general.alignment')).toBe(32);
  expect(file.strings('a.b')).toEqual(['x', 'yz']);
  expect(file.boolean('c')).toBe(true);
  expect(file.string('absent')).toBeUndefined();
  expect(() => file.number('c')).toThrow('the metadata key "c" is bool, expected a number');
  expect(file.names()).toEqual(['w']);
  expect(file.info('w')).toEqual({ name: 'w', dtype: 'I2_S', shape: [128], byteLength: 64, file: path, offset: 0xe0 });
  const bytes = await file.readBytes('w');
  expect(bytes.subarray(0, 32)).toEqual(Uint8Array.from({ length: 32 }, (_, i) => i));
  await expect(file.read('w')).rejects.toThrow(UnsupportedTypeError);
});

test('the worked example is written byte for byte, also from raw pairs', async () => {
  const path = join(folder, 'written.gguf');
  const bytes = Buffer.from(WORKED, 'hex').subarray(0xe0);
  await writeGguf(path, { metadata: WORKED_PAIRS, tensors: [{ name: 'w', type: 'I2_S', shape: [128], bytes }] });
  expect((await readFile(path)).toString('hex')).toBe(WORKED);
  using file = await GgufFile.open(path);
  const copied = join(folder, 'copied.gguf');
  await writeGguf(copied, {
    metadata: [...file.entries].map(([key, { raw }]) => ({ key, raw })),
    tensors: [{ name: 'w', type: 'I2_S', shape: [128], chunks: () => [bytes.subarray(0, 7), bytes.subarray(7)] }],
  });
  expect((await readFile(copied)).toString('hex')).toBe(WORKED);
});

test('every value type survives a round trip', async () => {
  const path = join(folder, 'types.gguf');
  const metadata: GgufPair[] = [
    { key: 'u8', type: 'u8', value: 255 },
    { key: 'i8', type: 'i8', value: -128 },
    { key: 'u16', type: 'u16', value: 65535 },
    { key: 'i16', type: 'i16', value: -32768 },
    { key: 'u32', type: 'u32', value: 4294967295 },
    { key: 'i32', type: 'i32', value: -2147483648 },
    { key: 'u64', type: 'u64', value: 2 ** 53 - 1 },
    { key: 'u64 big', type: 'u64', value: 2n ** 64n - 1n },
    { key: 'i64', type: 'i64', value: -(2n ** 63n) },
    { key: 'f32', type: 'f32', value: 0.5 },
    { key: 'f64', type: 'f64', value: 0.1 },
    { key: 'text', type: 'string', value: 'γ ▁ \0' },
    { key: 'floats', type: 'array', elementType: 'f32', value: [1.5, -2] },
    { key: 'flags', type: 'array', elementType: 'bool', value: [true, false] },
    { key: 'none', type: 'array', elementType: 'string', value: [] },
  ];
  await writeGguf(path, { metadata, tensors: [] });
  using file = await GgufFile.open(path);
  for (const pair of metadata) {
    if ('raw' in pair) continue;
    const value = file.metadata.get(pair.key);
    if (value instanceof GgufArray) expect(value.values()).toEqual(pair.value);
    else expect(value, pair.key).toBe(pair.value);
  }
  expect(file.numbers('floats')).toEqual([1.5, -2]);
});

test('plain tensors, their shapes turned round, and the order of the file', async () => {
  const path = join(folder, 'plain.gguf');
  const f32 = new Uint8Array(Float32Array.of(1, 2, 3, 4, 5, 6).buffer);
  await writeGguf(path, {
    metadata: [{ key: 'general.alignment', type: 'u32', value: 64 }],
    tensors: [
      { name: 'b', type: 'F32', shape: [2, 3], bytes: f32 },
      { name: 'a', type: 'F16', shape: [1], bytes: Uint8Array.of(0, 0x3c) },
    ],
  });
  using file = await openCheckpoint(path);
  expect(file.names()).toEqual(['b', 'a']);
  expect(file.info('a').offset % 64).toBe(0);
  expect(await file.read('b')).toEqual({ name: 'b', dtype: 'F32', shape: [2, 3], bytes: f32 });
  expect(await file.readRange('b', 4, 8)).toEqual(f32.slice(4, 8));
  // gguf lists the innermost size first: 3, then 2.
  const raw = await readFile(path);
  const at = raw.indexOf(Buffer.from('b\x02\0\0\0', 'latin1')) + 5;
  expect([raw.readBigUInt64LE(at), raw.readBigUInt64LE(at + 8)]).toEqual([3n, 2n]);
});

test('a header of the size of Llama 3 opens, and its arrays are decoded on demand', async () => {
  const path = join(folder, 'large.gguf');
  const tokens = Array.from({ length: 128_256 }, (_, i) => `token${i}`);
  const merges = Array.from({ length: 280_147 }, (_, i) => `left${i} right${i}`);
  await writeGguf(path, {
    metadata: [
      { key: 'tokenizer.ggml.tokens', type: 'array', elementType: 'string', value: tokens },
      { key: 'tokenizer.ggml.merges', type: 'array', elementType: 'string', value: merges },
      { key: 'last', type: 'u32', value: 7 },
    ],
    tensors: [],
  });
  using file = await GgufFile.open(path);
  expect(file.number('last')).toBe(7);
  expect(file.strings('tokenizer.ggml.tokens')).toEqual(tokens);
  expect(file.strings('tokenizer.ggml.merges')?.at(-1)).toBe('left280146 right280146');
});
