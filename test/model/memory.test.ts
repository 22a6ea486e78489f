// The memory that is told before a model is loaded is about what its program then holds.

import { join } from 'node:path';
import { expect, test } from 'vitest';
import type { Weight } from '../../src/engine/program.ts';
import { memoryLine, memoryOf } from '../../src/model/memory.ts';
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
])('%s', async (_, files) => {
  const memory = await memoryOf(files);
  const { program, config } = await openModel(files, { name: 'test', head: 'full' });
  const held = program.weights.reduce((sum, weight) => sum + bytesOf(weight), 0);
  expect(memory.weightBytes / held).toBeGreaterThan(0.75);
  expect(memory.weightBytes / held).toBeLessThan(1.25);
  const { layers, kvHeads, headDim } = program.kv;
  expect(memory.bytesPerToken).toBe(2 * 4 * layers * kvHeads * headDim);
  expect(memory.contextLength).toBe(Math.min(4096, config.maxPositionEmbeddings));
});

test('in words', () => {
  const line = memoryLine({ weightBytes: 2.2e9, bytesPerToken: 294_912, contextLength: 4096, totalBytes: 3.4e9 });
  expect(line).toMatch(/^2\.2 GB for weights, 1\.2 GB more at 4,096 tokens; [\d.]+ GB of [\d.]+ GB are free$/);
});
