// A whole forward pass without files: weights from an integer generator, logits computed independently in float64. Each
// graph family must give its own numbers; a wrong RoPE pairing or a skipped sub-norm gives others.

import { describe, expect, test } from 'vitest';
import { jsBackend } from '../../src/engine/js/backend.ts';
import type { TernaryWeight, VectorWeight } from '../../src/engine/program.ts';
import type { ModelConfig } from '../../src/model/model-config.ts';
import type { ModelWeights } from '../../src/model/model-weights.ts';
import { recordProgram } from '../../src/model/record.ts';
import { packRowquad } from '../../src/quant/rowquad.ts';
import { TINY } from '../generate/helpers.ts';

/** FNV-1a of the tensor's name seeds a linear congruential generator; its upper 16 bits are the draws. */
function draws(name: string): () => number {
  let state = 0x811c9dc5;
  for (const byte of new TextEncoder().encode(name)) state = Math.imul(state ^ byte, 0x01000193) >>> 0;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state >>> 16;
  };
}

function vector(name: string, length: number): VectorWeight {
  const draw = draws(name);
  return { kind: 'vector', name, values: Float32Array.from({ length }, () => 0.5 + draw() / 65536) };
}

function ternary(name: string, rows: number, columns: number): TernaryWeight {
  const draw = draws(name);
  const trits = Int8Array.from({ length: rows * columns }, () => (draw() % 3) - 1);
  const bytes = packRowquad(trits, rows, columns);
  return { kind: 'ternary', name, rows, columns, layout: 'rowquad', bytes, scale: 0.0625 };
}

function weights(withSubNorms: boolean): ModelWeights {
  const draw = draws('model.embed_tokens.weight');
  const table = Float32Array.from({ length: 64 * 128 }, () => draw() / 65536 - 0.5);
  const embedding = {
    kind: 'dense',
    name: 'model.embed_tokens.weight',
    rows: 64,
    columns: 128,
    dtype: 'f32',
    bytes: new Uint8Array(table.buffer),
  } as const;
  const layers = [0, 1].map((index) => {
    const at = `model.layers.${index}`;
    return {
      inputNorm: vector(`${at}.input_layernorm.weight`, 128),
      q: ternary(`${at}.self_attn.q_proj.weight`, 128, 128),
      k: ternary(`${at}.self_attn.k_proj.weight`, 64, 128),
      v: ternary(`${at}.self_attn.v_proj.weight`, 64, 128),
      o: ternary(`${at}.self_attn.o_proj.weight`, 128, 128),
      postAttentionNorm: vector(`${at}.post_attention_layernorm.weight`, 128),
      gate: ternary(`${at}.mlp.gate_proj.weight`, 256, 128),
      up: ternary(`${at}.mlp.up_proj.weight`, 256, 128),
      down: ternary(`${at}.mlp.down_proj.weight`, 128, 256),
      ...(withSubNorms && {
        attnSubNorm: vector(`${at}.self_attn.attn_sub_norm.weight`, 128),
        ffnSubNorm: vector(`${at}.mlp.ffn_sub_norm.weight`, 256),
      }),
    };
  });
  return { embedding, layers, finalNorm: vector('model.norm.weight', 128), head: embedding };
}

const shape: ModelConfig = {
  ...TINY,
  hiddenSize: 128,
  intermediateSize: 256,
  numAttentionHeads: 4,
  numKeyValueHeads: 2,
  headDim: 32,
  vocabSize: 64,
  maxPositionEmbeddings: 16,
};

async function logits(hiddenAct: 'relu2' | 'silu', withSubNorms: boolean): Promise<Float32Array[]> {
  const program = recordProgram({ ...shape, hiddenAct }, weights(withSubNorms), { name: 'tiny', contextLength: 16 });
  using executable = await jsBackend.load(program, {});
  const ids = [1, 5, 9, 33, 2, 63];
  const all = await executable.step({
    tokens: Int32Array.from(ids),
    sequences: new Int32Array(6).fill(executable.createSequence()),
    positions: Int32Array.from(ids, (_, i) => i),
    outputRows: Int32Array.from(ids, (_, i) => i),
  });
  return ids.map((_, i) => all.logits.subarray(i * 64, (i + 1) * 64));
}

test('the generator', () => {
  const draw = draws('model.embed_tokens.weight');
  for (let i = 0; i < 128; i += 1) draw();
  expect(draw() / 65536 - 0.5).toBeCloseTo(-0.1706390381, 9);
});

describe('logits', () => {
  test.each([
    [
      'BitNet',
      'relu2',
      true,
      [62, 25, 36, 12, 2, 52],
      [-5.82015, -1.66744, 0.78867, -5.36665, -1.97024, -3.40216, 3.94461, -2.70905],
      [0.00743, -0.42694, -0.17234, -0.15811, 0.35148, -0.45712],
    ],
    [
      '1bitLLM',
      'silu',
      true,
      [62, 27, 36, 25, 15, 52],
      [-0.83862, -2.42114, 2.76628, -6.52019, 0.04669, -4.48407, 5.04426, -1.9847],
      [0.19273, -0.30649, -0.03853, -0.0848, 0.58491, -0.27368],
    ],
    [
      'Llama with BitLinear',
      'silu',
      false,
      [1, 5, 9, 33, 2, 63],
      [-5.86516, -4.7761, -0.4412, -5.26083, -0.37691, -2.243, 3.11209, -2.64471],
      [0.63554, 0.19274, 0.17889, 0.3624, 0.95735, -0.26784],
    ],
  ] as const)('%s', async (_, act, withSubNorms, argmax, last, means) => {
    const rows = await logits(act, withSubNorms);
    expect(rows.map((row) => row.indexOf(Math.max(...row)))).toEqual(argmax);
    last.forEach((value, id) => {
      expect(Math.abs(rows[5]![id]! - value)).toBeLessThan(2e-5);
    });
    means.forEach((value, t) => {
      expect(Math.abs(rows[t]!.reduce((sum, logit) => sum + logit, 0) / 64 - value)).toBeLessThan(2e-5);
    });
  });
});
