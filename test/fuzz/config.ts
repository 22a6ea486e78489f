// config.json as a model's folder may bring it, with what is computed from it before any weight is read.

import { readFileSync } from 'node:fs';
import { BitnetError } from '../../src/errors.ts';
import { parseConfig } from '../../src/model/config.ts';
import { graphOf } from '../../src/model/graphs/all.ts';
import type { ModelConfig } from '../../src/model/model-config.ts';
import { ropeTables } from '../../src/model/rope.ts';

const MAX_MESSAGE = 10_000;

/** Throws for what is no refusal of ours, and for a config that was taken with numbers no model can have. */
export function fuzz(bytes: Uint8Array): void {
  try {
    check(parseConfig(Buffer.from(bytes).toString('utf8'), 'fuzz/config.json'));
  } catch (error) {
    if (!(error instanceof BitnetError)) throw error;
    if (error.message.length > MAX_MESSAGE) throw new Error('a message without end', { cause: error });
  }
}

/** Throws when a config that was taken is none that a model can have. */
export function check(config: ModelConfig): void {
  graphOf(config.family);
  const { headDim, ropeTheta, ropeScaling, floatModules, rmsNormEps } = config;
  for (const name of ['model.layers.0.mlp.down_proj', 'lm_head', 'a'.repeat(60)]) floatModules?.matches(name);
  const { cos, sin } = ropeTables(ropeTheta, Math.min(headDim, 256), 4, ropeScaling);
  if (![...cos, ...sin].every(Number.isFinite)) throw new Error('an angle that is no number');
  if (!(rmsNormEps > 0 && Number.isFinite(rmsNormEps))) throw new Error(`rmsNormEps is ${rmsNormEps}`);
  const sizes = [config.hiddenSize, config.intermediateSize, config.numHiddenLayers, config.vocabSize, headDim];
  if (!sizes.every((size) => Number.isSafeInteger(size) && size > 0)) throw new Error('a size that is none');
  for (const id of [config.bosTokenId ?? 0, ...config.eosTokenIds]) {
    if (!Number.isSafeInteger(id) || id < 0) throw new Error(`${id} is no token id`);
  }
}

const MODELS = ['bitnet_packed_a_s111', 'bitnet_packed_div_b_s322', 'llama_bitlinear_a_s411', 'onebitllm_a_s511'];

const QWEN3 = {
  architectures: ['Qwen3ForCausalLM'],
  ...{ hidden_size: 128, intermediate_size: 256, num_hidden_layers: 2, num_attention_heads: 4, num_key_value_heads: 2 },
  ...{ head_dim: 64, vocab_size: 300, max_position_embeddings: 512, hidden_act: 'silu', rms_norm_eps: 1e-6 },
  ...{ eos_token_id: [1, 2], sliding_window: null, use_sliding_window: false, rope_theta: 5_000_000 },
  rope_scaling: { rope_type: 'yarn', factor: 4, original_max_position_embeddings: 128, beta_fast: 16, beta_slow: 2 },
  quantization: { group_size: 128, bits: 2 },
};

const QWEN35_TEXT = {
  ...{
    model_type: 'qwen3_5_text',
    hidden_size: 64,
    intermediate_size: 96,
    num_hidden_layers: 4,
    num_attention_heads: 4,
  },
  ...{ num_key_value_heads: 2, head_dim: 32, vocab_size: 300, max_position_embeddings: 512, attn_output_gate: true },
  layer_types: ['linear_attention', 'linear_attention', 'linear_attention', 'full_attention'],
  ...{ linear_num_key_heads: 2, linear_num_value_heads: 4, linear_key_head_dim: 16, linear_value_head_dim: 16 },
  ...{ linear_conv_kernel_dim: 4, rope_parameters: { rope_theta: 1e7, partial_rotary_factor: 0.25 } },
};
const MAPLE = {
  ...{
    architectures: ['MapleForCausalLM'],
    hidden_size: 64,
    num_hidden_layers: 2,
    num_attention_heads: 4,
    head_dim: 32,
  },
  ...{ num_key_value_heads: 2, vocab_size: 300, num_experts: 8, num_experts_per_tok: 2, moe_intermediate_size: 32 },
  ...{ sliding_window: 8, layer_types: ['sliding_attention', 'full_attention'], partial_rotary_factor: 0.5 },
};
const ROTATED_PACK = {
  ...{ model_type: 'prism_hadamard_qwen35', schema_version: 2, base_model_type: 'qwen3_5' },
  quantization: { bits: 2, group_size: 128, mode: 'affine' },
  modules: [{ path: 'lm_head', block: 1024, embedding: false, dtype: 'float16' }],
  text_config: QWEN35_TEXT,
};

/** Configs of all graphs, for a fuzzer to begin from. */
export const SEEDS: readonly Uint8Array[] = [
  ...MODELS.map((name) => readFileSync(new URL(`../golden/model/${name}/config.json`, import.meta.url))),
  ...[
    QWEN3,
    { architectures: ['Qwen3_5ForConditionalGeneration'], text_config: QWEN35_TEXT },
    MAPLE,
    ROTATED_PACK,
    {
      ...{ ...QWEN3, architectures: ['LlamaForCausalLM'], rope_scaling: { type: 'linear', factor: 2 } },
      quantization: null,
      quantization_config: {
        ...{ quant_method: 'bitnet', linear_class: 'autobitlinear', quantization_mode: 'online' },
        modules_to_not_convert: ['lm_head', 'model\\.layers\\.[01]\\..*_proj', 'o_proj'],
      },
      rope_parameters: { rope_theta: 10000, rope_type: 'default' },
    },
  ].map((config) => Buffer.from(JSON.stringify(config))),
];
