// A checkpoint's config.json, checked and reduced to what the forward pass needs. Field names are the checkpoint's own
// in camelCase. Anything in the file that would change the computation and that we do not implement is refused; keys we
// do not know are listed in `unknownKeys`.

import { BitnetError } from '../errors.ts';
import { JsonError, parseJson } from '../formats/strict-json.ts';

/** Graphs we implement: BitNet (sub-norms, ReLU²), 1bitLLM's (sub-norms, SiLU), Llama with BitLinear (no sub-norms). */
export type ModelFamily = 'bitnet' | 'onebitllm' | 'llama';

/**
 * How the linear layers are stored. `masters`: float latent weights, made ternary by absmean at load. `packed`: 2-bit
 * trits and a `weight_scale` that the output is multiplied with or divided by.
 */
export type LinearStorage = 'masters' | 'packed-multiply' | 'packed-divide';

export type ModelConfig = {
  readonly family: ModelFamily;
  readonly hiddenSize: number;
  readonly intermediateSize: number;
  readonly numHiddenLayers: number;
  readonly numAttentionHeads: number;
  readonly numKeyValueHeads: number;
  readonly headDim: number;
  readonly vocabSize: number;
  readonly maxPositionEmbeddings: number;
  readonly ropeTheta: number;
  readonly rmsNormEps: number;
  readonly hiddenAct: 'relu2' | 'silu';
  readonly tieWordEmbeddings: boolean;
  readonly linearStorage: LinearStorage;
  readonly bosTokenId: number | undefined;
  readonly eosTokenIds: readonly number[];
  /** Keys of the file that are not known to be harmless; nothing was done with them. */
  readonly unknownKeys: readonly string[];
};

/** config.json is missing a key, has a value of the wrong type, or asks for something we do not implement. */
export class ConfigError extends BitnetError {
  readonly code = 'BAD_CONFIG';
  readonly fault = 'job';
}

// Upper bounds on untrusted numbers, each well above the largest real model (noted), so that sizes computed from them
// stay exact and no allocation can run away before the tensors are compared with the file.
const LIMITS = {
  hidden_size: 65_536, // 4096
  intermediate_size: 131_071, // 23040; the ternary product needs columns below 2^17
  num_hidden_layers: 1024, // 40
  num_attention_heads: 4096, // 32
  num_key_value_heads: 4096,
  head_dim: 4096, // 256
  vocab_size: 4_194_304, // 262144
  max_position_embeddings: 16_777_216, // 131072
} as const;

/** Keys that describe training, saving or defaults, not the forward pass. */
const HARMLESS_KEYS = new Set([
  '_name_or_path',
  'architectures',
  'attention_dropout',
  'auto_map',
  'dtype',
  'hidden_dropout',
  'initializer_range',
  'pad_token_id',
  'pretraining_tp',
  'torch_dtype',
  'transformers_version',
  'unsloth_version',
  'use_cache',
  'quantization',
]);

type Json = Readonly<Record<string, unknown>>;

const isObject = (value: unknown): value is Json =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

/** Reads config.json's text. `file` is for messages. */
export function parseConfig(text: string, file: string): ModelConfig {
  let json: unknown;
  try {
    json = parseJson(text, { where: file, fix: 'download the file again' });
  } catch (cause) {
    throw cause instanceof JsonError ? new ConfigError(cause.text, { cause }) : cause;
  }
  if (!isObject(json)) {
    throw new ConfigError({ what: 'expected a JSON object', where: file, fix: 'download the file again' });
  }
  return readConfig(json, file);
}

function readConfig(json: Json, file: string): ModelConfig {
  const used = new Set<string>();
  const get = (key: string): unknown => {
    used.add(key);
    return json[key];
  };
  const fail = (what: string, fix?: string): never => {
    throw new ConfigError({ what, where: file, ...(fix === undefined ? {} : { fix }) });
  };
  const size = (key: keyof typeof LIMITS, fallback?: number): number => {
    const value = get(key) ?? fallback;
    if (value === undefined) return fail(`${key} is missing`, 'this is not the config of a language model we know');
    if (!Number.isInteger(value) || (value as number) < 1 || (value as number) > LIMITS[key]) {
      return fail(`${key} is ${JSON.stringify(value)}, expected a whole number from 1 to ${LIMITS[key]}`);
    }
    return value as number;
  };
  const positive = (key: string, value: unknown): number =>
    typeof value === 'number' && value > 0 && Number.isFinite(value)
      ? value
      : fail(`${key} is ${JSON.stringify(value)}, expected a positive number`);
  const flag = (key: string, fallback: boolean): boolean => {
    const value = get(key) ?? fallback;
    return typeof value === 'boolean' ? value : fail(`${key} is ${JSON.stringify(value)}, expected true or false`);
  };

  const family = readFamily(get('architectures'), get('model_type'), fail);
  const quantization = get('quantization_config');
  if (quantization !== undefined && quantization !== null && !isObject(quantization)) {
    fail('quantization_config is not an object');
  }
  const linearStorage = readLinearStorage(family, isObject(quantization) ? quantization : undefined, fail);
  if (family === 'onebitllm') {
    const weightBits = get('weight_bits') ?? 1;
    const inputBits = get('input_bits') ?? 8;
    if (weightBits !== 1 || inputBits !== 8) {
      fail(
        `weight_bits ${JSON.stringify(weightBits)} with input_bits ${JSON.stringify(inputBits)}`,
        'only 1 with 8 is known',
      );
    }
  }

  for (const key of ['attention_bias', 'mlp_bias']) {
    if (flag(key, false)) fail(`${key} is true`, 'models with biases are not supported');
  }
  for (const key of ['sliding_window', 'attn_logit_softcapping', 'final_logit_softcapping']) {
    const value = get(key);
    if (value !== undefined && value !== null) fail(`${key} is ${JSON.stringify(value)}`, 'only null is supported');
  }

  const hiddenSize = size('hidden_size');
  const numAttentionHeads = size('num_attention_heads');
  const numKeyValueHeads = size('num_key_value_heads', numAttentionHeads);
  if (numAttentionHeads % numKeyValueHeads !== 0) {
    fail(`${numAttentionHeads} attention heads cannot share ${numKeyValueHeads} key/value heads evenly`);
  }
  const headDimKey = get('head_dim');
  if ((headDimKey === undefined || headDimKey === null) && hiddenSize % numAttentionHeads !== 0) {
    fail(
      `hidden_size ${hiddenSize} is not a multiple of num_attention_heads ${numAttentionHeads} and head_dim is missing`,
    );
  }
  const headDim = size('head_dim', hiddenSize / numAttentionHeads);
  if (headDim % 2 !== 0) fail(`head_dim ${headDim} is odd`, 'RoPE pairs the halves of a head: an even size is needed');

  const act = get('hidden_act');
  const expectedAct = family === 'bitnet' ? 'relu2' : 'silu';
  const hiddenAct = act === undefined ? expectedAct : act;
  if (hiddenAct !== 'relu2' && hiddenAct !== 'silu') {
    fail(`hidden_act is ${JSON.stringify(act)}`, 'supported: "relu2", "silu"');
  }

  // What an absent key means in transformers, whose classes differ here.
  const rope =
    readRope(get('rope_theta'), get('rope_parameters'), get('rope_scaling'), fail) ??
    (family === 'bitnet' ? 500_000 : 10_000);
  const eps = get('rms_norm_eps') ?? (family === 'llama' ? 1e-6 : 1e-5);
  const idList = (key: string): readonly number[] => {
    const value = get(key);
    if (value === undefined || value === null) return [];
    const ids = Array.isArray(value) ? value : [value];
    return ids.every((id) => Number.isInteger(id) && id >= 0)
      ? (ids as number[])
      : fail(`${key} is ${JSON.stringify(value)}, expected a token id or a list of them`);
  };

  return {
    family,
    hiddenSize,
    intermediateSize: size('intermediate_size'),
    numHiddenLayers: size('num_hidden_layers'),
    numAttentionHeads,
    numKeyValueHeads,
    headDim,
    vocabSize: size('vocab_size'),
    maxPositionEmbeddings: size('max_position_embeddings', 2048),
    ropeTheta: positive('rope_theta', rope),
    rmsNormEps: positive('rms_norm_eps', eps),
    hiddenAct: hiddenAct as 'relu2' | 'silu',
    tieWordEmbeddings: flag('tie_word_embeddings', family !== 'llama'),
    linearStorage,
    bosTokenId: idList('bos_token_id')[0],
    eosTokenIds: idList('eos_token_id'),
    unknownKeys: Object.keys(json).filter((key) => !used.has(key) && !HARMLESS_KEYS.has(key)),
  };
}

type Fail = (what: string, fix?: string) => never;

function readFamily(architectures: unknown, modelType: unknown, fail: Fail): ModelFamily {
  const name = Array.isArray(architectures) ? architectures[0] : undefined;
  // One letter apart: Hugging Face's BitNet, and 1bitLLM's earlier Bitnet, whose files call themselves llama.
  if (name === 'BitnetForCausalLM') return 'onebitllm';
  if (name === 'BitNetForCausalLM' || (name === undefined && modelType === 'bitnet')) return 'bitnet';
  if (name === 'LlamaForCausalLM') return 'llama';
  return fail(
    `architecture ${JSON.stringify(name ?? null)}, model_type ${JSON.stringify(modelType ?? null)}`,
    'supported: BitNetForCausalLM, BitnetForCausalLM, LlamaForCausalLM with BitLinear layers',
  );
}

function readLinearStorage(family: ModelFamily, quantization: Json | undefined, fail: Fail): LinearStorage {
  if (family === 'onebitllm' && quantization === undefined) return 'masters';
  if (quantization === undefined) {
    return fail(
      'no quantization_config: the linear layers are not declared ternary',
      family === 'llama'
        ? 'this looks like an ordinary float model, which this engine does not run'
        : 'add {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "online"} if the weights are QAT masters',
    );
  }
  const {
    quant_method: method,
    linear_class: linearClass = 'bitlinear',
    quantization_mode: mode = 'offline',
  } = quantization;
  if (method !== 'bitnet') return fail(`quant_method is ${JSON.stringify(method)}`, 'only "bitnet" is supported');
  if (quantization.use_rms_norm === true) {
    return fail('use_rms_norm is true', 'BitLinear layers with a norm of their own are not supported');
  }
  if (linearClass === 'bitlinear') return 'packed-divide';
  if (linearClass !== 'autobitlinear') {
    return fail(`linear_class is ${JSON.stringify(linearClass)}`, 'supported: "bitlinear", "autobitlinear"');
  }
  if (mode === 'offline') return 'packed-multiply';
  if (mode === 'online') return 'masters';
  return fail(`quantization_mode is ${JSON.stringify(mode)}`, 'supported: "offline", "online"');
}

/** RoPE's theta from the old place or transformers 5's `rope_parameters`; any scaling of positions is refused. */
function readRope(theta: unknown, parameters: unknown, scaling: unknown, fail: Fail): unknown {
  for (const [key, value] of [
    ['rope_parameters', parameters],
    ['rope_scaling', scaling],
  ] as const) {
    if (value === undefined || value === null) continue;
    if (!isObject(value)) return fail(`${key} is not an object`);
    const type = value.rope_type ?? value.type ?? 'default';
    const harmless = type === 'default' || (type === 'linear' && (value.factor ?? 1) === 1);
    if (!harmless) return fail(`${key} has type ${JSON.stringify(type)}`, 'only unscaled RoPE is supported');
  }
  return theta ?? (isObject(parameters) ? parameters.rope_theta : undefined);
}
