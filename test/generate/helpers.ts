// Small random models for tests of the engine and the generation loop, without files.

import type { TernaryWeight, VectorWeight } from '../../src/engine/program.ts';
import { topLogits } from '../../src/engine/top-logits.ts';
import type { LogitRow } from '../../src/generate/sampler.ts';
import type { ModelConfig } from '../../src/model/model-config.ts';
import type { LayerWeights, ModelWeights } from '../../src/model/model-weights.ts';
import { recordProgram } from '../../src/model/record.ts';
import { packRowquad } from '../../src/quant/rowquad.ts';
import { SplitMix64 } from '../../src/random/splitmix64.ts';

export const TINY: ModelConfig = {
  family: 'bitnet',
  hiddenSize: 40,
  intermediateSize: 52,
  numHiddenLayers: 2,
  numAttentionHeads: 5,
  numKeyValueHeads: 1,
  headDim: 8,
  vocabSize: 61,
  maxPositionEmbeddings: 128,
  ropeTheta: 10000,
  rmsNormEps: 1e-5,
  hiddenAct: 'relu2',
  tieWordEmbeddings: true,
  linearStorage: 'packed-multiply',
  bosTokenId: 0,
  eosTokenIds: [1],
  unknownKeys: [],
};

/** A program with seeded random weights of the config's shape. */
export function randomProgram(config: ModelConfig = TINY, seed = 7n) {
  const random = new SplitMix64(seed);
  const ternary = (name: string, rows: number, columns: number): TernaryWeight => {
    const trits = Int8Array.from({ length: rows * columns }, () => Math.floor(random.nextFloat() * 3) - 1);
    return {
      kind: 'ternary',
      name,
      rows,
      columns,
      layout: 'rowquad',
      bytes: packRowquad(trits, rows, columns),
      scale: 0.0625,
    };
  };
  const vector = (name: string, length: number): VectorWeight => ({
    kind: 'vector',
    name,
    values: Float32Array.from({ length }, () => 0.5 + random.nextFloat()),
  });
  const { hiddenSize, intermediateSize } = config;
  const attention = config.numAttentionHeads * config.headDim;
  const kv = config.numKeyValueHeads * config.headDim;
  const layers = Array.from(
    { length: config.numHiddenLayers },
    (): LayerWeights => ({
      inputNorm: vector('input_layernorm', hiddenSize),
      q: ternary('q_proj', attention, hiddenSize),
      k: ternary('k_proj', kv, hiddenSize),
      v: ternary('v_proj', kv, hiddenSize),
      attnSubNorm: vector('attn_sub_norm', attention),
      o: ternary('o_proj', hiddenSize, attention),
      postAttentionNorm: vector('post_attention_layernorm', hiddenSize),
      gate: ternary('gate_proj', intermediateSize, hiddenSize),
      up: ternary('up_proj', intermediateSize, hiddenSize),
      ffnSubNorm: vector('ffn_sub_norm', intermediateSize),
      down: ternary('down_proj', hiddenSize, intermediateSize),
    }),
  );
  const table = Float32Array.from({ length: config.vocabSize * hiddenSize }, () => random.nextFloat() - 0.5);
  const embedding = {
    kind: 'dense',
    name: 'embed_tokens',
    rows: config.vocabSize,
    columns: hiddenSize,
    dtype: 'f32',
    bytes: new Uint8Array(table.buffer),
  } as const;
  const weights: ModelWeights = { embedding, layers, finalNorm: vector('norm', hiddenSize), head: embedding };
  return recordProgram(config, weights, { name: 'tiny', contextLength: config.maxPositionEmbeddings });
}

/** Of a job that looks at all logits. */
export const whole = { top: 1, withoutLogits: false };

/** A row of logits as a step gives it, with so many of the largest. */
export function logitRow(logits: Float32Array, count = 1): LogitRow {
  const { mass, ...top } = topLogits(logits, 1, count);
  return { logits, top: { ...top, mass: mass[0]! } };
}
