// One matrix stored in every form must come out as the same trits.

import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Checkpoint } from '../../src/formats/checkpoint.ts';
import { openCheckpoint } from '../../src/formats/open-checkpoint.ts';
import {
  listTernaryLayers,
  openTernaryLayer,
  readPackedWindows,
  readTernaryWindows,
  type TernaryLayer,
  type TernaryLayersOptions,
} from '../../src/formats/ternary-layers.ts';
import { writeGguf } from '../../src/formats/write-gguf.ts';
import { type TensorToWrite, writeSafetensors } from '../../src/formats/write-safetensors.ts';
import { f32ToBf16 } from '../../src/quant/bf16.ts';
import { NotTernaryError, TernaryCodeError } from '../../src/quant/errors.ts';
import { f32ToF16 } from '../../src/quant/f16.ts';
import { packI2s } from '../../src/quant/i2s.ts';
import { encodeQ8 } from '../../src/quant/q8.ts';
import { packRowquad } from '../../src/quant/rowquad.ts';
import { scaleOfBlocks } from '../../src/quant/ternary-scale.ts';
import { packTq1 } from '../../src/quant/tq1.ts';
import { packTq2 } from '../../src/quant/tq2.ts';
import { patternA } from '../quant/patterns.ts';

const ROWS = 22;
const COLUMNS = 256;
const TRITS = patternA(ROWS * COLUMNS);
const NAME = 'model.layers.0.self_attn.q_proj.weight';
const CONFIG = { hidden_size: 256, num_attention_heads: 2, num_key_value_heads: 1, head_dim: 11 };
const floats = (scale: number) => Float32Array.from(TRITS, (trit) => trit * scale);
const bytesOf = (values: Float32Array) => new Uint8Array(values.buffer, values.byteOffset, values.byteLength);

let folder: string;
let count = 0;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'ternary-'));
});
afterAll(() => rm(folder, { recursive: true }));

async function safetensors(tensors: TensorToWrite[]): Promise<Checkpoint> {
  const path = join(folder, `${count++}.safetensors`);
  await writeSafetensors(path, tensors);
  return openCheckpoint(path);
}

async function gguf(type: string, bytes: Uint8Array, extra: Parameters<typeof writeGguf>[1]['tensors'] = []) {
  const path = join(folder, `${count++}.gguf`);
  const tensors = [{ name: 'blk.0.attn_q.weight', type, shape: [ROWS, COLUMNS], bytes }, ...extra];
  await writeGguf(path, { metadata: [], tensors });
  return openCheckpoint(path);
}

async function tritsOf(checkpoint: Checkpoint, layer: TernaryLayer, options: TernaryLayersOptions = {}) {
  const trits = new Int8Array(layer.rows * layer.columns).fill(9);
  for await (const window of readTernaryWindows(checkpoint, layer, options)) {
    trits.set(window.values, window.rowStart * layer.columns);
  }
  return trits;
}

/** The scale after all windows were read: their own, taken together, or the layer's. */
async function scaleOf(checkpoint: Checkpoint, layer: TernaryLayer) {
  const opened = await openTernaryLayer(checkpoint, layer);
  const values: number[] = [];
  let size = 0;
  for await (const { scales } of opened.windows()) {
    values.push(...(scales?.values ?? []));
    size = scales?.group ?? 0;
  }
  return opened.scale() ?? scaleOfBlocks(Float32Array.from(values), size);
}

async function onlyLayer(checkpoint: Checkpoint, options: TernaryLayersOptions = {}): Promise<TernaryLayer> {
  const { layers, skipped } = await listTernaryLayers(checkpoint, options);
  expect(skipped).toEqual([]);
  expect(layers).toHaveLength(1);
  return layers[0]!;
}

describe('packed', () => {
  const packed = (scale: number): TensorToWrite[] => [
    { name: NAME, dtype: 'U8', shape: [6, COLUMNS], bytes: packRowquad(TRITS, ROWS, COLUMNS) },
    { name: `${NAME}_scale`, dtype: 'F32', shape: [1], bytes: bytesOf(Float32Array.of(scale)) },
    { name: 'model.embed_tokens.weight', dtype: 'F32', shape: [4, 4], bytes: new Uint8Array(64) },
    { name: 'model.norm.weight', dtype: 'F32', shape: [4], bytes: new Uint8Array(16) },
  ];
  test.each([
    ['autobitlinear', { quant_method: 'bitnet', linear_class: 'autobitlinear' }, 1.5, 'multiply', 1.5],
    ['bitlinear', { quant_method: 'bitnet', linear_class: 'bitlinear' }, 4, 'divide', 0.25],
    ['no linear_class', { quant_method: 'bitnet' }, 4, 'divide', 0.25],
    ['no config, near 1', undefined, 1.5, 'multiply-assumed', 1.5],
    ['no config, tens', undefined, 50, 'divide-assumed', Math.fround(1 / 50)],
  ])('%s', async (_, quantization, stored, scaleRule, value) => {
    using checkpoint = await safetensors(packed(stored));
    const config = { ...CONFIG, ...(quantization === undefined ? {} : { quantization_config: quantization }) };
    const layer = await onlyLayer(checkpoint, { config });
    expect(layer).toEqual({ name: NAME, rows: ROWS, columns: COLUMNS, form: 'packed', scaleRule });
    expect(await scaleOf(checkpoint, layer)).toEqual({ kind: 'tensor', value });
    expect(await tritsOf(checkpoint, layer)).toEqual(TRITS);
    const packedRows: number[] = [];
    for await (const window of readPackedWindows(checkpoint, layer)) packedRows.push(window.bytes.length / COLUMNS);
    expect(packedRows).toEqual([6]);
  });

  test('without a config the rows are four times the packed ones', async () => {
    using checkpoint = await safetensors(packed(1));
    expect((await onlyLayer(checkpoint)).rows).toBe(24);
  });

  test('code 3 is refused with its place in the file', async () => {
    const tensors = packed(1);
    const bytes = packRowquad(TRITS, ROWS, COLUMNS);
    bytes[300] = 0xff;
    using checkpoint = await safetensors([{ ...tensors[0]!, bytes } as TensorToWrite, tensors[1]!]);
    const layer = await onlyLayer(checkpoint, { config: CONFIG });
    const place = checkpoint.info(NAME).offset + 300;
    await expect(tritsOf(checkpoint, layer)).rejects.toThrow(TernaryCodeError);
    await expect(tritsOf(checkpoint, layer)).rejects.toThrow(`byte ${place}`);
  });

  test('uint8 without a scale is skipped with the reason', async () => {
    using checkpoint = await safetensors(packed(1).slice(0, 1));
    const { layers, skipped } = await listTernaryLayers(checkpoint);
    expect(layers).toEqual([]);
    expect(skipped).toEqual([{ name: NAME, reason: `uint8 without a ${NAME}_scale` }]);
  });
});

describe('floats', () => {
  test.each([
    ['F32', bytesOf(floats(0.75))],
    ['BF16', f32ToBf16(floats(0.75))],
    ['F16', f32ToF16(floats(0.75))],
  ] as const)('prescaled %s', async (dtype, bytes) => {
    using checkpoint = await safetensors([{ name: NAME, dtype, shape: [ROWS, COLUMNS], bytes }]);
    const layer = await onlyLayer(checkpoint);
    expect(layer).toMatchObject({ form: 'prescaled', scaleRule: 'values' });
    expect(await scaleOf(checkpoint, layer)).toEqual({ kind: 'tensor', value: 0.75 });
    expect(await tritsOf(checkpoint, layer)).toEqual(TRITS);
  });

  test.each([
    ['autobitlinear', 0.5],
    ['bitlinear', 2],
  ])('trits that were not packed, beside their weight_scale (%s)', async (linear_class, value) => {
    using checkpoint = await safetensors([
      { name: NAME, dtype: 'BF16', shape: [ROWS, COLUMNS], bytes: f32ToBf16(floats(1)) },
      { name: `${NAME}_scale`, dtype: 'F32', shape: [1], bytes: bytesOf(Float32Array.of(0.5)) },
    ]);
    const config = { quantization_config: { quant_method: 'bitnet', quantization_mode: 'offline', linear_class } };
    const layer = await onlyLayer(checkpoint, { config });
    expect(layer.form).toBe('prescaled');
    expect(await scaleOf(checkpoint, layer)).toEqual({ kind: 'tensor', value });
    expect(await tritsOf(checkpoint, layer)).toEqual(TRITS);
  });

  test('masters, when the config says online or the caller asks', async () => {
    // Between 0.6 and 1.4 of the sign, or below 0.2: absmean finds the trits again.
    const masters = Float32Array.from(TRITS, (trit, i) => trit * (0.6 + (i % 9) / 10) + ((i % 5) - 2) / 20);
    using checkpoint = await safetensors([
      { name: NAME, dtype: 'F32', shape: [ROWS, COLUMNS], bytes: bytesOf(masters) },
    ]);
    const plain = await listTernaryLayers(checkpoint);
    expect(plain.layers).toEqual([]);
    expect(plain.skipped[0]?.reason).toContain('ordinary floats');
    for (const options of [
      { absmean: true },
      { config: { quantization_config: { quant_method: 'bitnet', quantization_mode: 'online' } } },
      { config: { architectures: ['BitnetForCausalLM'] } },
    ]) {
      const layer = await onlyLayer(checkpoint, options);
      expect(layer).toMatchObject({ form: 'masters', scaleRule: 'absmean' });
      expect(await tritsOf(checkpoint, layer, options)).toEqual(TRITS);
    }
  });

  test('floats that only begin like trits are refused when they are read', async () => {
    const values = floats(1);
    values[ROWS * COLUMNS - 1] = 0.3;
    values[ROWS * COLUMNS - 2] = 1;
    using checkpoint = await safetensors([
      { name: NAME, dtype: 'F32', shape: [ROWS, COLUMNS], bytes: bytesOf(values) },
    ]);
    await expect(tritsOf(checkpoint, await onlyLayer(checkpoint))).rejects.toThrow(NotTernaryError);
  });
});

describe('gguf', () => {
  test.each([
    ['TQ1_0', packTq1(TRITS, 0.75), 'ggml'],
    ['TQ2_0', packTq2(TRITS, 0.75), 'ggml'],
    ['I2_S', packI2s(TRITS, ROWS, COLUMNS, 0.75), 'ggml'],
    ['F16', f32ToF16(floats(0.75)), 'prescaled'],
  ] as const)('%s', async (type, bytes, form) => {
    using checkpoint = await gguf(type, bytes);
    const layer = await onlyLayer(checkpoint);
    expect(layer).toMatchObject({ name: 'blk.0.attn_q.weight', rows: ROWS, columns: COLUMNS, form });
    expect(await scaleOf(checkpoint, layer)).toEqual({ kind: 'tensor', value: 0.75 });
    expect(await tritsOf(checkpoint, layer)).toEqual(TRITS);
  });

  test('Q8_0 of ternary floats keeps the trits', async () => {
    using checkpoint = await gguf('Q8_0', encodeQ8(floats(0.75)));
    expect(await tritsOf(checkpoint, await onlyLayer(checkpoint))).toEqual(TRITS);
  });

  test('a .scale tensor multiplies the stored scale', async () => {
    const extra = { name: 'blk.0.attn_q.scale', type: 'F32', shape: [1], bytes: bytesOf(Float32Array.of(3)) };
    for (const [type, bytes] of [
      ['TQ2_0', packTq2(TRITS, 0.5)],
      ['I2_S', packI2s(TRITS, ROWS, COLUMNS, 0.5)],
    ] as const) {
      using checkpoint = await gguf(type, bytes, [extra]);
      const layer = await onlyLayer(checkpoint);
      expect(await scaleOf(checkpoint, layer)).toEqual({ kind: 'tensor', value: 1.5 });
    }
  });

  test('the other orders of I2_S are read when named', async () => {
    using checkpoint = await gguf('I2_S', packI2s(TRITS, ROWS, COLUMNS, 1, 'L64'));
    const layer = await onlyLayer(checkpoint);
    expect(await tritsOf(checkpoint, layer, { i2sLayout: 'L64' })).toEqual(TRITS);
    expect(await tritsOf(checkpoint, layer)).not.toEqual(TRITS);
  });

  test('types that lose trits are skipped', async () => {
    using checkpoint = await gguf('Q6_K', new Uint8Array(ROWS * 210));
    expect((await listTernaryLayers(checkpoint)).skipped[0]?.reason).toBe('the type Q6_K does not hold exact trits');
  });
});

test('MLX affine', async () => {
  // Two bits, group of 64: with both signs in a group the codes are - 3, 0 2, + 0, the scale -s/2 and the bias s.
  const codes = Uint8Array.from(TRITS, (trit) => [3, 2, 0][trit + 1]!);
  const words = new Uint8Array(codes.length / 4);
  for (let i = 0; i < codes.length; i++) words[i >> 2]! |= codes[i]! << (2 * (i & 3));
  const groups = (ROWS * COLUMNS) / 64;
  const filled = (value: number) => bytesOf(new Float32Array(groups).fill(value));
  const stem = NAME.replace('.weight', '');
  using checkpoint = await safetensors([
    { name: NAME, dtype: 'U32', shape: [ROWS, COLUMNS / 16], bytes: words },
    { name: `${stem}.scales`, dtype: 'F32', shape: [ROWS, COLUMNS / 64], bytes: filled(-0.375) },
    { name: `${stem}.biases`, dtype: 'F32', shape: [ROWS, COLUMNS / 64], bytes: filled(0.75) },
  ]);
  const layer = await onlyLayer(checkpoint, { config: { quantization: { group_size: 64, bits: 2 } } });
  expect(layer).toMatchObject({ form: 'affine', scaleRule: 'largest', rows: ROWS, columns: COLUMNS });
  expect(await scaleOf(checkpoint, layer)).toEqual({ kind: 'tensor', value: 0.75 });
  expect(await tritsOf(checkpoint, layer)).toEqual(TRITS);
});

test('windows of a matrix larger than one cover every row once', async () => {
  const same = (a: Int8Array, b: Int8Array) => a.length === b.length && a.every((trit, i) => trit === b[i]);
  const trits = patternA(4100 * 512);
  const values = Float32Array.from(trits, (trit) => trit * 2);
  using floatFile = await safetensors([{ name: NAME, dtype: 'F32', shape: [4100, 512], bytes: bytesOf(values) }]);
  const floatLayer = await onlyLayer(floatFile);
  expect(same(await tritsOf(floatFile, floatLayer), trits)).toBe(true);
  const windows: number[] = [];
  for await (const window of readTernaryWindows(floatFile, floatLayer)) windows.push(window.rows);
  expect(windows).toEqual([2048, 2048, 4]);

  const more = patternA(4400 * 4096);
  using packedFile = await safetensors([
    { name: NAME, dtype: 'U8', shape: [1100, 4096], bytes: packRowquad(more, 4400, 4096) },
    { name: `${NAME}_scale`, dtype: 'F32', shape: [], bytes: bytesOf(Float32Array.of(2)) },
  ]);
  const packedLayer = await onlyLayer(packedFile);
  expect(same(await tritsOf(packedFile, packedLayer), more)).toBe(true);
  const starts: number[] = [];
  for await (const window of readPackedWindows(packedFile, packedLayer)) starts.push(window.packedStart);
  expect(starts).toEqual([0, 1024]);
});
