import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { GgufFile } from '../../src/formats/gguf-file.ts';
import { fallbackType, ggufKind, ggufWarning } from '../../src/formats/gguf-kind.ts';
import { type GgufPair, type GgufTensorToWrite, writeGguf } from '../../src/formats/write-gguf.ts';

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'gguf-kind-'));
});
afterAll(() => rm(folder, { recursive: true }));

let count = 0;

async function open(strings: Readonly<Record<string, string | number>>, tensors: readonly GgufTensorToWrite[] = []) {
  const path = join(folder, `${count++}.gguf`);
  const metadata = Object.entries(strings).map(
    ([key, value]): GgufPair =>
      typeof value === 'string' ? { key, type: 'string', value } : { key, type: 'u32', value },
  );
  await writeGguf(path, { metadata, tensors });
  return GgufFile.open(path);
}

const tensor = (name: string, type: string, shape: readonly number[], bytes: number): GgufTensorToWrite => ({
  name,
  type,
  shape,
  bytes: new Uint8Array(bytes),
});

test('what is no language model, or none that is run, is told by what it is', async () => {
  const kind = async (...args: Parameters<typeof open>) => {
    using file = await open(...args);
    return ggufKind(file)?.what;
  };
  expect(await kind({ 'general.architecture': 'clip' })).toMatch(/vision tower/);
  expect(await kind({ 'general.architecture': 'clip', 'general.type': 'mmproj' })).toMatch(/vision tower/);
  expect(await kind({ 'general.type': 'imatrix' })).toMatch(/importance matrix/);
  expect(await kind({ 'imatrix.chunk_count': 5 })).toMatch(/importance matrix/);
  expect(await kind({ 'general.type': 'adapter', 'general.architecture': 'llama' })).toMatch(/adapter/);
  expect(await kind({ 'general.type': 'vocab' })).toMatch(/vocabulary/);
  expect(
    await kind({ 'general.architecture': 'qwen3' }, [tensor('blk.0.ffn_gate_norm_in.weight', 'F16', [8], 16)]),
  ).toMatch(/BitNet-Embedding model .*blk.0.ffn_gate_norm_in.weight/);
  const usual = { 'general.architecture': 'qwen3', 'general.type': 'model' };
  expect(await kind(usual, [tensor('blk.0.attn_q_norm.weight', 'F16', [8], 16)])).toBeUndefined();
});

test('PrismML’s types without the keys of a rotation are remarked on', async () => {
  const warning = async (strings: Readonly<Record<string, string | number>>, type: string, bytes: number) => {
    using file = await open(strings, [tensor('blk.0.attn_q.weight', type, [1, 128], bytes)]);
    return ggufWarning(file);
  };
  const rotated = { 'general.architecture': 'qwen35' };
  expect(await warning(rotated, 'PTQ1_0', 28)).toMatch(/"blk.0.attn_q.weight" is PTQ1_0.*may be a rotated/);
  expect(await warning(rotated, 'PQ2_0', 34)).toMatch(/PQ2_0/);
  expect(await warning(rotated, 'Q8_0', 136)).toBeUndefined();
  expect(await warning({ ...rotated, 'prism.hadamard.version': 1 }, 'PQ2_0', 34)).toBeUndefined();
  expect(await warning({ 'general.architecture': 'qwen3' }, 'PQ2_0', 34)).toMatch(
    /right for Ternary Bonsai 1.7B to 8B/,
  );
});

test('a type that the quantizer fell back to is explained by the width of the rows', async () => {
  const q4 = (columns: number) => tensor('blk.0.ffn_up.weight', 'Q4_0', [2, columns], (columns / 32) * 18 * 2);
  const reason = async (fileType: number | undefined, columns: number) => {
    const strings: Record<string, string | number> = { 'general.architecture': 'llama' };
    if (fileType !== undefined) strings['general.file_type'] = fileType;
    using file = await open(strings, [q4(columns)]);
    return fallbackType(file, 'blk.0.ffn_up.weight');
  };
  expect((await reason(37, 192))?.what).toBe(
    '"blk.0.ffn_up.weight" is Q4_0 in a file that calls itself TQ2_0: its rows have 192 elements, no multiple of 256, ' +
      'so the quantizer took Q4_0 instead, which rounds trits away',
  );
  expect((await reason(36, 320))?.fix).toMatch(/Q2_0 .* or I2_S/);
  expect(await reason(37, 256)).toBeUndefined();
  expect(await reason(2, 192)).toBeUndefined();
  expect(await reason(undefined, 192)).toBeUndefined();
});
