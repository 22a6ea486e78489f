// Maple (deepgrove, 20B-A1B): a mixture of ternary experts behind Qwen3's attention, most of whose layers see a window and
// have rotary positions on half of a head, while every fourth sees everything and has no positions at all.
// Source: llama.cpp's maple.
//
//   layer: h = norm(x); q, k, v = W h; q, k to headNorm (and rope in window layers); x += W_o attention
//          h = norm(x); the experts with the largest of router h; each W_down (silu(min(W_gate h, c)) * clamp(W_up h, c))
//          x += their sum, weighted by their softmax among all, over the sum of theirs

import type { ConfigKeys } from '../config-keys.ts';
import { type Graph, matrix, TENSORS, vector } from '../graph.ts';
import type { ExpertsConfig, ModelConfig } from '../model-config.ts';

const { inputNorm, q, k, v, o, postAttentionNorm } = TENSORS;

const KEYS = {
  experts: { gguf: 'expert_count', hf: 'num_experts' },
  used: { gguf: 'expert_used_count', hf: 'num_experts_per_tok' },
  expertSize: { gguf: 'expert_feed_forward_length', hf: 'moe_intermediate_size' },
  shared: { gguf: 'expert_shared_count', hf: 'num_shared_experts' },
  clamps: { gguf: 'swiglu_clamp_exp', hf: 'swiglu_limit' },
  window: { gguf: 'attention.sliding_window', hf: 'sliding_window' },
  pattern: { gguf: 'attention.sliding_window_pattern', hf: 'layer_types' },
  windowTheta: { gguf: 'rope.freq_base_swa' },
  gating: { gguf: 'expert_gating_func' },
  sharesOfChosen: { gguf: 'expert_weights_norm', hf: 'norm_topk_prob' },
} as const;

/** The smallest normal f16, which the sum of the chosen shares is at least taken for. */
const LEAST_SHARE = 6.103515625e-5;

/** Where Maple's own code cuts gates off. */
const PUBLISHED_CLAMP = 7;

/** Of a mixture: each expert is a gated FFN of this size. */
const experts = (config: ModelConfig): ExpertsConfig => config.experts!;
const count = (config: ModelConfig) => experts(config).count;

export const maple: Graph = {
  family: 'maple',
  title: 'Maple',
  hf: {
    architectures: ['MapleForCausalLM'],
    modelTypes: ['maple'],
    prefixes: [['model.word_embeddings.', 'model.embed_tokens.']],
  },
  gguf: { architectures: ['maple'], interleavedHeads: false },
  defaults: { ropeTheta: 10_000, rmsNormEps: 1e-6, tieWordEmbeddings: false, hiddenAct: 'silu' },
  oneScale: 'int16',
  ropeScaling: [],
  refusedFlags: [],
  config: readConfig,
  rotaryShare: 0.5,
  hasWindows: true,
  layer: [
    inputNorm,
    q,
    k,
    v,
    vector('qNorm', 'self_attn.q_norm', 'attn_q_norm', (c) => c.headDim),
    vector('kNorm', 'self_attn.k_norm', 'attn_k_norm', (c) => c.headDim),
    o,
    postAttentionNorm,
    { ...matrix('router', 'mlp.gate', 'ffn_gate_inp', (c) => [count(c), c.hiddenSize]), floats: true },
    {
      ...matrix('expertGate', 'mlp.experts.*.gate_proj', 'ffn_gate_exps', (c) => [
        experts(c).intermediateSize,
        c.hiddenSize,
      ]),
      experts: count,
    },
    {
      ...matrix('expertUp', 'mlp.experts.*.up_proj', 'ffn_up_exps', (c) => [experts(c).intermediateSize, c.hiddenSize]),
      experts: count,
    },
    {
      ...matrix('expertDown', 'mlp.experts.*.down_proj', 'ffn_down_exps', (c) => [
        c.hiddenSize,
        experts(c).intermediateSize,
      ]),
      experts: count,
    },
  ],
  recordLayer: (recorder, layer, index) => {
    const window = recorder.config.windows![index]!;
    const headNorms = { q: layer.qNorm!, k: layer.kNorm! };
    recorder.attention(layer, index, { headNorms, window, noPositions: window === 0 });
    recorder.mixtureOfExperts(layer, index, { leastShare: LEAST_SHARE });
  },
  trainable: false,
};

function readConfig(keys: ConfigKeys, common: ModelConfig): Partial<ModelConfig> {
  const layers = common.numHiddenLayers;
  if (common.linearStorage === 'mlx') {
    keys.fail(
      'this is an MLX pack of Maple, whose embedding and head are rounded to 4 bits',
      'take a GGUF of the model',
    );
  }
  const expertCount = keys.size(KEYS.experts);
  const used = keys.size(KEYS.used);
  if (used > expertCount) {
    keys.fail(`${keys.nameOf(KEYS.used)} is ${used} of ${expertCount} experts`, 'expected no more than there are');
  }
  if ((keys.value(KEYS.shared) ?? 0) !== 0) {
    keys.fail(`${keys.nameOf(KEYS.shared)} is not 0`, 'shared experts are not supported in this graph');
  }
  // 1 is the softmax in llama.cpp's list of gates.
  if ((keys.value(KEYS.gating) ?? 1) !== 1) {
    keys.fail(
      `${keys.nameOf(KEYS.gating)} is ${keys.value(KEYS.gating)}`,
      'only the softmax (1) is known in this graph',
    );
  }
  if ((keys.value(KEYS.sharesOfChosen) ?? true) !== true) {
    keys.fail(
      `${keys.nameOf(KEYS.sharesOfChosen)} is not true`,
      'shares of the chosen experts always add up to 1 in this graph',
    );
  }
  const windowTheta = keys.value(KEYS.windowTheta);
  return {
    experts: {
      count: expertCount,
      used,
      intermediateSize: keys.size(KEYS.expertSize),
      clamps: readClamps(keys, layers),
    },
    windows: readWindows(keys, layers),
    // Only layers with a window have positions.
    ...(windowTheta !== undefined && { ropeTheta: keys.positive(KEYS.windowTheta) }),
  };
}

function readClamps(keys: ConfigKeys, layers: number): number[] {
  // No config.json names it: the model's code has it.
  const value = keys.value(KEYS.clamps) ?? (keys.spelling === 'hf' ? PUBLISHED_CLAMP : undefined);
  const clamps = Array.isArray(value) ? value : new Array<unknown>(layers).fill(value);
  const isLimit = (clamp: unknown) => typeof clamp === 'number' && clamp > 0 && Number.isFinite(clamp);
  if (clamps.length === layers && clamps.every(isLimit)) return clamps as number[];
  return keys.fail(
    `${keys.nameOf(KEYS.clamps)} is missing, or not a positive number for each of ${layers} layers`,
    'the file is incomplete: convert the model again',
  );
}

function readWindows(keys: ConfigKeys, layers: number): number[] {
  const size = keys.size(KEYS.window);
  const value = keys.value(KEYS.pattern);
  const words = new Map<unknown, number>([
    [true, size],
    [false, 0],
    ['sliding_attention', size],
    ['full_attention', 0],
  ]);
  const windows = Array.isArray(value) ? value.map((word) => words.get(word)) : [];
  if (windows.length === layers && !windows.includes(undefined)) return windows as number[];
  return keys.fail(
    `${keys.nameOf(KEYS.pattern)} is no list that says of each of ${layers} layers whether it has a window`,
    'the file is incomplete: convert the model again',
  );
}
