// A checkpoint's config.json, checked and reduced to what the forward pass needs. Field names are the checkpoint's own
// in camelCase. Anything in the file that would change the computation and that we do not implement is refused; keys we
// do not know are listed in `unknownKeys`.

import { BitnetError } from '../errors.ts';
import { JsonError, parseJson } from '../formats/strict-json.ts';
import { configKeys } from './config-keys.ts';
import type { Graph } from './graph.ts';
import { GRAPHS } from './graphs/all.ts';
import type { LinearStorage, MlxPack, ModelConfig, PackModule } from './model-config.ts';
import { ModulePatterns } from './module-patterns.ts';
import type { RopeScaling } from './rope.ts';

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
  'vision_config',
  'image_token_id',
  'video_token_id',
  'vision_start_token_id',
  'vision_end_token_id',
  'mtp_num_hidden_layers',
  'mtp_use_dedicated_embeddings',
  'mamba_ssm_dtype',
  'layer_types',
  'max_window_layers',
]);

type Json = Readonly<Record<string, unknown>>;

const isObject = (value: unknown): value is Json =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

/** A value for messages; JSON has no word for NaN. */
const shown = (value: unknown): string | undefined =>
  typeof value === 'number' ? String(value) : JSON.stringify(value);

/** Reads config.json: its text, or its bytes, which tell UTF-16 from damage. `file` is for messages. */
export function parseConfig(text: string | Uint8Array, file: string): ModelConfig {
  let json: unknown;
  try {
    json = parseJson(text, { where: file, fix: 'download the file again' });
  } catch (cause) {
    throw cause instanceof JsonError ? new ConfigError(cause.text, { cause }) : cause;
  }
  if (!isObject(json)) {
    throw new ConfigError({ what: 'expected a JSON object', where: file, fix: 'download the file again' });
  }
  return readConfig(withTextConfig(json), file);
}

/** Configs of models with several kinds of input keep those of the text in an object of their own, which wins. */
function withTextConfig(json: Json): Json {
  const { text_config: text, ...outer } = json;
  if (!isObject(text)) return json;
  const { architectures = text.architectures, model_type = text.model_type } = outer;
  return { ...outer, ...text, architectures, model_type };
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
      return fail(`${key} is ${shown(value)}, expected a whole number from 1 to ${LIMITS[key]}`);
    }
    return value as number;
  };
  const positive = (key: string, value: unknown): number =>
    typeof value === 'number' && value > 0 && Number.isFinite(value)
      ? value
      : fail(`${key} is ${shown(value)}, expected a positive number`);
  const flag = (key: string, fallback: boolean): boolean => {
    const value = get(key) ?? fallback;
    return typeof value === 'boolean' ? value : fail(`${key} is ${shown(value)}, expected true or false`);
  };

  const modelType = get('model_type');
  const graph = readGraph(get('architectures'), modelType, fail);
  const isRotated = typeof modelType === 'string' && graph.hf.rotatedTypes?.includes(modelType) === true;
  const { family } = graph;
  const quantization = readQuantization(get('quantization_config'), get('quantization'), fail);
  const mlx = quantization === undefined ? undefined : readMlxPack(quantization, fail);
  const linearStorage = mlx === undefined ? readLinearStorage(graph, quantization, fail) : 'mlx';
  const rotatedPack = isRotated ? readRotatedPack(json, mlx, get, fail) : undefined;
  if (!isRotated) refuseRotated(json, fail);
  if (family === 'onebitllm') {
    const weightBits = get('weight_bits') ?? 1;
    const inputBits = get('input_bits') ?? 8;
    if (weightBits !== 1 || inputBits !== 8) {
      fail(`weight_bits ${shown(weightBits)} with input_bits ${shown(inputBits)}`, 'only 1 with 8 is known');
    }
  }

  for (const key of ['attention_bias', 'mlp_bias']) {
    if (flag(key, false)) fail(`${key} is true`, 'models with biases are not supported');
  }
  for (const key of graph.refusedFlags) {
    if (flag(key, false)) fail(`${key} is true`, `only false is supported for ${graph.title} models`);
  }
  for (const key of ['sliding_window', 'attn_logit_softcapping', 'final_logit_softcapping']) {
    const value = get(key);
    // Written by transformers for every Qwen3, and without meaning where use_sliding_window is false.
    if (key === 'sliding_window' && graph.hasWindows === true) continue;
    if (key === 'sliding_window' && graph.refusedFlags.includes('use_sliding_window')) continue;
    if (value !== undefined && value !== null) fail(`${key} is ${shown(value)}`, 'only null is supported');
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
  const hiddenAct = act === undefined ? graph.defaults.hiddenAct : act;
  if (hiddenAct !== 'relu2' && hiddenAct !== 'silu') {
    fail(`hidden_act is ${shown(act)}`, 'supported: "relu2", "silu"');
  }

  const rope = readRope(
    get('rope_theta'),
    get('partial_rotary_factor'),
    get('rope_parameters'),
    get('rope_scaling'),
    graph,
    fail,
  );
  const eps = get('rms_norm_eps') ?? graph.defaults.rmsNormEps;
  const idList = (key: string): readonly number[] => {
    const value = get(key);
    if (value === undefined || value === null) return [];
    const ids = Array.isArray(value) ? value : [value];
    return ids.every((id) => Number.isSafeInteger(id) && id >= 0)
      ? (ids as number[])
      : fail(`${key} is ${shown(value)}, expected a token id or a list of them`);
  };

  const common: ModelConfig = {
    family,
    hiddenSize,
    intermediateSize: size('intermediate_size'),
    numHiddenLayers: size('num_hidden_layers'),
    numAttentionHeads,
    numKeyValueHeads,
    headDim,
    rotaryDim: rotaryDimOf(graph, headDim, rope.share, fail),
    vocabSize: size('vocab_size'),
    maxPositionEmbeddings: size('max_position_embeddings', 2048),
    ropeTheta: positive('rope_theta', rope.theta ?? graph.defaults.ropeTheta),
    ropeScaling: rope.scaling,
    rmsNormEps: positive('rms_norm_eps', eps),
    hiddenAct: hiddenAct as 'relu2' | 'silu',
    tieWordEmbeddings: flag('tie_word_embeddings', graph.defaults.tieWordEmbeddings),
    linearStorage,
    mlx,
    floatModules: readFloatModules(quantization, fail),
    bosTokenId: idList('bos_token_id')[0],
    eosTokenIds: idList('eos_token_id'),
    unknownKeys: [],
  };
  const keys = configKeys('hf', get, (key) => key, fail);
  const config = { ...common, ...graph.config?.(keys, common), rotatedPack };
  return { ...config, unknownKeys: Object.keys(json).filter((key) => !used.has(key) && !HARMLESS_KEYS.has(key)) };
}

/** How many elements of a head turn: a share of them where the graph knows that. */
function rotaryDimOf(graph: Graph, headDim: number, given: unknown, fail: Fail): number {
  if (graph.rotaryShare === undefined) return headDim;
  const share = given ?? graph.rotaryShare;
  const dim = typeof share === 'number' ? Math.trunc(headDim * share) : Number.NaN;
  if (dim >= 2 && dim <= headDim && dim % 2 === 0) return dim;
  return fail(`partial_rotary_factor is ${shown(share)}`, `expected a share of ${headDim} that is an even number`);
}

/** A pack in a rotated basis: what it says of itself beside the keys of every config. */
function readRotatedPack(
  json: Json,
  mlx: MlxPack | undefined,
  get: (key: string) => unknown,
  fail: Fail,
): { readonly modules: readonly PackModule[] } {
  const what = 'this is a rotated MLX pack (Ternary Bonsai 2)';
  for (const [key, known] of Object.entries(ROTATED_PACK)) {
    const value = get(key) ?? known[0];
    if (!known.includes(value as never)) {
      fail(`${what}, but ${key} is ${shown(value)}`, `known: ${known.join(', ')}; take the GGUF of the model`);
    }
  }
  if (mlx?.bits !== 2) fail(`${what}, but its quantization is not of 2 bits`, 'take the GGUF of the model');
  // Code of theirs, which nobody runs here.
  for (const key of ['components', 'model_file', 'requires_runtime', 'runtime']) if (key in json) get(key);
  const modules = get('modules') ?? [];
  const isModule = (module: unknown) =>
    isObject(module) &&
    typeof module.path === 'string' &&
    Number.isInteger(module.block) &&
    (module.block as number) >= 0;
  if (Array.isArray(modules) && modules.every(isModule)) return { modules };
  return fail(`${what}, but modules is no list of paths and blocks`, 'download the file again');
}

/** The first of each is what an absent key means. */
const ROTATED_PACK: Readonly<Record<string, readonly (string | number)[]>> = {
  schema_version: [2, 1],
  base_model_type: ['qwen3_5'],
  tensor_namespace: ['mlx-vlm-qwen3_5'],
  gdn_activation_layout: ['grouped'],
  hadamard_config: ['hadamard.json'],
};

type Fail = (what: string, fix?: string) => never;

function readGraph(architectures: unknown, modelType: unknown, fail: Fail): Graph {
  const name = Array.isArray(architectures) ? architectures[0] : undefined;
  const isPack = ({ hf }: Graph) => typeof modelType === 'string' && hf.rotatedTypes?.includes(modelType) === true;
  const found =
    GRAPHS.find((graph) => isPack(graph)) ??
    GRAPHS.find(({ hf }) =>
      name === undefined
        ? typeof modelType === 'string' && hf.modelTypes.includes(modelType)
        : hf.architectures.includes(name),
    );
  return (
    found ??
    fail(
      `architecture ${shown(name ?? null)}, model_type ${shown(modelType ?? null)}`,
      `supported: ${GRAPHS.flatMap(({ hf }) => hf.architectures).join(', ')} with ternary layers`,
    )
  );
}

/** transformers' key, or MLX's, which writes the same object under both. */
function readQuantization(config: unknown, mlx: unknown, fail: Fail): Json | undefined {
  for (const [key, value] of [
    ['quantization_config', config],
    ['quantization', mlx],
  ] as const) {
    if (value === undefined || value === null) continue;
    if (!isObject(value)) return fail(`${key} is not an object`);
    return value;
  }
  return undefined;
}

/** Group sizes that MLX and PrismML's fork of it write. */
const MLX_GROUPS = [32, 64, 128];

/** `quantization` as mlx-lm writes it: group_size and bits, and no quant_method. */
function readMlxPack(quantization: Json, fail: Fail): MlxPack | undefined {
  const { quant_method: method, group_size: groupSize, bits, mode = 'affine' } = quantization;
  if (method !== undefined || groupSize === undefined || bits === undefined) return undefined;
  if (mode !== 'affine') return fail(`quantization.mode is ${shown(mode)}`, 'only "affine" packs hold trits');
  if (bits !== 1 && bits !== 2) {
    return fail(`quantization.bits is ${shown(bits)}`, 'ternary MLX packs have 2 bits, binary ones 1');
  }
  if (!MLX_GROUPS.includes(groupSize as number)) {
    return fail(`quantization.group_size is ${shown(groupSize)}`, `known: ${MLX_GROUPS.join(', ')}`);
  }
  return { bits, groupSize: groupSize as number };
}

function readLinearStorage({ family, oneScale }: Graph, quantization: Json | undefined, fail: Fail): LinearStorage {
  if (family === 'onebitllm' && quantization === undefined) return 'masters';
  if (quantization === undefined) {
    // Ternary or not, the values must tell: TriLM and unpacked Bonsai declare nothing.
    if (oneScale === 'int16' || family === 'llama') return 'unpacked';
    return fail(
      'no quantization_config: the linear layers are not declared ternary',
      'add {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "online"} if the weights are QAT masters',
    );
  }
  const {
    quant_method: method,
    linear_class: linearClass = 'bitlinear',
    quantization_mode: mode = 'offline',
  } = quantization;
  if (method !== 'bitnet') return fail(`quant_method is ${shown(method)}`, 'only "bitnet" is supported');
  if (oneScale !== 'int8') return fail('quant_method is "bitnet" in a graph without BitLinear layers');
  if (quantization.use_rms_norm === true) {
    return fail('use_rms_norm is true', 'BitLinear layers with a norm of their own are not supported');
  }
  if (linearClass === 'bitlinear') return 'packed-divide';
  if (linearClass !== 'autobitlinear') {
    return fail(`linear_class is ${shown(linearClass)}`, 'supported: "bitlinear", "autobitlinear"');
  }
  if (mode === 'offline') return 'packed-multiply';
  if (mode === 'online') return 'masters';
  return fail(`quantization_mode is ${shown(mode)}`, 'supported: "offline", "online"');
}

/** `modules_to_not_convert`: linear layers that transformers leaves as they are. */
function readFloatModules(quantization: Json | undefined, fail: Fail): ModulePatterns | undefined {
  const value = quantization?.modules_to_not_convert;
  if (value === undefined || value === null) return undefined;
  if (!Array.isArray(value) || !value.every((entry) => typeof entry === 'string')) {
    return fail('quantization_config.modules_to_not_convert is not a list of names');
  }
  const patterns = ModulePatterns.from(value as string[]);
  if (patterns instanceof ModulePatterns) return patterns;
  return fail(
    `quantization_config.modules_to_not_convert has the pattern ${shown(patterns.refused)}`,
    'write plain names, or expressions without groups and with few repetitions',
  );
}

/** Bonsai 2's weights lie in a rotated basis: its packs look like any other's and would run into noise. */
function refuseRotated(json: Json, fail: Fail): void {
  const key = Object.keys(json).find((name) => /hadamard/i.test(name));
  if (key !== undefined) {
    fail(
      `"${key}": the weights are stored in a rotated basis (Hadamard, as in Ternary Bonsai 2)`,
      'rotated models are run from GGUF, or from an MLX pack of model_type "prism_hadamard_qwen35"',
    );
  }
}

/**
 * RoPE's theta and scaling. As in transformers, what stands inside `rope_parameters` (or `rope_scaling`) wins over the
 * `rope_theta` beside it.
 */
function readRope(theta: unknown, partial: unknown, parameters: unknown, scaling: unknown, graph: Graph, fail: Fail) {
  let inner: unknown;
  let share = partial;
  let found: RopeScaling | undefined;
  // transformers takes rope_scaling where both are there.
  for (const [key, value] of [
    ['rope_parameters', parameters],
    ['rope_scaling', scaling],
  ] as const) {
    if (value === undefined || value === null) continue;
    if (!isObject(value)) return fail(`${key} is not an object`);
    inner = value.rope_theta ?? inner;
    share = value.partial_rotary_factor ?? share;
    found = readRopeScaling(key, value, graph, fail) ?? found;
  }
  return { theta: inner ?? theta, share: share ?? undefined, scaling: found };
}

function readRopeScaling(key: string, value: Json, graph: Graph, fail: Fail): RopeScaling | undefined {
  const type = value.rope_type ?? value.type ?? 'default';
  const number = (name: string, fallback?: number): number => {
    const given = value[name] ?? fallback;
    return typeof given === 'number' && given > 0 && Number.isFinite(given)
      ? given
      : fail(`${key}.${name} is ${shown(given)}, expected a positive number`);
  };
  if (type === 'default' || (type === 'linear' && (value.factor ?? 1) === 1)) return undefined;
  if (!graph.ropeScaling.some((known) => known === type)) {
    const supported =
      graph.ropeScaling.length === 0 ? 'only unscaled RoPE is' : `${graph.ropeScaling.join(' and ')} are`;
    return fail(`${key} has type ${shown(type)}`, `${supported} supported`);
  }
  if (type === 'linear') return { type: 'linear', factor: number('factor') };
  const attentionFactor = value.attention_factor ?? undefined;
  for (const name of ['mscale', 'mscale_all_dim', 'truncate']) {
    if (value[name] !== undefined && value[name] !== null) fail(`${key}.${name} is not supported`);
  }
  return {
    type: 'yarn',
    factor: number('factor'),
    originalContext: number('original_max_position_embeddings'),
    betaFast: number('beta_fast', 32),
    betaSlow: number('beta_slow', 1),
    attentionFactor: attentionFactor === undefined ? undefined : number('attention_factor'),
  };
}
