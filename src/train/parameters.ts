// The trainable parameters of a model as one flat float32 vector: which tensor lies where. Gradients and optimizer
// moments share the plan, so a whole state is hashed, stored and compared as a few vectors.

import type { ModelConfig } from '../model/config.ts';

/** What is done with a tensor: ternary layers are quantized when used, the rest is used as it is. */
export type ParameterKind = 'ternary' | 'norm' | 'embedding' | 'head';

export type Parameter = {
  /** As Hugging Face spells it. */
  readonly name: string;
  readonly kind: ParameterKind;
  readonly shape: readonly number[];
  /** First element in the flat vector, and how many. */
  readonly offset: number;
  readonly length: number;
};

export type LayerParameters = {
  readonly inputNorm: Parameter;
  readonly q: Parameter;
  readonly k: Parameter;
  readonly v: Parameter;
  readonly attnSubNorm: Parameter | undefined;
  readonly o: Parameter;
  readonly postAttentionNorm: Parameter;
  readonly gate: Parameter;
  readonly up: Parameter;
  readonly ffnSubNorm: Parameter | undefined;
  readonly down: Parameter;
};

export type ParameterPlan = {
  /** In order of offset. */
  readonly all: readonly Parameter[];
  readonly embedding: Parameter;
  readonly layers: readonly LayerParameters[];
  readonly finalNorm: Parameter;
  /** Undefined when the head is the embedding. */
  readonly head: Parameter | undefined;
  /** Elements of the flat vector. */
  readonly length: number;
};

const SUB_NORMS = {
  bitnet: { attention: 'self_attn.attn_sub_norm', ffn: 'mlp.ffn_sub_norm' },
  onebitllm: { attention: 'self_attn.inner_attn_ln', ffn: 'mlp.ffn_layernorm' },
  llama: undefined,
} as const;

/** Tensors begin at multiples of 16 floats, a cache line. */
const ALIGNMENT = 16;

export function planParameters(config: ModelConfig): ParameterPlan {
  const all: Parameter[] = [];
  let offset = 0;
  const add = (kind: ParameterKind, name: string, ...shape: number[]): Parameter => {
    const length = shape.reduce((product, size) => product * size, 1);
    const parameter = { name, kind, shape, offset, length };
    all.push(parameter);
    offset += Math.ceil(length / ALIGNMENT) * ALIGNMENT;
    return parameter;
  };
  const { hiddenSize, intermediateSize, vocabSize } = config;
  const attentionWidth = config.numAttentionHeads * config.headDim;
  const kvWidth = config.numKeyValueHeads * config.headDim;
  const subNorms = SUB_NORMS[config.family];

  const embedding = add('embedding', 'model.embed_tokens.weight', vocabSize, hiddenSize);
  const layers = Array.from({ length: config.numHiddenLayers }, (_, index): LayerParameters => {
    const at = `model.layers.${index}`;
    return {
      inputNorm: add('norm', `${at}.input_layernorm.weight`, hiddenSize),
      q: add('ternary', `${at}.self_attn.q_proj.weight`, attentionWidth, hiddenSize),
      k: add('ternary', `${at}.self_attn.k_proj.weight`, kvWidth, hiddenSize),
      v: add('ternary', `${at}.self_attn.v_proj.weight`, kvWidth, hiddenSize),
      attnSubNorm: subNorms && add('norm', `${at}.${subNorms.attention}.weight`, attentionWidth),
      o: add('ternary', `${at}.self_attn.o_proj.weight`, hiddenSize, attentionWidth),
      postAttentionNorm: add('norm', `${at}.post_attention_layernorm.weight`, hiddenSize),
      gate: add('ternary', `${at}.mlp.gate_proj.weight`, intermediateSize, hiddenSize),
      up: add('ternary', `${at}.mlp.up_proj.weight`, intermediateSize, hiddenSize),
      ffnSubNorm: subNorms && add('norm', `${at}.${subNorms.ffn}.weight`, intermediateSize),
      down: add('ternary', `${at}.mlp.down_proj.weight`, hiddenSize, intermediateSize),
    };
  });
  const finalNorm = add('norm', 'model.norm.weight', hiddenSize);
  const head = config.tieWordEmbeddings ? undefined : add('head', 'lm_head.weight', vocabSize, hiddenSize);
  return { all, embedding, layers, finalNorm, head, length: offset };
}

/** The part of a flat vector that a tensor is; shares memory. */
export function view(flat: Float32Array, { offset, length }: Parameter): Float32Array {
  return flat.subarray(offset, offset + length);
}
