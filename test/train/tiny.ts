// Small models and numbers for the training tests; all from a fixed generator.

import { parseConfig } from '../../src/model/config.ts';
import type { ModelConfig, ModelFamily } from '../../src/model/model-config.ts';
import { type ParameterPlan, view } from '../../src/train/parameters.ts';

/** Numerical Recipes' linear congruential generator: test data only. */
export class Numbers {
  #state: number;

  constructor(seed: number) {
    this.#state = seed >>> 0;
  }

  /** Uniform in [0, 1). */
  next(): number {
    this.#state = (Math.imul(this.#state, 1664525) + 1013904223) >>> 0;
    return this.#state / 2 ** 32;
  }

  /** Roughly normal, times `size`. */
  floats(length: number, size = 1): Float32Array {
    return Float32Array.from(
      { length },
      () => (this.next() + this.next() + this.next() + this.next() - 2) * Math.sqrt(3) * size,
    );
  }

  integers(length: number, min: number, max: number): Int8Array {
    return Int8Array.from({ length }, () => min + Math.floor(this.next() * (max - min + 1)));
  }
}

const ARCHITECTURES: Record<ModelFamily, string> = {
  bitnet: 'BitNetForCausalLM',
  onebitllm: 'BitnetForCausalLM',
  llama: 'LlamaForCausalLM',
};

export function tinyConfigJson(family: ModelFamily, changes: Record<string, unknown> = {}): Record<string, unknown> {
  return {
    architectures: [ARCHITECTURES[family]],
    model_type: family === 'bitnet' ? 'bitnet' : 'llama',
    hidden_size: 32,
    intermediate_size: 88,
    num_hidden_layers: 2,
    num_attention_heads: 4,
    num_key_value_heads: 2,
    vocab_size: 50,
    max_position_embeddings: 128,
    rms_norm_eps: 1e-5,
    rope_theta: 10000,
    hidden_act: family === 'bitnet' ? 'relu2' : 'silu',
    tie_word_embeddings: family !== 'llama',
    ...(family === 'onebitllm'
      ? {}
      : {
          quantization_config: {
            quant_method: 'bitnet',
            linear_class: 'autobitlinear',
            quantization_mode: 'online',
          },
        }),
    ...changes,
  };
}

export function tinyConfig(family: ModelFamily, changes: Record<string, unknown> = {}): ModelConfig {
  return parseConfig(JSON.stringify(tinyConfigJson(family, changes)), 'tiny config');
}

export function randomLatents(plan: ParameterPlan, seed: number): Float32Array<ArrayBuffer> {
  const n = new Numbers(seed);
  const latents = new Float32Array(plan.length);
  for (const parameter of plan.all) {
    const values = n.floats(parameter.length, parameter.kind === 'norm' ? 0.1 : 0.3);
    view(latents, parameter).set(parameter.kind === 'norm' ? values.map((x) => 1 + x) : values);
  }
  return latents;
}
