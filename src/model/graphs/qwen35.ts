// Qwen3.5's dense hybrid (Ternary Bonsai 27B, and Bonsai 2 27B with rotated weights): most layers keep a recurrent state,
// every few have attention, whose output is gated. Source: transformers' Qwen3.5; llama.cpp's qwen35; arXiv:2412.06464.
//
//   recurrent: h = norm(x); q | k | v = silu(conv(W_qkv h)); q, k to length 1; d = deltaRule(q, k, v, W_beta h, W_alpha h)
//              x += W_out (headNorm(d) * silu(W_z h))
//   attention: h = norm(x); q | gate = W_q h per head; q, k to headNorm, rope on their first elements
//              x += W_o (attention(q, k, v) * sigmoid(gate))
//   both:      h = norm(x); x += W_down (silu(W_gate h) * W_up h)

import type { ConfigKeys } from '../config-keys.ts';
import { type Graph, matrix, only, TENSORS, type VectorSource, type VectorSpec, vector } from '../graph.ts';
import type { DeltaNetConfig, ModelConfig } from '../model-config.ts';

const { inputNorm, k, v, o, postAttentionNorm, gate, up, down } = TENSORS;

const KEYS = {
  draftBlocks: { gguf: 'nextn_predict_layers' },
  interval: { gguf: 'full_attention_interval', hf: 'full_attention_interval' },
  recurrent: { gguf: 'attention.recurrent_layers' },
  layerTypes: { hf: 'layer_types' },
  convTaps: { gguf: 'ssm.conv_kernel', hf: 'linear_conv_kernel_dim' },
  keyHeads: { gguf: 'ssm.group_count', hf: 'linear_num_key_heads' },
  valueHeads: { gguf: 'ssm.time_step_rank', hf: 'linear_num_value_heads' },
  keyDim: { gguf: 'ssm.state_size', hf: 'linear_key_head_dim' },
  valueDim: { hf: 'linear_value_head_dim' },
  innerSize: { gguf: 'ssm.inner_size' },
  outputGate: { hf: 'attn_output_gate' },
  sections: { gguf: 'rope.dimension_sections' },
} as const;

const VISION = 'a vision tower, which is left alone: texts are read and written, pictures are not';
const DRAFTS = 'blocks that only draft tokens (MTP), which are left alone';

/** Published models have 4; more would only cost memory. */
const MAX_TAPS = 64;

/** Of one layer: see the formulas above. */
const delta = (config: ModelConfig): DeltaNetConfig => config.deltaNet!;
const keyWidth = (config: ModelConfig) => delta(config).keyHeads * delta(config).headDim;
const valueWidth = (config: ModelConfig) => delta(config).valueHeads * delta(config).headDim;
const convWidth = (config: ModelConfig) => 2 * keyWidth(config) + valueWidth(config);
const valueHeads = (config: ModelConfig) => delta(config).valueHeads;

const isRecurrent = (config: ModelConfig, index: number) => config.layerKinds![index] === 'recurrent';
const isAttention = (config: ModelConfig, index: number) => !isRecurrent(config, index);

/**
 * Norm weights, which transformers stores as w - 1, GGUF as w. Loaders of MLX packs add nothing; a pack whose weights are
 * near 0 would need it, and is not guessed at.
 */
function normWeights(values: Float32Array, { spelling, config, fail }: VectorSource): Float32Array {
  if (spelling === 'gguf') return values;
  if (config.linearStorage !== 'mlx') return values.map((value) => value + 1);
  const median = values.toSorted()[values.length >> 1]!;
  if (Math.abs(median) > Math.abs(median - 1)) return values;
  return fail(
    `norm weights around ${median.toPrecision(3)}: the pack seems to hold them less 1, as only some loaders read them`,
    'take a pack with plain norm weights (around 1), or the GGUF of the model',
  );
}

const norm = (spec: VectorSpec & { readonly hf: string; readonly gguf: string }) => ({ ...spec, convert: normWeights });

/** [channels, taps] to [taps, channels]. */
function tapMajor(values: Float32Array, { config }: VectorSource): Float32Array {
  const { convTaps } = delta(config);
  const channels = values.length / convTaps;
  return Float32Array.from(values, (_, i) => values[(i % channels) * convTaps + Math.floor(i / channels)]!);
}

const recurrentTensors = only(
  isRecurrent,
  matrix('qkv', 'linear_attn.in_proj_qkv', 'attn_qkv', (c) => [convWidth(c), c.hiddenSize]),
  matrix('z', 'linear_attn.in_proj_z', 'attn_gate', (c) => [valueWidth(c), c.hiddenSize]),
  {
    ...vector('conv', 'linear_attn.conv1d', 'ssm_conv1d', (c) => convWidth(c) * delta(c).convTaps),
    shapes: (c) => {
      const [channels, taps] = [convWidth(c), delta(c).convTaps];
      return [
        [channels, taps],
        [channels, 1, taps],
        [channels, taps, 1],
      ];
    },
    convert: tapMajor,
    inGguf: (values, c) => {
      const [channels, taps] = [convWidth(c), delta(c).convTaps];
      return {
        shape: [channels, taps],
        values: values.map((_, i) => values[(i % taps) * channels + Math.floor(i / taps)]!),
      };
    },
  },
  { ...vector('decayBias', 'linear_attn.dt_bias', 'ssm_dt.bias', valueHeads), bare: true },
  {
    ...vector('decay', 'linear_attn.A_log', 'ssm_a', valueHeads),
    bare: true,
    convert: (values, { spelling }) => (spelling === 'gguf' ? values : values.map((value) => -Math.exp(value))),
  },
  matrix('beta', 'linear_attn.in_proj_b', 'ssm_beta', (c) => [valueHeads(c), c.hiddenSize]),
  matrix('alpha', 'linear_attn.in_proj_a', 'ssm_alpha', (c) => [valueHeads(c), c.hiddenSize]),
  vector('deltaNorm', 'linear_attn.norm', 'ssm_norm', (c) => delta(c).headDim),
  matrix('deltaOut', 'linear_attn.out_proj', 'ssm_out', (c) => [c.hiddenSize, valueWidth(c)]),
);

const attentionTensors = only(
  isAttention,
  matrix('q', 'self_attn.q_proj', 'attn_q', (c) => [2 * c.numAttentionHeads * c.headDim, c.hiddenSize]),
  k,
  v,
  o,
  norm(vector('qNorm', 'self_attn.q_norm', 'attn_q_norm', (c) => c.headDim)),
  norm(vector('kNorm', 'self_attn.k_norm', 'attn_k_norm', (c) => c.headDim)),
);

export const qwen35: Graph = {
  family: 'qwen35',
  title: 'Qwen3.5',
  hf: {
    architectures: ['Qwen3_5ForCausalLM', 'Qwen3_5ForConditionalGeneration'],
    modelTypes: ['qwen3_5_text', 'qwen3_5'],
    rotatedTypes: ['prism_hadamard_qwen35'],
    prefixes: [
      ['model.language_model.', 'model.'],
      ['language_model.', ''],
    ],
    otherParts: [
      { names: /^(?:model\.)?(?:visual|vision_tower|vision_model)\./, word: VISION },
      { names: /^(?:model\.)?mtp\./, word: DRAFTS },
    ],
  },
  gguf: { architectures: ['qwen35'], interleavedHeads: false },
  defaults: { ropeTheta: 10_000_000, rmsNormEps: 1e-6, tieWordEmbeddings: false, hiddenAct: 'silu' },
  oneScale: 'int16',
  ropeScaling: ['linear', 'yarn'],
  refusedFlags: [],
  config: readConfig,
  floats: true,
  rotates: true,
  rotaryShare: 0.25,
  layer: [
    norm(inputNorm),
    ...recurrentTensors,
    ...attentionTensors,
    norm({ ...postAttentionNorm, gguf: 'post_attention_norm' }),
    gate,
    up,
    down,
  ],
  finalNorm: normWeights,
  recordLayer: (recorder, layer, index) => {
    if (isRecurrent(recorder.config, index)) recorder.gatedDeltaNet(layer, index);
    else recorder.attention(layer, index, { headNorms: { q: layer.qNorm!, k: layer.kNorm! }, outputGate: true });
    recorder.gatedFfn(layer, index);
  },
  trainable: false,
};

function readConfig(keys: ConfigKeys, common: ModelConfig): Partial<ModelConfig> {
  // The block count of a GGUF includes them, num_hidden_layers does not.
  const draftBlocks = (keys.value(KEYS.draftBlocks) ?? 0) === 0 ? 0 : keys.size(KEYS.draftBlocks);
  const numHiddenLayers = common.numHiddenLayers - draftBlocks;
  if (numHiddenLayers < 1) {
    keys.fail(
      `${keys.nameOf(KEYS.draftBlocks)} is ${draftBlocks}`,
      `expected fewer than the ${common.numHiddenLayers} blocks`,
    );
  }
  if (keys.value(KEYS.outputGate) === false) {
    keys.fail(`${keys.nameOf(KEYS.outputGate)} is false`, 'only attention with an output gate is known in this graph');
  }
  refuseFourthSection(keys, common);
  const layerKinds = readLayerKinds(keys, numHiddenLayers, common.numHiddenLayers);
  return { numHiddenLayers, draftBlocks, layerKinds, deltaNet: readDeltaNet(keys) };
}

function readDeltaNet(keys: ConfigKeys): DeltaNetConfig {
  const keyHeads = keys.size(KEYS.keyHeads);
  const heads = keys.size(KEYS.valueHeads);
  const headDim = keys.size(KEYS.keyDim);
  const convTaps = keys.size(KEYS.convTaps);
  const valueDim = keys.size(KEYS.valueDim, headDim);
  const inner = keys.size(KEYS.innerSize, heads * headDim);
  if (heads % keyHeads !== 0) {
    keys.fail(
      `${keys.nameOf(KEYS.valueHeads)} is ${heads}, ${keys.nameOf(KEYS.keyHeads)} ${keyHeads}`,
      'value heads must be a multiple of the key heads',
    );
  }
  if (valueDim !== headDim || inner !== heads * headDim) {
    keys.fail(
      `heads of a linear layer have ${headDim} elements in keys and ${valueDim === headDim ? inner / heads : valueDim} in values`,
      'only one size for both is supported',
    );
  }
  if (convTaps < 2 || convTaps > MAX_TAPS) {
    keys.fail(`${keys.nameOf(KEYS.convTaps)} is ${convTaps}`, `expected 2 to ${MAX_TAPS}`);
  }
  return { keyHeads, valueHeads: heads, headDim, convTaps, order: keys.spelling === 'gguf' ? 'tiled' : 'grouped' };
}

function readLayerKinds(keys: ConfigKeys, layers: number, blocks: number): ('attention' | 'recurrent')[] {
  const key = keys.spelling === 'gguf' ? KEYS.recurrent : KEYS.layerTypes;
  const listed = keys.value(key);
  if (listed === undefined) {
    const interval = keys.size(KEYS.interval, 4);
    return withAttention(
      keys,
      Array.from({ length: layers }, (_, i) => ((i + 1) % interval === 0 ? 'attention' : 'recurrent')),
    );
  }
  const words = new Map<unknown, 'attention' | 'recurrent'>([
    [true, 'recurrent'],
    [false, 'attention'],
    ['linear_attention', 'recurrent'],
    ['full_attention', 'attention'],
  ]);
  const kinds = Array.isArray(listed) ? listed.map((word) => words.get(word)) : [];
  const wanted = keys.spelling === 'gguf' ? blocks : layers;
  if (kinds.length !== wanted || kinds.includes(undefined)) {
    const what = Array.isArray(listed) ? `has ${listed.length} entries, or one that is not known` : 'is no list';
    keys.fail(`${keys.nameOf(key)} ${what}`, `expected one for each of ${wanted} layers: linear or full attention`);
  }
  return withAttention(keys, kinds.slice(0, layers) as ('attention' | 'recurrent')[]);
}

function withAttention(keys: ConfigKeys, kinds: ('attention' | 'recurrent')[]): ('attention' | 'recurrent')[] {
  if (kinds.includes('attention')) return kinds;
  return keys.fail('no layer has full attention', 'models without any attention are not supported');
}

/**
 * Positions of text are one number in each section of M-RoPE but the fourth, which llama.cpp leaves at 0. No published
 * model has pairs in it.
 */
function refuseFourthSection(keys: ConfigKeys, { rotaryDim, headDim }: ModelConfig): void {
  const sections = keys.value(KEYS.sections);
  if (sections === undefined) return;
  const name = keys.nameOf(KEYS.sections);
  const isList =
    Array.isArray(sections) && sections.length >= 3 && sections.every((n) => Number.isInteger(n) && n >= 0);
  if (!isList) {
    keys.fail(`${name} is no list of four whole numbers`, 'convert the model again');
  }
  const pairs = (rotaryDim ?? headDim) / 2;
  for (let pair = 0; pair < pairs; pair += 1) {
    if (pair < 3 * sections[pair % 3]) continue;
    keys.fail(
      `${name} [${sections.join(', ')}] leaves pair ${pair} of ${pairs} to a section that text has no positions for`,
      'only sections that cover all pairs are supported',
    );
  }
}
