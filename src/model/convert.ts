// `convert`: a model we can open, written in another format. Trits are copied, never requantized; a scale that the target
// would round is kept exact beside the matrix where the format has a place for it.

import { copyFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { DenseWeight, TernaryWeight, VectorWeight } from '../engine/program.ts';
import { ArgumentError } from '../errors.ts';
import type { WriteOptions } from '../formats/atomic-file.ts';
import { GgufFile } from '../formats/gguf-file.ts';
import { makeFolder } from '../formats/make-folder.ts';
import { type GgufPair, type GgufTensorToWrite, writeGguf } from '../formats/write-gguf.ts';
import { type TensorToWrite, writeSafetensors } from '../formats/write-safetensors.ts';
import { bf16ToF32, f32ToBf16 } from '../quant/bf16.ts';
import { f16ToF32, f32ToF16 } from '../quant/f16.ts';
import { packI2s } from '../quant/i2s.ts';
import { unpackRowquad } from '../quant/rowquad.ts';
import { packTq1 } from '../quant/tq1.ts';
import { packTq2 } from '../quant/tq2.ts';
import type { Dtype } from '../tensor/tensor-view.ts';
import { ggufVocabularyPairs, tokenizerFilesOf } from '../tokenizer/export-vocabulary.ts';
import { loadTokenizer } from '../tokenizer/load-tokenizer.ts';
import type { ModelConfig } from './config.ts';
import { GGUF_NAMES, interleavedHeads } from './gguf-model.ts';
import { HUGGING_FACE_NAMES, type WeightNames } from './load.ts';
import { type ModelFiles, openWeights } from './open-model.ts';
import type { LayerWeights, ModelWeights } from './record.ts';

/** `hf`: folder in Hugging Face layout, packed, scales multiplied. `gguf-*`: one .gguf with matrices of that type. */
export const CONVERT_FORMATS = ['hf', 'gguf-i2_s', 'gguf-tq2_0', 'gguf-tq1_0'] as const;
export type ConvertFormat = (typeof CONVERT_FORMATS)[number];

export type ConvertOptions = {
  readonly to?: ConvertFormat;
  /** Told of layers that were read and tensors that were written. */
  readonly onProgress?: (done: number, total: number, doing: string) => void;
  readonly signal?: AbortSignal;
};

export type ConvertReport = {
  readonly format: ConvertFormat;
  readonly path: string;
  readonly sizeBytes: number;
  /** What the target cannot hold exactly, or does not have. */
  readonly notes: readonly string[];
};

type MatrixName = 'q' | 'k' | 'v' | 'o' | 'gate' | 'up' | 'down';
const MATRICES: readonly MatrixName[] = ['q', 'k', 'v', 'o', 'gate', 'up', 'down'];
type NormName = 'inputNorm' | 'postAttentionNorm' | 'attnSubNorm' | 'ffnSubNorm';
const NORMS: readonly NormName[] = ['inputNorm', 'postAttentionNorm', 'attnSubNorm', 'ffnSubNorm'];

/** Writes the model at `source` as `target`: a folder for `hf`, a file for GGUF. An existing target is refused. */
export async function convertModel(
  source: ModelFiles,
  target: string,
  options: ConvertOptions = {},
): Promise<ConvertReport> {
  const format = options.to ?? (target.toLowerCase().endsWith('.gguf') ? 'gguf-i2_s' : 'hf');
  if ((await stat(target).catch(() => undefined)) !== undefined) {
    throw new ArgumentError({
      what: 'the target exists',
      where: target,
      fix: 'choose another name or remove it first',
    });
  }
  const { onProgress, signal } = options;
  const cancellable = signal === undefined ? {} : { signal };
  const { config, weights } = await openWeights(source, {
    head: 'full',
    onLayer: (done, total) => onProgress?.(done, 2 * total, `reading layer ${done} of ${total}`),
    ...cancellable,
  });
  const write: WriteOptions = {
    // Reading was the first half.
    onTensor: (done, total) => onProgress?.(total + done, 2 * total, `writing tensor ${done} of ${total}`),
    ...cancellable,
  };
  const notes: string[] = [];
  if (format === 'hf') await writeFolder(source, target, config, weights, notes, write);
  else await writeGgufModel(source, target, format, config, weights, notes, write);
  const file = format === 'hf' ? join(target, 'model.safetensors') : target;
  return { format, path: target, sizeBytes: (await stat(file)).size, notes };
}

// ---- Hugging Face folder

async function writeFolder(
  source: ModelFiles,
  target: string,
  config: ModelConfig,
  weights: ModelWeights,
  notes: string[],
  options: WriteOptions,
): Promise<void> {
  // Built beside its place and renamed when whole.
  const building = `${target}.partial-${process.pid}`;
  // What keeps it from going keeps the folder from being made, which says so.
  await rm(building, { recursive: true, force: true }).catch(() => undefined);
  await makeFolder(building);
  try {
    await writeSafetensors(
      join(building, 'model.safetensors'),
      huggingFaceTensors(config, weights),
      { format: 'pt' },
      options,
    );
    await writeJson(join(building, 'config.json'), huggingFaceConfig(config));
    await copyTokenizer(source, building, notes);
    await rename(building, target);
  } catch (error) {
    await rm(building, { recursive: true, force: true });
    throw error;
  }
}

function* huggingFaceTensors(config: ModelConfig, weights: ModelWeights): Generator<TensorToWrite> {
  const names = HUGGING_FACE_NAMES;
  const dense = (name: string, { dtype, rows, columns, bytes }: DenseWeight): TensorToWrite => ({
    name,
    dtype: dtype.toUpperCase() as Dtype,
    shape: [rows, columns],
    bytes,
  });
  yield dense(names.embedding, weights.embedding);
  yield smallest(names.finalNorm, weights.finalNorm.values);
  if (!config.tieWordEmbeddings && weights.head.kind === 'dense') yield dense(names.head, weights.head);
  for (const [index, layer] of weights.layers.entries()) {
    for (const norm of NORMS) {
      const weight = layer[norm];
      if (weight !== undefined) yield smallest(names.layer(index, names[norm]), weight.values);
    }
    for (const matrix of MATRICES) {
      const { rows, columns, bytes, scale } = layer[matrix];
      const name = names.layer(index, names[matrix]);
      yield { name, dtype: 'U8', shape: [Math.ceil(rows / 4), columns], bytes };
      yield smallest(`${name}_scale`, Float32Array.of(scale));
    }
  }
}

/** As BF16 where that loses nothing, else F32. */
function smallest(name: string, values: Float32Array): TensorToWrite {
  const half = f32ToBf16(values);
  const exact = bf16ToF32(half).every((value, i) => value === values[i]);
  const bytes = exact ? half : new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
  return { name, dtype: exact ? 'BF16' : 'F32', shape: [values.length], bytes };
}

function huggingFaceConfig(config: ModelConfig): object {
  // 1bitLLM's graph is BitNet's with SiLU and other names, which `huggingFaceTensors` does not use.
  const isLlama = config.family === 'llama';
  return {
    architectures: [isLlama ? 'LlamaForCausalLM' : 'BitNetForCausalLM'],
    model_type: isLlama ? 'llama' : 'bitnet',
    hidden_size: config.hiddenSize,
    intermediate_size: config.intermediateSize,
    num_hidden_layers: config.numHiddenLayers,
    num_attention_heads: config.numAttentionHeads,
    num_key_value_heads: config.numKeyValueHeads,
    head_dim: config.headDim,
    vocab_size: config.vocabSize,
    max_position_embeddings: config.maxPositionEmbeddings,
    rope_theta: config.ropeTheta,
    rms_norm_eps: config.rmsNormEps,
    hidden_act: config.hiddenAct,
    tie_word_embeddings: config.tieWordEmbeddings,
    attention_bias: false,
    ...(config.bosTokenId !== undefined && { bos_token_id: config.bosTokenId }),
    ...(config.eosTokenIds.length > 0 && { eos_token_id: config.eosTokenIds }),
    torch_dtype: 'bfloat16',
    quantization_config: { quant_method: 'bitnet', linear_class: 'autobitlinear', quantization_mode: 'offline' },
  };
}

const TOKENIZER_FILES = [
  'tokenizer.json',
  'tokenizer.model',
  'tokenizer_config.json',
  'special_tokens_map.json',
  'added_tokens.json',
  'chat_template.jinja',
  'generation_config.json',
];

async function copyTokenizer(source: ModelFiles, target: string, notes: string[]): Promise<void> {
  if (source.kind === 'gguf') {
    using file = await GgufFile.open(source.path);
    if ((file.string('tokenizer.ggml.model') ?? 'none') === 'none') {
      notes.push('the source has no vocabulary, so the folder has no tokenizer');
      return;
    }
    const { tokenizer, config } = tokenizerFilesOf(file);
    await writeJson(join(target, 'tokenizer.json'), tokenizer);
    await writeJson(join(target, 'tokenizer_config.json'), config);
    return;
  }
  const from = folderOf(source);
  let copied = 0;
  for (const name of TOKENIZER_FILES) {
    if ((await stat(join(from, name)).catch(() => undefined)) === undefined) continue;
    await copyFile(join(from, name), join(target, name));
    copied += name.startsWith('tokenizer') ? 1 : 0;
  }
  if (copied === 0) notes.push('the source has no tokenizer files');
}

const folderOf = (source: ModelFiles) => (source.kind === 'folder' ? source.path : dirname(source.path));

async function writeJson(path: string, value: object): Promise<void> {
  await writeFile(path, `${JSON.stringify(value, undefined, 2)}\n`);
}

// ---- GGUF

const MATRIX_TYPES = { 'gguf-i2_s': 'I2_S', 'gguf-tq2_0': 'TQ2_0', 'gguf-tq1_0': 'TQ1_0' } as const;

/** Elements of a row that a block covers; I2_S runs through the whole matrix. */
const BLOCK = { I2_S: 128, TQ2_0: 256, TQ1_0: 256 } as const;

async function writeGgufModel(
  source: ModelFiles,
  target: string,
  format: keyof typeof MATRIX_TYPES,
  config: ModelConfig,
  weights: ModelWeights,
  notes: string[],
  options: WriteOptions,
): Promise<void> {
  const type = MATRIX_TYPES[format];
  const architecture = { bitnet: 'bitnet-b1.58', onebitllm: 'bitnet', llama: 'llama' }[config.family];
  if (config.family !== 'llama' && config.hiddenAct !== (config.family === 'bitnet' ? 'relu2' : 'silu')) {
    throw new ArgumentError({
      what: `GGUF cannot say that a ${config.family} model has the activation ${config.hiddenAct}`,
      where: source.path,
      fix: 'convert to hf instead',
    });
  }
  const metadata = [...modelPairs(config, architecture), ...(await vocabularyPairs(source, config, notes))];
  const tensors = [...ggufTensors(config, weights, type, architecture, notes)];
  await writeGguf(target, { metadata, tensors }, options);
}

function modelPairs(config: ModelConfig, architecture: string): GgufPair[] {
  const whole = (key: string, value: number): GgufPair => ({ key: `${architecture}.${key}`, type: 'u32', value });
  const float = (key: string, value: number): GgufPair => ({ key: `${architecture}.${key}`, type: 'f32', value });
  return [
    { key: 'general.architecture', type: 'string', value: architecture },
    { key: 'general.quantization_version', type: 'u32', value: 2 },
    whole('vocab_size', config.vocabSize),
    whole('context_length', config.maxPositionEmbeddings),
    whole('embedding_length', config.hiddenSize),
    whole('block_count', config.numHiddenLayers),
    whole('feed_forward_length', config.intermediateSize),
    whole('attention.head_count', config.numAttentionHeads),
    whole('attention.head_count_kv', config.numKeyValueHeads),
    whole('attention.key_length', config.headDim),
    whole('attention.value_length', config.headDim),
    whole('rope.dimension_count', config.headDim),
    float('attention.layer_norm_rms_epsilon', config.rmsNormEps),
    float('rope.freq_base', config.ropeTheta),
  ];
}

async function vocabularyPairs(source: ModelFiles, config: ModelConfig, notes: string[]): Promise<GgufPair[]> {
  if (source.kind === 'gguf') {
    using file = await GgufFile.open(source.path);
    return [...file.entries].filter(([key]) => key.startsWith('tokenizer.')).map(([key, { raw }]) => ({ key, raw }));
  }
  const folder = folderOf(source);
  if ((await stat(join(folder, 'tokenizer.json')).catch(() => undefined)) === undefined) {
    notes.push('the source has no tokenizer.json, so the file has no vocabulary');
    return [{ key: 'tokenizer.ggml.model', type: 'string', value: 'none' }];
  }
  return ggufVocabularyPairs(folder, await loadTokenizer(folder), config.vocabSize);
}

function* ggufTensors(
  config: ModelConfig,
  weights: ModelWeights,
  type: keyof typeof BLOCK,
  architecture: string,
  notes: string[],
): Generator<GgufTensorToWrite> {
  const names: WeightNames = GGUF_NAMES;
  const vector = (name: string, { values }: VectorWeight): GgufTensorToWrite => ({
    name,
    type: 'F32',
    shape: [values.length],
    bytes: new Uint8Array(values.buffer, values.byteOffset, values.byteLength),
  });
  const dense = (name: string, { dtype, rows, columns, bytes }: DenseWeight): GgufTensorToWrite => ({
    name,
    type: dtype.toUpperCase(),
    shape: [rows, columns],
    bytes,
  });
  yield dense(names.embedding, weights.embedding);
  yield vector(names.finalNorm, weights.finalNorm);
  if (!config.tieWordEmbeddings && weights.head.kind === 'dense') yield dense(names.head, weights.head);
  let rounded = 0;
  for (const [index, layer] of weights.layers.entries()) {
    for (const norm of NORMS) {
      const weight = layer[norm];
      if (weight !== undefined) yield vector(names.layer(index, names[norm]), weight);
    }
    for (const matrix of MATRICES) {
      const { rows, columns, scale } = layer[matrix];
      requireWholeBlocks(layer[matrix], type);
      const name = names.layer(index, names[matrix]);
      // TQ blocks hold their scale as f16. llama.cpp's bitnet graphs take a float32 factor beside the matrix.
      const isExact = type === 'I2_S' || f16ToF32(f32ToF16(Float32Array.of(scale)))[0] === scale;
      const beside = !isExact && architecture !== 'llama';
      if (!isExact && !beside) rounded += 1;
      const inside = beside ? 1 : scale;
      // Packed when it is written: all matrices at once would take much memory.
      const chunks = () => {
        const trits = ggufTrits(config, layer, matrix, architecture);
        if (type === 'I2_S') return [packI2s(trits, rows, columns, inside)];
        return [type === 'TQ2_0' ? packTq2(trits, inside) : packTq1(trits, inside)];
      };
      yield { name, type, shape: [rows, columns], chunks };
      if (beside) {
        const factor = new Uint8Array(Float32Array.of(scale).buffer);
        yield { name: name.replace(/\.weight$/, '.scale'), type: 'F32', shape: [1], bytes: factor };
      }
    }
  }
  if (rounded > 0) notes.push(`${rounded} scales were rounded to f16 (relative error up to 2^-11)`);
}

function requireWholeBlocks({ name, rows, columns }: TernaryWeight, type: keyof typeof BLOCK): void {
  if (type === 'I2_S' ? (rows * columns) % BLOCK[type] === 0 : columns % BLOCK[type] === 0) return;
  throw new ArgumentError({
    what: `${type} needs ${type === 'I2_S' ? `${BLOCK[type]} to divide the elements` : `rows of a multiple of ${BLOCK[type]}`}, this matrix is ${rows} x ${columns}`,
    where: name,
    fix: type === 'I2_S' ? 'convert to hf instead' : 'use --to gguf-i2_s or --to hf',
  });
}

/** A matrix's trits (rows, columns) in the order that llama.cpp's graph of the architecture wants. */
function ggufTrits(config: ModelConfig, layer: LayerWeights, matrix: MatrixName, architecture: string): Int8Array {
  const { rows, columns, bytes } = layer[matrix];
  const trits = unpackRowquad(bytes, rows, columns);
  if (architecture !== 'llama' || (matrix !== 'q' && matrix !== 'k')) return trits;
  const heads = matrix === 'q' ? config.numAttentionHeads : config.numKeyValueHeads;
  return interleavedHeads(trits, rows, columns, heads);
}
