// analyze_layer on hybrid, rotated and mixture models: experts are one matrix of all their rows, rotated weights are said to be.

import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { GgufFile } from '../../src/formats/gguf-file.ts';
import { decodeBlocks } from '../../src/quant/grouped/codec.ts';
import { unpackQuads } from '../../src/quant/grouped/quads.ts';
import { analyzeLayerTool } from '../../src/tools/analyze-layer.ts';
import { callTool } from '../../src/tools/call-tool.ts';
import type { Services } from '../../src/tools/services.ts';
import { tritWindowText } from '../../src/tools/trit-window.ts';

const services: Services = { generate: () => Promise.reject(new Error('not called')) };
const golden = (name: string) => join(import.meta.dirname, '../golden/hybrid', name, 'model.gguf');

type Result = {
  layers: { name: string; shape: number[]; counts: { minus: number; ergodic: number; plus: number } }[];
  warnings?: string[];
};
const analyze = async (args: Record<string, unknown>) =>
  (await callTool(analyzeLayerTool, args, { services })).structured as unknown as Result;

describe('experts', () => {
  const model = golden('maple_tq2_a_s2621');

  test('all of them are counted, as one matrix', async () => {
    const name = 'blk.1.ffn_down_exps.weight';
    const { layers, warnings } = await analyze({ model, layer: name });
    expect(warnings).toBeUndefined();
    using file = await GgufFile.open(model);
    const [experts, rows, columns] = file.info(name).shape as [number, number, number];
    const { quads } = decodeBlocks('TQ2_0', await file.readBytes(name), experts * rows, columns);
    const counts = [0, 0, 0, 0];
    for (const code of unpackQuads(quads, experts * rows, columns)) counts[code]! += 1;
    expect(layers).toHaveLength(1);
    expect(layers[0]).toMatchObject({
      shape: [experts * rows, columns],
      counts: { minus: counts[0], ergodic: counts[1], plus: counts[2] },
    });
  });

  test('a window of the last expert', async () => {
    const text = await tritWindowText(
      { model, layer: 'blk.0.ffn_up_exps.weight', row: 2040, column: 250 },
      { services },
    );
    const lines = text.split('\n').filter((line) => /^[-o+2]+$/.test(line));
    expect(lines.map(({ length }) => length)).toEqual(new Array(8).fill(6));
  });

  test('router, embedding and norms are no ternary layers', async () => {
    const { layers } = await analyze({ model });
    expect(layers).toHaveLength(4 * 7);
    expect(layers.some(({ name }) => /ffn_gate_inp|norm|token_embd/.test(name))).toBe(false);
  });
});

test.each([
  ['hadamard_pq2_explicit_a_s2611', true],
  ['hadamard_ptq1_identity_b_s2612', true],
  ['hadamard_q2_tied_v2_c_s2613', true],
  ['qwen35_q2_a_s2601', false],
])('%s: stored in a rotated basis or not', async (name, isRotated) => {
  expect(existsSync(golden(name))).toBe(true);
  const { layers, warnings = [] } = await analyze({ model: golden(name), layer: 'blk.0.*' });
  expect(layers.length).toBeGreaterThan(5);
  expect(warnings.some((warning) => /stored in a rotated basis \(Hadamard; prism\.hadamard/.test(warning))).toBe(
    isRotated,
  );
});
