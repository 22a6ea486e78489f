// What a GGUF's metadata says of its model. What it does not say is decided here: no key names the FFN's activation.

import type { GgufFile } from '../formats/gguf-file.ts';
import { ggufKind } from '../formats/gguf-kind.ts';
import { GgufArray } from '../formats/gguf-values.ts';
import { ConfigError } from './config.ts';
import { configKeys } from './config-keys.ts';
import { type Graph, MODEL_TENSORS } from './graph.ts';
import { GRAPHS, graphOf } from './graphs/all.ts';
import type { ModelConfig } from './model-config.ts';
import type { RopeScaling } from './rope.ts';
import { foldableInGguf, type Rotation, readRotation, rotationVersion } from './rotation.ts';

const LIMIT = 1 << 24;

type Fail = (what: string, fix: string) => never;

/** The config that a GGUF's metadata amounts to. Throws `ConfigError` for what we do not run. */
export function ggufConfig(file: GgufFile): ModelConfig {
  const fail = (what: string, fix: string): never => {
    throw new ConfigError({ what, where: file.path, fix });
  };
  const kind = ggufKind(file);
  if (kind !== undefined) fail(kind.what, kind.fix);
  const architecture = file.architecture ?? fail('general.architecture is missing', 'the file is not a language model');
  const graph =
    GRAPHS.find(({ gguf }) => gguf.architectures.includes(architecture)) ??
    fail(`architecture "${architecture}"`, `supported: ${GRAPHS.flatMap(({ gguf }) => gguf.architectures).join(', ')}`);
  const rotationKeys = rotationKeysOf(file, graph, fail);
  const number = (key: string, fallback?: number): number => {
    const value = oneNumber(file, `${architecture}.${key}`, fail) ?? fallback;
    return value ?? fail(`${architecture}.${key} is missing`, 'the file is incomplete: convert the model again');
  };
  const size = (key: string, fallback?: number): number => {
    const value = number(key, fallback);
    return Number.isInteger(value) && value >= 1 && value <= LIMIT
      ? value
      : fail(`${architecture}.${key} is ${value}`, `expected a whole number from 1 to ${LIMIT}`);
  };

  const positive = (key: string, fallback?: number): number => {
    const value = number(key, fallback);
    return value > 0 && Number.isFinite(value)
      ? value
      : fail(`${architecture}.${key} is ${value}`, 'expected a positive number');
  };
  // First: a file of some matrices has no sizes either, and no other copy of it would have them.
  const { embedding, head } = MODEL_TENSORS;
  if (!file.has(embedding.gguf)) {
    const { size: count } = file.tensors;
    const held = count === 0 ? 'no weights, only a vocabulary or settings' : `${count} tensors, not a whole model`;
    fail(
      `there is no ${embedding.gguf}: the file holds ${held}`,
      "name the model's own .gguf; `analyze` reads this one",
    );
  }
  const hiddenSize = size('embedding_length');
  const numAttentionHeads = size('attention.head_count');
  const numKeyValueHeads = size('attention.head_count_kv', numAttentionHeads);
  const headDim = size('attention.key_length', hiddenSize / numAttentionHeads);
  const numHiddenLayers = size('block_count');
  if (numAttentionHeads % numKeyValueHeads !== 0 || headDim % 2 !== 0) {
    fail(
      `${numAttentionHeads} heads of ${headDim} on ${numKeyValueHeads} key/value heads`,
      'head counts must divide, head size be even',
    );
  }
  const rotated = rotaryDimOf(graph, size, number, headDim);
  if (rotated > headDim || rotated % 2 !== 0) {
    fail(`rope.dimension_count is ${rotated}`, `expected an even number up to the size of a head (${headDim})`);
  }
  if (rotated !== headDim && graph.rotaryShare === undefined)
    fail(`rope.dimension_count is ${rotated}`, `only whole heads (${headDim}) are supported`);
  const valueLength = size('attention.value_length', headDim);
  if (valueLength !== headDim)
    fail(`attention.value_length is ${valueLength}`, `only key_length (${headDim}) is supported`);
  const ropeScaling = readRopeScaling(file, architecture, graph, positive, fail);
  const vocabSize = file.info(embedding.gguf).shape[0] ?? 0;

  // The 2B-4T model under the name of 1bitLLM's architecture: its FFN is ReLU² all the same.
  const is2B4T = graph.family === 'onebitllm' && numHiddenLayers === 30 && hiddenSize === 2560 && vocabSize === 128256;
  const { family, defaults } = is2B4T ? graphOf('bitnet') : graph;
  /** As the vocabulary's reader takes it: a number that is no token's, such as -1, means that there is none. */
  const tokenId = (key: string): number | undefined => {
    const value = file.number(`tokenizer.ggml.${key}`);
    return value !== undefined && Number.isInteger(value) && value >= 0 && value < vocabSize ? value : undefined;
  };
  const eos = tokenId('eos_token_id');
  const common: ModelConfig = {
    family,
    hiddenSize,
    intermediateSize: size('feed_forward_length'),
    numHiddenLayers,
    numAttentionHeads,
    numKeyValueHeads,
    headDim,
    rotaryDim: rotated,
    vocabSize,
    maxPositionEmbeddings: size('context_length', 2048),
    ropeTheta: positive('rope.freq_base', 10000),
    ropeScaling,
    rmsNormEps: positive('attention.layer_norm_rms_epsilon'),
    hiddenAct: defaults.hiddenAct,
    tieWordEmbeddings: !file.has(head.gguf),
    linearStorage: 'gguf',
    bosTokenId: tokenId('bos_token_id'),
    eosTokenIds: eos === undefined ? [] : [eos],
    unknownKeys: [],
  };
  const keys = configKeys(
    'gguf',
    (key) => plainValue(file, `${architecture}.${key}`),
    (key) => `${architecture}.${key}`,
    fail,
  );
  const config = { ...common, ...graph.config?.(keys, common) };
  return rotationKeys.size === 0 ? config : { ...config, rotation: rotationOf(file, rotationKeys, config, fail) };
}

/**
 * Elements of a head that turn. Where layers have windows, files may say it of those alone, and of the others that none
 * turn.
 */
function rotaryDimOf(
  { hasWindows }: Graph,
  size: (key: string, fallback?: number) => number,
  number: (key: string, fallback?: number) => number,
  headDim: number,
): number {
  const ofAll = number('rope.dimension_count', headDim);
  if (hasWindows !== true) return size('rope.dimension_count', headDim);
  return ofAll === 0 ? size('rope.dimension_count_swa') : size('rope.dimension_count_swa', ofAll);
}

/** A value of the metadata, arrays as arrays. */
function plainValue(file: GgufFile, key: string): unknown {
  const value = file.metadata.get(key);
  return value instanceof GgufArray ? value.values() : value;
}

/** A number, or the one that all layers have in common in an array of one for each; 0 is of layers without such heads. */
function oneNumber(file: GgufFile, key: string, fail: Fail): number | undefined {
  if (!(file.metadata.get(key) instanceof GgufArray)) return file.number(key);
  const numbers = new Set(file.numbers(key)!.filter((value) => value !== 0));
  const [first] = numbers;
  if (numbers.size === 1) return first;
  return fail(`${key} is an array of several numbers`, 'only one number for all layers is supported');
}

const ROTATION = 'prism.hadamard.';

/** The keys of a rotation's contract without their prefix; none where the model is not rotated. */
function rotationKeysOf(file: GgufFile, graph: Graph, fail: Fail): ReadonlyMap<string, unknown> {
  const names = [...file.metadata.keys()].filter((key) => /hadamard/i.test(key));
  const stranger = names.find((key) => !key.startsWith(ROTATION));
  if (stranger !== undefined) {
    fail(
      `this is a rotated model, by the key ${stranger}, which nobody here knows`,
      'take the model from its authors, whose keys are prism.hadamard.*',
    );
  }
  if (names.length > 0 && graph.rotates !== true) {
    fail(
      `this is a rotated model (${names[0]}), and the graph of "${file.architecture}" does not rotate`,
      'the architecture or the keys are wrong: download the model again',
    );
  }
  const keys = new Map(names.map((key) => [key.slice(ROTATION.length), plainValue(file, key)]));
  // Said before what else may be missing from such a file.
  if (keys.size > 0) rotationVersion(keys, (key) => `${ROTATION}${key}`, fail);
  return keys;
}

function rotationOf(file: GgufFile, keys: ReadonlyMap<string, unknown>, config: ModelConfig, fail: Fail): Rotation {
  const { embedding, head } = MODEL_TENSORS;
  return readRotation(
    keys,
    (key) => `${ROTATION}${key}`,
    {
      columnsOf: (name) => (file.has(name) ? file.info(name).shape.at(-1) : undefined),
      embedding: embedding.gguf,
      head: head.gguf,
      layerOfFoldable: foldableInGguf,
      layers: config.numHiddenLayers,
      hasDeltaNet: config.deltaNet !== undefined,
    },
    fail,
  );
}

function readRopeScaling(
  file: GgufFile,
  architecture: string,
  graph: Graph,
  positive: (key: string, fallback?: number) => number,
  fail: Fail,
): RopeScaling | undefined {
  const type = file.string(`${architecture}.rope.scaling.type`) ?? 'none';
  if (type === 'none' || (type === 'linear' && positive('rope.scaling.factor', 1) === 1)) return undefined;
  if (!graph.ropeScaling.some((known) => known === type)) {
    const supported =
      graph.ropeScaling.length === 0 ? 'only unscaled RoPE is' : `${graph.ropeScaling.join(' and ')} are`;
    fail(`rope.scaling.type is "${type}"`, `${supported} supported`);
  }
  const factor = positive('rope.scaling.factor');
  if (type === 'linear') return { type, factor };
  // llama.cpp multiplies its own 0.1 ln factor + 1 with this one, whose default is 1.
  const times = positive('rope.scaling.attn_factor', 1);
  return {
    type: 'yarn',
    factor,
    originalContext: positive('rope.scaling.original_context_length'),
    betaFast: positive('rope.scaling.yarn_beta_fast', 32),
    betaSlow: positive('rope.scaling.yarn_beta_slow', 1),
    attentionFactor: times === 1 ? undefined : times * (0.1 * Math.log(factor) + 1),
  };
}
