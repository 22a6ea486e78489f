// analyze_layer on group-scaled models: the golden Qwen3 files (test/golden/qwen3/ORIGIN.json) in every container, files
// that are read at the wrong places, and how much of a file is read.

import { readdirSync, readFileSync } from 'node:fs';
import { cp, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Checkpoint } from '../../src/formats/checkpoint.ts';
import { GgufFile } from '../../src/formats/gguf-file.ts';
import { openCheckpoint } from '../../src/formats/open-checkpoint.ts';
import { listTernaryLayers } from '../../src/formats/ternary-layers.ts';
import { writeGguf } from '../../src/formats/write-gguf.ts';
import { writeSafetensors } from '../../src/formats/write-safetensors.ts';
import { f32ToF16 } from '../../src/quant/f16.ts';
import { encodeBlocks } from '../../src/quant/grouped/codec.ts';
import { toQuads } from '../../src/quant/grouped/grouped-matrix.ts';
import { packTq2 } from '../../src/quant/tq2.ts';
import { analyzeLayerTool } from '../../src/tools/analyze-layer.ts';
import { callTool } from '../../src/tools/call-tool.ts';
import { analyzeLayers } from '../../src/tools/layer-analysis.ts';
import type { Services } from '../../src/tools/services.ts';
import type { TernaryModel } from '../../src/tools/ternary-model.ts';
import { tritWindowText } from '../../src/tools/trit-window.ts';

const services: Services = { generate: () => Promise.reject(new Error('not called')) };
const golden = join(import.meta.dirname, '../golden/qwen3');

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'analyze-groups-'));
});
afterAll(() => rm(folder, { recursive: true }));

type Stats = {
  name: string;
  counts: { minus: number; ergodic: number; plus: number };
  ergodic_pct: number;
  trit_sum: number;
  entropy_bits: number;
  plus_two?: number;
  scale: number;
  scales?: Record<string, number>;
  never_written?: number;
};
type Result = { layers: Stats[]; total: Stats; warnings?: string[] };

const analyze = async (args: Record<string, unknown>) =>
  (await callTool(analyzeLayerTool, args, { services })).structured as unknown as Result;

const cases = readdirSync(golden).filter((name) => name.startsWith('qwen3_'));

describe.each(cases)('%s', (name) => {
  const { codes, files } = JSON.parse(readFileSync(join(golden, name, 'expected.json'), 'utf8')) as {
    codes: { total: Record<string, number>; per_matrix: Record<string, number[]> };
    files: Record<string, string>;
  };
  const containers = [...new Set(Object.keys(files).map((file) => file.split('/')[0]!))];

  test.each(containers)('%s: the codes that it holds', async (container) => {
    const { layers, total, warnings } = await analyze({ model: join(golden, name, container) });
    const { minus, zero, plus, plus_two: twos } = codes.total as Record<'minus' | 'zero' | 'plus' | 'plus_two', number>;
    expect(total.counts).toEqual({ minus, ergodic: zero, plus });
    // Floats have no fourth code to count.
    expect(total.plus_two).toBe(container === 'hf' ? undefined : twos);
    expect(total.trit_sum).toBe(plus - minus);
    expect(total.ergodic_pct).toBeCloseTo((100 * zero) / (minus + zero + plus), 10);
    expect(layers).toHaveLength(Object.keys(codes.per_matrix).length);
    const sorted = (rows: readonly (readonly number[])[]) => rows.map((row) => row.join()).sort();
    expect(sorted(layers.map(({ counts: c, plus_two = 0 }) => [c.minus, c.ergodic, c.plus, plus_two]))).toEqual(
      sorted(Object.values(codes.per_matrix)),
    );
    // The case whose fourth codes are meant has scales of a model, so it is not taken for a file that is misread.
    const isPrism = container === 'pq2_0.gguf' || container === 'ptq1_0.gguf';
    expect(warnings).toEqual(
      isPrism ? [expect.stringMatching(/no prism.hadamard keys: right for Ternary/)] : undefined,
    );
    for (const { scales } of layers) {
      expect(scales!.group).toBe(container === 'q2_0_g64.gguf' ? 64 : 128);
      expect(scales!.min).toBeLessThanOrEqual(scales!.median!);
      expect(scales!.median).toBeLessThanOrEqual(scales!.max!);
    }
  });
});

test('the spread of scales, worked by hand', async () => {
  const path = join(folder, 'spread.gguf');
  const matrix = {
    rows: 3,
    columns: 128,
    group: 64,
    codes: new Uint8Array(384).fill(2),
    scales: Float32Array.of(0.5, -0.25, 0, 0.5, 4, 0.125),
  };
  matrix.codes.set([0, 1, 3, 3], 0);
  const bytes = encodeBlocks('Q2_0', toQuads(matrix));
  await writeGguf(path, {
    metadata: [],
    tensors: [{ name: 'blk.0.ffn_up.weight', type: 'Q2_0', shape: [3, 128], bytes }],
  });
  // 108 bytes are no blocks of 128 (102), though both pad to 128; with more rows behind it the table is plain.
  await expect(analyze({ model: path })).rejects.toThrow(/blocks of 64 or of 128/);
  const wide = { ...matrix, columns: 192, codes: new Uint8Array(576).fill(2), scales: new Float32Array(9) };
  wide.codes.set(matrix.codes);
  wide.scales.set([...matrix.scales, 4, 4, 0]);
  await writeGguf(path, {
    metadata: [],
    tensors: [
      { name: 'blk.0.ffn_up.weight', type: 'Q2_0', shape: [3, 192], bytes: encodeBlocks('Q2_0', toQuads(wide)) },
    ],
  });
  const { layers, total } = await analyze({ model: path });
  const [layer] = layers as [Stats];
  expect(layer.counts).toEqual({ minus: 1, ergodic: 1, plus: 572 });
  expect(layer.plus_two).toBe(2);
  expect(layer.scales).toEqual({
    group: 64,
    count: 9,
    min: -0.25,
    // -0.25 0 0 0.125 0.5 0.5 4 4 4
    median: 0.5,
    max: 4,
    zero: 2,
    largest_share: 3 / 9,
  });
  expect(layer.scale).toBeCloseTo(12.875 / 9, 10);
  expect(total.scales).toBeUndefined();
  const { text } = await callTool(analyzeLayerTool, { model: path }, { services }).then(({ text, structured }) => ({
    text: text ?? JSON.stringify(structured),
  }));
  expect(text).toContain('2 weights of +2 times their scale are no trits: shares, entropy and sum leave them out');
  const window = await tritWindowText({ model: path, layer: layer.name, row: 0, column: 0 }, { services });
  expect(window.split('\n')[0]!.slice(0, 6)).toBe('-o22++');
  const { images } = await callTool(analyzeLayerTool, { model: path, image: true }, { services });
  expect(images).toHaveLength(1);
});

test('one scale in all blocks is the scale of the matrix, blocks of zeros apart', async () => {
  const path = join(folder, 'one.gguf');
  const trits = Int8Array.from({ length: 4 * 512 }, (_, i) => (i < 256 ? 0 : (i % 3) - 1));
  const tensors = [{ name: 'blk.0.ffn_up.weight', type: 'TQ2_0', shape: [4, 512], bytes: packTq2(trits, 0.75) }];
  await writeGguf(path, { metadata: [], tensors });
  const { layers } = await analyze({ model: path });
  expect(layers[0]).toMatchObject({ scale: 0.75, plus_two: 0 });
  expect(layers[0]!.scales).toBeUndefined();
});

test.each(['F16', 'F32'] as const)(
  '%s of a Llama graph: one scale, or one for each shard of a training',
  async (type) => {
    const [rows, columns] = [8, 64];
    const trits = Int8Array.from({ length: rows * columns }, (_, i) => ((i * 5) % 3) - 1);
    const bytesOf = (scale: (row: number) => number) => {
      const values = Float32Array.from(trits, (trit, i) => trit * scale(Math.floor(i / columns)));
      return type === 'F16' ? f32ToF16(values) : new Uint8Array(values.buffer);
    };
    const path = join(folder, `llama-${type}.gguf`);
    const shape = [rows, columns];
    await writeGguf(path, {
      metadata: [{ key: 'general.architecture', type: 'string', value: 'llama' }],
      tensors: [
        { name: 'token_embd.weight', type: 'F32', shape: [4, 8], bytes: new Uint8Array(128) },
        { name: 'blk.0.attn_q.weight', type, shape, bytes: bytesOf(() => 0.75) },
        { name: 'blk.0.attn_k.weight', type, shape, bytes: bytesOf((row) => (row < 4 ? 0.5 : 0.25)) },
      ],
    });
    const { layers } = await analyze({ model: path });
    const [one, shards] = layers as [Stats, Stats];
    expect(layers.map(({ name }) => name)).toEqual(['blk.0.attn_q.weight', 'blk.0.attn_k.weight']);
    expect(one.scale).toBe(0.75);
    expect(one.scales).toBeUndefined();
    expect(shards.scale).toBe(0.375);
    // One for four rows each.
    expect(shards.scales).toMatchObject({ group: columns, count: 2, min: 0.25, median: 0.25, max: 0.5, zero: 0 });
    const count = (trit: number) => trits.filter((value) => value === trit).length;
    for (const { counts } of layers) expect(counts).toEqual({ minus: count(-1), ergodic: count(0), plus: count(1) });
  },
);

test('bytes of PTQ1_0 that no writer makes are counted', async () => {
  const path = join(folder, 'odd.gguf');
  const bytes = new Uint8Array(28 * 2).fill(0);
  bytes.set([1, 20, 40], 3);
  bytes[28 + 25] = 237;
  // A scale may hold any byte.
  bytes.set([1, 20], 26);
  await writeGguf(path, {
    metadata: [],
    tensors: [{ name: 'blk.0.ffn_up.weight', type: 'PTQ1_0', shape: [2, 128], bytes }],
  });
  const { layers, warnings } = await analyze({ model: path });
  expect(layers[0]!.never_written).toBe(4);
  expect(warnings).toContain(
    'blk.0.ffn_up.weight: 4 bytes that no writer of its layout makes; they are read by the rule of all others',
  );
});

test('blocks read at the wrong place are told by their fourth codes and their scales', async () => {
  // The bytes of a file of blocks of 128 in one whose table says blocks of 64: what is left over is cut off.
  const source = join(golden, 'qwen3_yarn_wide_heads_s2602/pq2_0.gguf');
  using file = await GgufFile.open(source);
  const { shape } = file.info('token_embd.weight');
  const [rows, columns] = shape as [number, number];
  const bytes = await file.readBytes('token_embd.weight');
  const height = Math.floor(bytes.length / ((columns / 64) * 18));
  const path = join(folder, 'misread.gguf');
  const name = 'blk.0.ffn_up.weight';
  await writeGguf(path, {
    metadata: [],
    tensors: [
      { name, type: 'Q2_0', shape: [height, columns], bytes: bytes.slice(0, (height * columns * 18) / 64) },
      { name: 'output_norm.weight', type: 'F32', shape: [8], bytes: new Uint8Array(32) },
    ],
  });
  const { layers, warnings } = await analyze({ model: path });
  const share = layers[0]!.plus_two! / (height * columns);
  expect(rows).toBeGreaterThan(height);
  expect(share).toBeGreaterThan(0.005);
  expect(share).toBeLessThan(0.02);
  expect(warnings).toHaveLength(1);
  expect(warnings![0]).toMatch(
    /^blk\.0\.ffn_up\.weight: [01]\.\d+% of the weights have code 3, evenly .*scales go up to \d/,
  );
});

test('packs that MLX itself made of groups are refused, not read as one scale', async () => {
  // Two groups of three values each: scale -s/2, bias s. The scales differ, so no one value tells the trits.
  const path = join(folder, 'mlx-own');
  await mkdir(path);
  const half = (values: number[]) => new Uint8Array(Float32Array.from(values).buffer);
  const words = new Uint8Array(32);
  // Codes 3 2 0 for -, 0, +.
  for (let i = 0; i < 32; i++) words[i] = [0b00101100, 0b11001011, 0b10110010][i % 3]!;
  await writeSafetensors(join(path, 'model.safetensors'), [
    { name: 'a.up_proj.weight', dtype: 'U32', shape: [1, 8], bytes: words },
    { name: 'a.up_proj.scales', dtype: 'F32', shape: [1, 2], bytes: half([-0.5, -0.125]) },
    { name: 'a.up_proj.biases', dtype: 'F32', shape: [1, 2], bytes: half([1, 0.25]) },
  ]);
  await writeFile(join(path, 'config.json'), JSON.stringify({ quantization: { group_size: 64, bits: 2 } }));
  await expect(analyze({ model: path })).rejects.toThrow(
    /not ternary under one scale: row 0, group 1 .*take a pack made from the trits/,
  );
});

test('an MLX pack that is not ternary further on says where', async () => {
  const path = join(folder, 'mlx-broken');
  await cp(join(golden, 'qwen3_all_layouts_s2601/mlx'), path, { recursive: true });
  const file = join(path, 'model.safetensors');
  using checkpoint = await openCheckpoint(file);
  const { offset, byteLength } = checkpoint.info('model.layers.1.mlp.up_proj.biases');
  const bytes = await readFile(file);
  bytes[offset + byteLength - 2]! ^= 1;
  await writeFile(file, bytes);
  await expect(analyze({ model: path })).rejects.toThrow(
    /"model\.layers\.1\.mlp\.up_proj\.weight" is not ternary: in row 255, group 1, the bias is not -scale/,
  );
});

describe('each byte is read once', () => {
  /** A checkpoint that counts the bytes read of each tensor. */
  function counting(checkpoint: Checkpoint): { counted: Checkpoint; bytes: Map<string, number> } {
    const bytes = new Map<string, number>();
    const note = (name: string, count: number) => bytes.set(name, (bytes.get(name) ?? 0) + count);
    const counted: Checkpoint = {
      format: checkpoint.format,
      path: checkpoint.path,
      metadata: checkpoint.metadata,
      names: () => checkpoint.names(),
      has: (name) => checkpoint.has(name),
      info: (name) => checkpoint.info(name),
      read: (name, allocate) => {
        note(name, checkpoint.info(name).byteLength);
        return checkpoint.read(name, allocate);
      },
      readBytes: (name, allocate) => {
        note(name, checkpoint.info(name).byteLength);
        return checkpoint.readBytes(name, allocate);
      },
      readRange: (name, start, end) => {
        note(name, end - start);
        return checkpoint.readRange(name, start, end);
      },
      readInto: (name, start, out) => {
        note(name, out.byteLength);
        return checkpoint.readInto(name, start, out);
      },
      [Symbol.dispose]: () => checkpoint[Symbol.dispose](),
    };
    return { counted, bytes };
  }

  async function parts(path: string, config?: Record<string, unknown>): Promise<Map<string, number>> {
    using checkpoint = await openCheckpoint(path);
    const { layers } = await listTernaryLayers(checkpoint, config === undefined ? {} : { config });
    expect(layers.length).toBeGreaterThan(0);
    const { counted, bytes } = counting(checkpoint);
    const model: TernaryModel = { checkpoint: counted, config, layers, skipped: [], [Symbol.dispose]: () => {} };
    await analyzeLayers(model, layers);
    return new Map([...bytes].map(([name, count]) => [name, count / checkpoint.info(name).byteLength]));
  }

  const once = (shares: Map<string, number>) => {
    expect([...new Set(shares.values())]).toEqual([1]);
  };

  test('TQ2_0 and the grouped types', async () => {
    const path = join(folder, 'tq2.gguf');
    // Several windows of 4 MB.
    const bytes = packTq2(new Int8Array(6000 * 4096).fill(1), 0.5);
    await writeGguf(path, {
      metadata: [],
      tensors: [{ name: 'blk.0.ffn_up.weight', type: 'TQ2_0', shape: [6000, 4096], bytes }],
    });
    once(await parts(path));
    for (const name of ['q2_0_g64', 'q2_0_g128', 'pq2_0', 'ptq1_0']) {
      once(await parts(join(golden, 'qwen3_all_layouts_s2601', `${name}.gguf`)));
    }
  });

  test('MLX packs and floats', async () => {
    const mlx = join(golden, 'qwen3_all_layouts_s2601/mlx');
    once(await parts(mlx, JSON.parse(await readFile(join(mlx, 'config.json'), 'utf8'))));
    once(await parts(join(golden, 'qwen3_all_layouts_s2601/hf')));
  });

  test('masters, though their scale comes before their trits', async () => {
    const path = join(folder, 'masters.safetensors');
    const bytes = new Uint8Array(Float32Array.from({ length: 2048 * 1024 }, (_, i) => Math.sin(i)).buffer);
    await writeSafetensors(path, [{ name: 'a.up_proj.weight', dtype: 'F32', shape: [2048, 1024], bytes }]);
    once(await parts(path, { architectures: ['BitnetForCausalLM'] }));
  });
});

test('files without ternary layers say what they are', async () => {
  const path = join(folder, 'mmproj.gguf');
  const clip = { key: 'general.architecture', type: 'string', value: 'clip' } as const;
  const bytes = new Uint8Array(Float32Array.from({ length: 64 }, (_, i) => i).buffer);
  await writeGguf(path, { metadata: [clip], tensors: [{ name: 'v.up.weight', type: 'F32', shape: [2, 32], bytes }] });
  await expect(analyze({ model: path })).rejects.toThrow(/vision tower/);
  const fallback = join(folder, 'fallback.gguf');
  await writeGguf(fallback, {
    metadata: [
      { key: 'general.architecture', type: 'string', value: 'llama' },
      { key: 'general.file_type', type: 'u32', value: 37 },
    ],
    tensors: [{ name: 'blk.0.attn_k.weight', type: 'Q4_0', shape: [4, 192], bytes: new Uint8Array(4 * 6 * 18) }],
  });
  await expect(analyze({ model: fallback })).rejects.toThrow(
    /is Q4_0 in a file that calls itself TQ2_0.*Q2_0 .* or I2_S/,
  );
});
