// The memory that is told before a model is loaded is about what its program then holds.

import { join } from 'node:path';
import { expect, test } from 'vitest';
import type { Weight } from '../../src/engine/program.ts';
import { memoryLine, memoryOf } from '../../src/model/memory.ts';
import { estimateMemory } from '../../src/model/memory-estimate.ts';
import { type ModelFiles, openModel } from '../../src/model/open-model.ts';

const golden = join(import.meta.dirname, '../golden');

function bytesOf(weight: Weight): number {
  if (weight.kind === 'vector') return weight.values.byteLength;
  if (weight.kind === 'int8') return weight.codes.byteLength + weight.rowScale.byteLength;
  return weight.bytes.byteLength + (weight.kind === 'grouped' ? weight.scales.byteLength : 0);
}

test.each<[string, ModelFiles]>([
  ['the embedded model', { kind: 'folder', path: join(import.meta.dirname, '../../models/default') }],
  ['a Qwen3 as MLX packs', { kind: 'folder', path: join(golden, 'qwen3/qwen3_all_layouts_s2601/mlx') }],
  ['a Qwen3 as floats', { kind: 'folder', path: join(golden, 'qwen3/qwen3_unpacked_bf16_s2604/hf') }],
  ['a Qwen3 as Q2_0', { kind: 'gguf', path: join(golden, 'qwen3/qwen3_yarn_wide_heads_s2602/q2_0_g64.gguf') }],
  ['a hybrid', { kind: 'gguf', path: join(golden, 'hybrid/qwen35_q2_a_s2601/model.gguf') }],
  ['a rotated hybrid', { kind: 'gguf', path: join(golden, 'hybrid/hadamard_ptq1_identity_b_s2612/model.gguf') }],
  ['a mixture', { kind: 'gguf', path: join(golden, 'hybrid/maple_tq2_a_s2621/model.gguf') }],
])('%s', async (_, files) => {
  const memory = await memoryOf(files);
  const { program, config } = await openModel(files, { name: 'test', head: 'full' });
  const held = program.weights.reduce((sum, weight) => sum + bytesOf(weight), 0);
  expect(memory.weightBytes / held).toBeGreaterThan(0.75);
  expect(memory.weightBytes / held).toBeLessThan(1.25);
  const { layers, kvHeads, headDim, windows = [] } = program.kv;
  const bounded = windows.filter((size) => size > 0);
  expect(memory.bytesPerToken).toBe(2 * 4 * (layers - bounded.length) * kvHeads * headDim);
  const states = (program.recurrent ?? []).reduce((sum, { width }) => sum + 4 * width, 0);
  expect(memory.stateBytes).toBe(states + bounded.reduce((sum, size) => sum + 2 * 4 * size * kvHeads * headDim, 0));
  expect(memory.contextLength).toBe(Math.min(4096, config.maxPositionEmbeddings));
});

test('in words', () => {
  const line = memoryLine({
    weightBytes: 2.2e9,
    bytesPerToken: 294_912,
    stateBytes: 0,
    loadingBytes: 0,
    contextLength: 4096,
    totalBytes: 3.4e9,
  });
  expect(line).toMatch(/^2\.2 GB for weights, 1\.2 GB more at 4,096 tokens; [\d.]+ GB of [\d.]+ GB are free$/);
});

test('the states of the 27B model are those that its documents name', () => {
  const config = {
    family: 'qwen35',
    hiddenSize: 5120,
    intermediateSize: 17_408,
    numHiddenLayers: 64,
    numAttentionHeads: 24,
    numKeyValueHeads: 4,
    headDim: 256,
    rotaryDim: 64,
    vocabSize: 248_320,
    maxPositionEmbeddings: 262_144,
    ropeTheta: 1e7,
    rmsNormEps: 1e-6,
    hiddenAct: 'silu',
    tieWordEmbeddings: false,
    linearStorage: 'gguf',
    layerKinds: Array.from({ length: 64 }, (_, i) => ((i + 1) % 4 === 0 ? 'attention' : 'recurrent')),
    deltaNet: { keyHeads: 16, valueHeads: 48, headDim: 128, convTaps: 4, order: 'tiled' },
    bosTokenId: undefined,
    eosTokenIds: [],
    unknownKeys: [],
  } as const;
  const memory = estimateMemory(config, () => ({ dtype: 'PQ2_0', byteLength: 1 }), 'gguf');
  expect(memory.stateBytes).toBe(156_893_184);
  expect(memory.bytesPerToken).toBe(131_072);
  // 26.9 billion codes of two bits, and an f16 for 128 of them.
  expect(memory.weightBytes).toBeGreaterThan(7.1e9);
  expect(memory.weightBytes).toBeLessThan(7.25e9);
});

test('a model that no memory holds is refused before it is read, with what would do', async () => {
  const path = join(golden, 'hybrid/qwen35_q2_a_s2601/model.gguf');
  const open = (memoryBytes: number, contextLength?: number) =>
    openModel(
      { kind: 'gguf', path },
      { name: 'test', head: 'full', memoryBytes, ...(contextLength !== undefined && { contextLength }) },
    );
  const { weightBytes, stateBytes, bytesPerToken } = await memoryOf({ kind: 'gguf', path });
  await expect(open(weightBytes / 2)).rejects.toThrow(
    /^the model takes 0\.0 GB for weights and 0\.0 GB for 4,096 tokens, and there are 0\.0 GB of memory .*smaller model/,
  );
  await expect(open(weightBytes + stateBytes + 300 * bytesPerToken)).rejects.toThrow(/context of at most 256 tokens/);
  await expect(open(weightBytes + stateBytes + 300 * bytesPerToken, 256)).resolves.toBeDefined();
});
