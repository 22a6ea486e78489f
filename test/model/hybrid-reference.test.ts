// Random hybrid, rotated and mixture models of shapes that no golden file has, against float64 (hybrid-reference.ts).

import { describe, expect, test } from 'vitest';
import { jsBackend } from '../../src/engine/js/backend.ts';
import { MODEL_TENSORS, tensorsOf } from '../../src/model/graph.ts';
import { graphOf } from '../../src/model/graphs/all.ts';
import type { ModelConfig } from '../../src/model/model-config.ts';
import type { LayerWeights } from '../../src/model/model-weights.ts';
import { recordProgram } from '../../src/model/record.ts';
import { foldableInGguf } from '../../src/model/rotation.ts';
import { type RandomModel, referenceLogits, WeightMaker } from './hybrid-reference.ts';

const base: ModelConfig = {
  family: 'qwen35',
  hiddenSize: 64,
  intermediateSize: 96,
  numHiddenLayers: 3,
  numAttentionHeads: 4,
  numKeyValueHeads: 2,
  headDim: 32,
  rotaryDim: 8,
  vocabSize: 48,
  maxPositionEmbeddings: 128,
  ropeTheta: 10_000,
  rmsNormEps: 1e-6,
  hiddenAct: 'silu',
  tieWordEmbeddings: false,
  linearStorage: 'gguf',
  layerKinds: ['recurrent', 'attention', 'recurrent'],
  deltaNet: { keyHeads: 2, valueHeads: 4, headDim: 16, convTaps: 4, order: 'tiled' },
  bosTokenId: undefined,
  eosTokenIds: [],
  unknownKeys: [],
};

const mixture: ModelConfig = {
  ...base,
  family: 'maple',
  layerKinds: undefined,
  deltaNet: undefined,
  numHiddenLayers: 3,
  windows: [5, 0, 5],
  experts: { count: 6, used: 3, intermediateSize: 32, clamps: [0.5, 1, 2] },
};

/** Every matrix that may be rotated, but for `skip`; signs drawn anew for each width. */
function rotation(
  config: ModelConfig,
  block: number,
  options: { skip?: RegExp; tied?: boolean; grouped?: boolean } = {},
) {
  const graph = graphOf(config.family);
  const names = Array.from({ length: config.numHiddenLayers }, (_, i) => tensorsOf(graph, config, i, 'gguf'))
    .flat()
    .map(({ name }) => name)
    .filter((name) => foldableInGguf(name) !== undefined && options.skip?.test(name) !== true);
  const table = options.tied === true ? MODEL_TENSORS.embedding.gguf : MODEL_TENSORS.head.gguf;
  const signs = (width: number) => Float32Array.from({ length: width }, (_, i) => ((i * 31 + width) % 7 < 3 ? -1 : 1));
  const matrices = new Set([...names, table]);
  return { block, signs, matrices, embedding: true, groupedColumns: options.grouped ?? true };
}

async function randomModel(config: ModelConfig, seed: number, group: number): Promise<RandomModel> {
  const graph = graphOf(config.family);
  const maker = new WeightMaker(config, seed);
  const layers: LayerWeights[] = [];
  for (let index = 0; index < config.numHiddenLayers; index += 1) {
    const entries: [string, unknown][] = [];
    for (const { tensor, name } of tensorsOf(graph, config, index, 'gguf')) {
      if (tensor.kind === 'vector') {
        const [from, to] = { decay: [-2, -0.05], decayBias: [-1, 1], conv: [-0.6, 0.6] }[tensor.role as string] ?? [
          0.5, 1.5,
        ];
        entries.push([tensor.role, maker.vector(name, tensor.length(config), from!, to!)]);
        continue;
      }
      const [rows, columns] = tensor.shape(config);
      const count = tensor.experts?.(config);
      const isFloat = tensor.floats === true || tensor.role === 'alpha' || tensor.role === 'beta';
      if (isFloat) entries.push([tensor.role, maker.dense(name, rows, columns)]);
      else if (count !== undefined) entries.push([tensor.role, await maker.experts(name, count, rows, columns, group)]);
      else entries.push([tensor.role, await maker.grouped(name, rows, columns, group)]);
    }
    layers.push(Object.fromEntries(entries) as LayerWeights);
  }
  const { vocabSize, hiddenSize } = config;
  const embedding = await maker.grouped(MODEL_TENSORS.embedding.gguf, vocabSize, hiddenSize, group);
  const head = config.tieWordEmbeddings
    ? embedding
    : await maker.grouped(MODEL_TENSORS.head.gguf, vocabSize, hiddenSize, group);
  const finalNorm = maker.vector(MODEL_TENSORS.finalNorm.gguf, hiddenSize, 0.5, 1.5);
  return { config, weights: { embedding, layers, finalNorm, head }, matrices: maker.matrices, vectors: maker.vectors };
}

const heads = (
  keyHeads: number,
  valueHeads: number,
  headDim: number,
  convTaps: number,
  order: 'tiled' | 'grouped',
) => ({
  deltaNet: { keyHeads, valueHeads, headDim, convTaps, order },
});

describe.each<[string, ModelConfig, number]>([
  ['tiled heads', base, 32],
  ['grouped heads, other taps', { ...base, ...heads(3, 6, 16, 2, 'grouped') }, 32],
  ['as many keys as values, large eps', { ...base, ...heads(4, 4, 16, 7, 'tiled'), rmsNormEps: 1e-3 }, 32],
  ['one key head, all of a head turned', { ...base, ...heads(1, 2, 32, 3, 'tiled'), rotaryDim: 32 }, 32],
  ['attention alone', { ...base, layerKinds: ['attention', 'attention', 'attention'] }, 32],
  ['rotated, all', { ...base, rotation: rotation(base, 32) }, 32],
  [
    'rotated, without some',
    { ...base, rotation: rotation(base, 16, { skip: /blk\.0\.(ffn_up|attn_qkv)|blk\.2\.ssm_out|attn_v/ }) },
    32,
  ],
  ['rotated, columns of heads in place', { ...base, rotation: rotation(base, 8, { grouped: false }) }, 32],
  [
    'rotated, tied',
    { ...base, intermediateSize: 128, tieWordEmbeddings: true, rotation: rotation(base, 64, { tied: true }) },
    32,
  ],
  ['a mixture', mixture, 32],
  [
    'a mixture with other counts',
    { ...mixture, windows: [1, 3, 0], experts: { ...mixture.experts!, count: 3, used: 1 } },
    32,
  ],
])('%s', (name, config, group) => {
  test('logits', async () => {
    const model = await randomModel(config, name.length * 101 + group, group);
    const program = recordProgram(config, model.weights, { name, contextLength: 64 });
    using executable = await jsBackend.load(program, {});
    const ids = Array.from({ length: 14 }, (_, i) => (i * 29 + 7) % config.vocabSize);
    const rows = Int32Array.from(ids, (_, i) => i);
    const { logits } = await executable.step({
      tokens: Int32Array.from(ids),
      sequences: new Int32Array(ids.length).fill(executable.createSequence()),
      positions: rows,
      outputRows: rows,
    });
    const wanted = referenceLogits(model, ids);
    const largest = wanted.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    const worst = logits.reduce((most, value, i) => Math.max(most, Math.abs(value - wanted[i]!)), 0);
    expect(largest).toBeGreaterThan(0.1);
    // Activations are rounded to a 32,639th of the largest of their row.
    expect(worst / largest).toBeLessThan(2e-3);
  });
});
