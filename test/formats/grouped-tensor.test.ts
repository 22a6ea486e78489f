// Golden Qwen3 models in every container (test/golden/qwen3/ORIGIN.json): the codes of each matrix, and one form for all.

import { readdirSync, readFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { UnsupportedTypeError } from '../../src/formats/errors.ts';
import { groupedTensor, readGrouped, readGroupedRows, readPanel64 } from '../../src/formats/grouped-tensor.ts';
import { mlxShape } from '../../src/formats/mlx-shape.ts';
import { openCheckpoint } from '../../src/formats/open-checkpoint.ts';
import { writeGguf } from '../../src/formats/write-gguf.ts';
import { writeSafetensors } from '../../src/formats/write-safetensors.ts';
import { MatrixWidthError, NotTernaryError } from '../../src/quant/errors.ts';
import { f32ToF16 } from '../../src/quant/f16.ts';
import { countCodes } from '../../src/quant/grouped/codec.ts';
import { groupedValues } from '../../src/quant/grouped/grouped-matrix.ts';
import { fromPanel64, type Panel64 } from '../../src/quant/grouped/panel64.ts';

const golden = join(import.meta.dirname, '../golden/qwen3');
const cases = readdirSync(golden).filter((name) => name.startsWith('qwen3_'));

type Expected = { files: Record<string, string>; codes: { per_matrix: Record<string, number[]> } };
const expectedOf = (name: string) => JSON.parse(readFileSync(join(golden, name, 'expected.json'), 'utf8')) as Expected;

/** The names of GGUF for Hugging Face's. */
function ggufName(name: string): string {
  const parts: Readonly<Record<string, string>> = {
    'self_attn.q_proj': 'attn_q',
    'self_attn.k_proj': 'attn_k',
    'self_attn.v_proj': 'attn_v',
    'self_attn.o_proj': 'attn_output',
    'mlp.gate_proj': 'ffn_gate',
    'mlp.up_proj': 'ffn_up',
    'mlp.down_proj': 'ffn_down',
  };
  if (name === 'lm_head.weight') return 'output.weight';
  if (name === 'model.embed_tokens.weight') return 'token_embd.weight';
  const [, layer, part] = /^model\.layers\.(\d+)\.(.+)\.weight$/.exec(name)!;
  return `blk.${layer}.${parts[part!]}.weight`;
}

const containersOf = (name: string) => [
  ...new Set(Object.keys(expectedOf(name).files).map((file) => file.split('/')[0]!)),
];

function configOf(path: string): Record<string, unknown> | undefined {
  try {
    return JSON.parse(readFileSync(join(path, 'config.json'), 'utf8'));
  } catch {
    return undefined;
  }
}

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'grouped-'));
});
afterAll(() => rm(folder, { recursive: true }));

describe.each(cases)('%s', (name) => {
  const { per_matrix: matrices } = expectedOf(name).codes;

  test.each(containersOf(name))('%s: the codes of every matrix', async (container) => {
    const path = join(golden, name, container);
    using checkpoint = await openCheckpoint(path);
    for (const [hf, wanted] of Object.entries(matrices)) {
      const tensor = groupedTensor(checkpoint, checkpoint.format === 'gguf' ? ggufName(hf) : hf, configOf(path));
      if (typeof tensor === 'string') throw new Error(tensor);
      const { quads, rows, columns } = (await readGrouped(checkpoint, tensor))!;
      expect(countCodes(quads, rows * columns), hf).toEqual(wanted);
    }
  });

  test('every container gives the same panels', async () => {
    // The folder of bfloat16 numbers is its own model: f16 scales rounded to bf16 are others. Here all are one.
    const first = new Map<string, Panel64>();
    for (const container of containersOf(name)) {
      const path = join(golden, name, container);
      using checkpoint = await openCheckpoint(path);
      for (const hf of Object.keys(matrices)) {
        const tensor = groupedTensor(checkpoint, checkpoint.format === 'gguf' ? ggufName(hf) : hf, configOf(path));
        if (typeof tensor === 'string') throw new Error(tensor);
        const panels = await readPanel64(checkpoint, tensor);
        const known = first.get(hf);
        if (known === undefined) first.set(hf, panels);
        else expect(same(known, panels), `${container} ${hf}`).toBe(true);
      }
    }
    const groups = new Set([...first.values()].map(({ group }) => group));
    expect([...groups]).toEqual([name.includes('odd') ? 64 : 128]);
  });
});

/** Equal but for the scales of groups that hold only zeros, which may be any. */
function same(a: Panel64, b: Panel64): boolean {
  if (a.group !== b.group || Buffer.compare(a.bytes, b.bytes) !== 0) return false;
  const [x, y] = [groupedValues(fromPanel64(a)), groupedValues(fromPanel64(b))];
  return x.every((value, i) => value === y[i]);
}

test('floats with one scale for each block of rows, or of columns, as shards of a training leave them', async () => {
  const [rows, columns] = [12, 256];
  const trits = Int8Array.from({ length: rows * columns }, (_, i) => ((i * 7) % 3) - 1);
  const scales = [0.0301513671875, 0.029296875, 0.03076171875];
  const shards = {
    rows: (i: number) => scales[Math.floor(i / columns / 4)]!,
    columns: (i: number) => scales[Math.floor((i % columns) / 128)]!,
  };
  for (const [orientation, of] of Object.entries(shards)) {
    const values = Float32Array.from(trits, (trit, i) => trit * of(i));
    const path = join(folder, `shards-${orientation}.safetensors`);
    await writeSafetensors(path, [{ name: 'w.weight', dtype: 'F16', shape: [rows, columns], bytes: f32ToF16(values) }]);
    using checkpoint = await openCheckpoint(path);
    const tensor = groupedTensor(checkpoint, 'w.weight', undefined);
    if (typeof tensor === 'string') throw new Error(tensor);
    const matrix = (await readGrouped(checkpoint, tensor))!;
    expect(matrix.group).toBe(128);
    expect(groupedValues(matrix).every((value, i) => value === values[i])).toBe(true);
    expect([...new Set(matrix.scales)].sort()).toEqual(scales.slice(0, orientation === 'rows' ? 3 : 2).sort());
    expect((await readPanel64(checkpoint, tensor)).scaleType).toBe('f16');
  }
});

test('windows of rows are the rows of the whole', async () => {
  using checkpoint = await openCheckpoint(join(golden, 'qwen3_all_layouts_s2601/ptq1_0.gguf'));
  const tensor = groupedTensor(checkpoint, 'blk.0.attn_q.weight', undefined);
  if (typeof tensor === 'string') throw new Error(tensor);
  const whole = await readGroupedRows(checkpoint, tensor, 0, tensor.rows);
  const part = await readGroupedRows(checkpoint, tensor, 7, 20);
  expect(part.quads).toEqual(whole.quads.slice(7 * 64, 20 * 64));
  expect(part.scales).toEqual(whole.scales.slice(14, 40));
  expect([part.rows, part.neverWritten]).toEqual([13, 0]);
});

test('what is no grouped matrix says why', async () => {
  using checkpoint = await openCheckpoint(join(golden, 'qwen3_all_layouts_s2601/q2_0_g64.gguf'));
  expect(groupedTensor(checkpoint, 'output_norm.weight', undefined)).toBe('it has 1 dimensions, a matrix has two');
  await expect(checkpoint.read('token_embd.weight')).rejects.toThrow(UnsupportedTypeError);
  const path = join(folder, 'floats.safetensors');
  const floats = Float32Array.from({ length: 128 }, (_, i) => i);
  const bytes = new Uint8Array(floats.buffer);
  await writeSafetensors(path, [{ name: 'w.weight', dtype: 'F32', shape: [2, 64], bytes }]);
  using plain = await openCheckpoint(path);
  const tensor = groupedTensor(plain, 'w.weight', undefined);
  if (typeof tensor === 'string') throw new Error(tensor);
  expect(await readGrouped(plain, tensor)).toBeUndefined();
  await expect(readPanel64(plain, tensor)).rejects.toThrow(NotTernaryError);
});

test('a row too wide for exact sums is refused before it is made 64 times as large', async () => {
  const path = join(folder, 'wide.gguf');
  const columns = 2 ** 17;
  await writeGguf(path, {
    metadata: [],
    tensors: [{ name: 'w', type: 'PQ2_0', shape: [1, columns], bytes: new Uint8Array((columns / 128) * 34) }],
  });
  using checkpoint = await openCheckpoint(path);
  const tensor = groupedTensor(checkpoint, 'w', undefined);
  if (typeof tensor === 'string') throw new Error(tensor);
  await expect(readPanel64(checkpoint, tensor)).rejects.toThrow(MatrixWidthError);
});

test('MLX: bits and group by shape and config, which may say it of one module', async () => {
  const path = join(folder, 'mlx.safetensors');
  const zeros = (dtype: 'U32' | 'F16', name: string, shape: [number, number]) => ({
    name,
    dtype,
    shape,
    bytes: new Uint8Array(shape[0] * shape[1] * (dtype === 'U32' ? 4 : 2)),
  });
  await writeSafetensors(path, [
    zeros('U32', 'a.weight', [2, 16]),
    zeros('F16', 'a.scales', [2, 2]),
    zeros('F16', 'a.biases', [2, 2]),
    zeros('U32', 'alone.weight', [2, 16]),
  ]);
  using checkpoint = await openCheckpoint(path);
  const shape = (config: Record<string, unknown> | undefined) => {
    const found = mlxShape(checkpoint, 'a.weight', config);
    return typeof found === 'string' ? found : [found.columns, found.bits, found.group];
  };
  expect(shape({ quantization: { group_size: 128, bits: 2 } })).toEqual([256, 2, 128]);
  expect(shape({ quantization_config: { group_size: 64, bits: 4 } })).toEqual([128, 4, 64]);
  expect(shape(undefined)).toEqual([128, 4, 64]);
  expect(shape({ quantization: { group_size: 64, bits: 4, a: { group_size: 128, bits: 2 } } })).toEqual([256, 2, 128]);
  expect(shape({ quantization: { group_size: 32 } })).toEqual([64, 8, 32]);
  expect(shape({ quantization: { group_size: 48 } })).toMatch(/fit no group size of 48/);
  expect(shape({ quantization: { group_size: 1e9 } })).toMatch(/fit no group size/);
  expect(shape({ quantization: { group_size: '64' } })).toMatch(/fit no group size of 64/);
  expect(shape({ quantization: { group_size: 32, mode: 'mxfp4' } })).toMatch(/MLX mode "mxfp4"/);
  expect(mlxShape(checkpoint, 'alone.weight', undefined)).toBe('uint32 without .scales and .biases');
});
