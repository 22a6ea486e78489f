// The same weights as safetensors and as GGUF give the same logits, bit for bit: layouts, names, the interleaved rows
// of architecture "llama", and the scale beside a matrix.

import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { jsBackend } from '../../src/engine/js/backend.ts';
import type { Program } from '../../src/engine/program.ts';
import { GgufFile } from '../../src/formats/gguf-file.ts';
import { openCheckpoint } from '../../src/formats/open-checkpoint.ts';
import { type GgufPair, type GgufTensorToWrite, writeGguf } from '../../src/formats/write-gguf.ts';
import { ggufConfig } from '../../src/model/gguf-config.ts';
import { interleavedHeads, interleavedRow } from '../../src/model/interleaved-heads.ts';
import { openModel, readModelConfig } from '../../src/model/open-model.ts';
import { packI2s } from '../../src/quant/i2s.ts';
import { unpackRowquad } from '../../src/quant/rowquad.ts';
import { toFloat32 } from '../../src/quant/to-float32.ts';

const golden = join(import.meta.dirname, '../golden/model');
let root = '';
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'gguf-'));
});
afterAll(() => rm(root, { recursive: true }));

const RENAMED: [RegExp, string][] = [
  [/^model\.embed_tokens/, 'token_embd'],
  [/^model\.norm/, 'output_norm'],
  [/^lm_head/, 'output'],
  [/^model\.layers\.(\d+)\./, 'blk.$1.'],
  [/input_layernorm/, 'attn_norm'],
  [/post_attention_layernorm/, 'ffn_norm'],
  [/self_attn\.attn_sub_norm/, 'attn_sub_norm'],
  [/self_attn\.([qkv])_proj/, 'attn_$1'],
  [/self_attn\.o_proj/, 'attn_output'],
  [/mlp\.(gate|up|down)_proj/, 'ffn_$1'],
  [/mlp\.ffn_sub_norm/, 'ffn_sub_norm'],
];
const ggufName = (name: string) => RENAMED.reduce((text, [from, to]) => text.replace(from, to), name);

/** A golden case written as GGUF: matrices as I2_S, norms F32, embedding F32; `split` puts the scale in a tensor. */
async function asGguf(name: string, architecture: string, split = false): Promise<string> {
  const dir = join(golden, name);
  const config = await readModelConfig(dir);
  using checkpoint = await openCheckpoint(join(dir, 'model.safetensors'));
  const tensors: GgufTensorToWrite[] = [];
  for (const tensor of checkpoint.names()) {
    if (tensor.endsWith('_scale')) continue;
    const view = await checkpoint.read(tensor);
    if (view.dtype !== 'U8') {
      const values = Float32Array.from(toFloat32(view));
      tensors.push({ name: ggufName(tensor), type: 'F32', shape: view.shape, bytes: new Uint8Array(values.buffer) });
      continue;
    }
    const stored = toFloat32(await checkpoint.read(`${tensor}_scale`))[0]!;
    const scale = config.linearStorage === 'packed-divide' ? Math.fround(1 / stored) : stored;
    const columns = view.shape[1]!;
    const rows = rowsOf(tensor, config);
    let trits: Int8Array = unpackRowquad(view.bytes, rows, columns);
    const heads = tensor.includes('q_proj') ? config.numAttentionHeads : config.numKeyValueHeads;
    if (architecture === 'llama' && /[qk]_proj/.test(tensor)) trits = interleavedHeads(trits, rows, columns, heads);
    const bytes = packI2s(trits, rows, columns, split ? 1 : scale);
    tensors.push({ name: ggufName(tensor), type: 'I2_S', shape: [rows, columns], bytes });
    if (split) {
      const factor = new Uint8Array(Float32Array.of(scale).buffer);
      tensors.push({ name: ggufName(tensor).replace('.weight', '.scale'), type: 'F32', shape: [1], bytes: factor });
    }
  }
  const number = (key: string, value: number): GgufPair => ({ key: `${architecture}.${key}`, type: 'u32', value });
  const float = (key: string, value: number): GgufPair => ({ key: `${architecture}.${key}`, type: 'f32', value });
  const path = join(root, `${name}-${architecture}-${split}.gguf`);
  await writeGguf(path, {
    metadata: [
      { key: 'general.architecture', type: 'string', value: architecture },
      number('embedding_length', config.hiddenSize),
      number('feed_forward_length', config.intermediateSize),
      number('block_count', config.numHiddenLayers),
      number('attention.head_count', config.numAttentionHeads),
      number('attention.head_count_kv', config.numKeyValueHeads),
      number('attention.key_length', config.headDim),
      number('rope.dimension_count', config.headDim),
      number('context_length', config.maxPositionEmbeddings),
      float('rope.freq_base', config.ropeTheta),
      float('attention.layer_norm_rms_epsilon', config.rmsNormEps),
    ],
    tensors,
  });
  return path;
}

function rowsOf(tensor: string, config: Awaited<ReturnType<typeof readModelConfig>>): number {
  if (tensor.includes('q_proj')) return config.numAttentionHeads * config.headDim;
  if (/[kv]_proj/.test(tensor)) return config.numKeyValueHeads * config.headDim;
  return /gate|up/.test(tensor) ? config.intermediateSize : config.hiddenSize;
}

async function logits(program: Program): Promise<Uint32Array> {
  using executable = await jsBackend.load(program, {});
  const T = 9;
  const result = await executable.step({
    tokens: Int32Array.from({ length: T }, (_, i) => (i * 37 + 5) % program.vocabSize),
    sequences: new Int32Array(T).fill(executable.createSequence()),
    positions: Int32Array.from({ length: T }, (_, i) => i),
    outputRows: Int32Array.from({ length: T }, (_, i) => i),
  });
  return new Uint32Array(result.logits.buffer);
}

describe('logits from GGUF equal those from safetensors', () => {
  // The shapes of these cases fill the 128-element blocks of I2_S.
  test.each([
    ['bitnet_packed_a_s111', 'bitnet-b1.58', false],
    ['bitnet_packed_a_s111', 'bitnet-25', true],
    ['llama_bitlinear_a_s411', 'llama', false],
    ['bitnet_2b4t_style_d_s744', 'bitnet-b1.58', false],
  ])('%s as %s, scale in a tensor: %s', async (name, architecture, split) => {
    const head = 'full';
    const wanted = await openModel({ kind: 'folder', path: join(golden, name) }, { name, head });
    const got = await openModel({ kind: 'gguf', path: await asGguf(name, architecture, split) }, { name, head });
    // eps and theta pass through float32 in GGUF.
    expect(got.config).toMatchObject({ hiddenAct: wanted.config.hiddenAct, headDim: wanted.config.headDim });
    expect(await logits(got.program)).toEqual(await logits(wanted.program));
  });
});

test('an architecture we do not run is refused by name', async () => {
  await expect(
    asGguf('bitnet_packed_a_s111', 'gemma3').then((path) =>
      openModel({ kind: 'gguf', path }, { name: 'x', head: 'full' }),
    ),
  ).rejects.toThrow(/architecture "gemma3".*supported: bitnet/);
});

test('rows of a head lie interleaved under architecture "llama"', () => {
  const rows = Int8Array.from({ length: 16 * 3 }, (_, i) => Math.floor(i / 3));
  // Row 1 of a head of 8 pairs with row 5, so they become rows 2 and 3.
  expect([...interleavedHeads(rows, 16, 3, 2)].filter((_, i) => i % 3 === 0)).toEqual([
    0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15,
  ]);
  expect(Array.from({ length: 16 }, (_, row) => interleavedRow(8)(row))).toEqual([
    0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15,
  ]);
});

describe('numbers of the metadata', () => {
  const write = async (name: string, ...changed: GgufPair[]): Promise<string> => {
    const path = join(root, `${name}.gguf`);
    const u32 = (key: string, value: number): GgufPair => ({ key: `qwen3.${key}`, type: 'u32', value });
    const usual: GgufPair[] = [
      { key: 'general.architecture', type: 'string', value: 'qwen3' },
      ...[u32('embedding_length', 64), u32('attention.head_count', 4), u32('block_count', 1)],
      u32('feed_forward_length', 64),
      { key: 'qwen3.attention.layer_norm_rms_epsilon', type: 'f32', value: 1e-5 },
    ];
    const metadata = [...usual.filter(({ key }) => !changed.some((pair) => pair.key === key)), ...changed];
    const embedding = { name: 'token_embd.weight', type: 'F32', shape: [4, 64], bytes: new Uint8Array(1024) };
    await writeGguf(path, { metadata, tensors: [embedding] });
    return path;
  };

  const configOf = async (path: string) => {
    using file = await GgufFile.open(path);
    return ggufConfig(file);
  };

  test.each([
    ['attention.layer_norm_rms_epsilon', Number.NaN],
    ['attention.layer_norm_rms_epsilon', -1],
    ['rope.freq_base', Number.NaN],
    ['rope.freq_base', Number.POSITIVE_INFINITY],
    ['rope.freq_base', 0],
    ['rope.scaling.attn_factor', Number.NaN],
    ['rope.scaling.factor', Number.NaN],
  ])('%s of %s is refused', async (key, value) => {
    const yarn: GgufPair[] = [
      { key: 'qwen3.rope.scaling.type', type: 'string', value: 'yarn' },
      { key: 'qwen3.rope.scaling.factor', type: 'f32', value: 4 },
      { key: 'qwen3.rope.scaling.original_context_length', type: 'u32', value: 64 },
    ];
    const scaling = key.includes('scaling') ? yarn.filter((pair) => pair.key !== `qwen3.${key}`) : [];
    const path = await write(`${key}-${value}`, ...scaling, { key: `qwen3.${key}`, type: 'f32', value });
    await expect(configOf(path)).rejects.toThrow(`qwen3.${key} is ${value} (${path}); expected a positive number`);
  });

  test('an id that is no token is none', async () => {
    const ids = (bos: number, eos: number): GgufPair[] => [
      { key: 'tokenizer.ggml.bos_token_id', type: 'i32', value: bos },
      { key: 'tokenizer.ggml.eos_token_id', type: 'i32', value: eos },
    ];
    expect(await configOf(await write('ids', ...ids(0, 3)))).toMatchObject({ bosTokenId: 0, eosTokenIds: [3] });
    const none = await configOf(await write('no-ids', ...ids(-1, 4)));
    expect(none).toMatchObject({ bosTokenId: undefined, eosTokenIds: [] });
  });
});
