// `convert`: a model we can open, written in another format. Trits are copied, never requantized; a scale that the target
// would round is kept exact beside the matrix where the format has a place for it, and refused where it has none.

import { copyFile, rm, stat, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { DenseWeight, TernaryWeight, VectorWeight } from '../engine/program.ts';
import { weightPreparation } from '../engine/select.ts';
import { ArgumentError } from '../errors.ts';
import type { WriteOptions } from '../formats/atomic-file.ts';
import { GgufFile } from '../formats/gguf-file.ts';
import { makeFolder } from '../formats/make-folder.ts';
import { renameOver } from '../formats/rename-over.ts';
import { type GgufPair, type GgufTensorToWrite, writeGguf } from '../formats/write-gguf.ts';
import { type TensorToWrite, writeSafetensors } from '../formats/write-safetensors.ts';
import { bf16ToF32, f32ToBf16 } from '../quant/bf16.ts';
import { f16ToF32, f32ToF16 } from '../quant/f16.ts';
import { encodeBlocks } from '../quant/grouped/codec.ts';
import { type GroupedRows, regroup } from '../quant/grouped/grouped-matrix.ts';
import { encodeMlx } from '../quant/grouped/mlx.ts';
import { fromPanel64 } from '../quant/grouped/panel64.ts';
import { packQuads, quadRowBytes } from '../quant/grouped/quads.ts';
import { encodeUnpacked } from '../quant/grouped/unpacked.ts';
import { packI2s } from '../quant/i2s.ts';
import { unpackRowquad } from '../quant/rowquad.ts';
import { packTq1 } from '../quant/tq1.ts';
import { packTq2 } from '../quant/tq2.ts';
import type { Dtype } from '../tensor/tensor-view.ts';
import { companionFiles } from '../tokenizer/companion-files.ts';
import { ggufVocabularyPairs, tokenizerFilesOf } from '../tokenizer/export-vocabulary.ts';
import { loadTokenizer } from '../tokenizer/load-tokenizer.ts';
import { type ConvertFormat, type FolderFormat, isFolderFormat } from './convert-formats.ts';
import { expertRows, refuseFolders, specialPairs } from './convert-hybrid.ts';
import { ggufConfig } from './gguf-config.ts';
import { type Graph, MODEL_TENSORS, type TensorSpec, tensorsOf } from './graph.ts';
import { graphOf } from './graphs/all.ts';
import { interleavedHeads, interleavedRow } from './interleaved-heads.ts';
import type { ModelConfig } from './model-config.ts';
import type { LinearWeight, ModelWeights, TableWeight } from './model-weights.ts';
import { type ModelFiles, openWeights, readModelConfig } from './open-model.ts';

export type { ConvertFormat } from './convert-formats.ts';

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

/** Writes the model at `source` as `target`: a folder for `hf`, a file for GGUF. An existing target is refused. */
export async function convertModel(
  source: ModelFiles,
  target: string,
  options: ConvertOptions = {},
): Promise<ConvertReport> {
  if ((await stat(target).catch(() => undefined)) !== undefined) {
    throw new ArgumentError({
      what: 'the target exists',
      where: target,
      fix: 'choose another name or remove it first',
    });
  }
  const { onProgress, signal } = options;
  const toFolder = options.to === undefined ? !target.toLowerCase().endsWith('.gguf') : isFolderFormat(options.to);
  refuseFolders(source, toFolder, await readConfig(source));
  const cancellable = signal === undefined ? {} : { signal };
  const { config, weights, warnings } = await openWeights(source, {
    head: 'full',
    prepare: weightPreparation,
    onLayer: (done, total) => onProgress?.(done, 2 * total, `reading layer ${done} of ${total}`),
    ...cancellable,
  });
  const write: WriteOptions = {
    // Reading was the first half.
    onTensor: (done, total) => onProgress?.(total + done, 2 * total, `writing tensor ${done} of ${total}`),
    ...cancellable,
  };
  const format = options.to ?? defaultFormat(target, weights);
  const notes = [...warnings];
  if (isFolderFormat(format)) await writeFolder(source, target, format, config, weights, notes, write);
  else await writeGgufModel(source, target, format, config, weights, notes, write);
  const file = isFolderFormat(format) ? join(target, 'model.safetensors') : target;
  return { format, path: target, sizeBytes: (await stat(file)).size, notes };
}

/** The config alone. */
async function readConfig(source: ModelFiles): Promise<ModelConfig> {
  if (source.kind === 'gguf') {
    using file = await GgufFile.open(source.path);
    return ggufConfig(file);
  }
  return readModelConfig(folderOf(source));
}

function defaultFormat(target: string, weights: ModelWeights): ConvertFormat {
  const isGrouped = Object.values(weights.layers[0]!).some((weight) => weight?.kind === 'grouped');
  if (target.toLowerCase().endsWith('.gguf')) return isGrouped ? 'gguf-q2_0' : 'gguf-i2_s';
  return isGrouped ? 'hf-unpacked' : 'hf';
}

/** Every tensor of the layers, by its row in the graph's table and its name in the format. */
function* layerTensors(
  config: ModelConfig,
  weights: ModelWeights,
  spelling: 'hf' | 'gguf',
  graph = graphOf(config.family),
) {
  for (const [index, layer] of weights.layers.entries()) {
    for (const { tensor, name } of tensorsOf(graph, config, index, spelling)) {
      const weight = layer[tensor.role];
      if (weight !== undefined) yield { tensor, weight, name };
    }
  }
}

/** Codes and scales of a ternary matrix, one scale a matrix or several. */
function groupedRowsOf(weight: Exclude<LinearWeight, DenseWeight>): GroupedRows {
  if (weight.kind === 'grouped') {
    return weight.experts === undefined ? fromPanel64(weight) : expertRows(weight, weight.experts);
  }
  const { rows, columns, scale } = weight;
  const codes = Uint8Array.from(unpackRowquad(weight.bytes, rows, columns), (trit) => trit + 1);
  return {
    rows,
    columns,
    group: columns,
    quads: packQuads(codes, rows, columns),
    scales: new Float32Array(rows).fill(scale),
  };
}

// ---- Hugging Face folder

async function writeFolder(
  source: ModelFiles,
  target: string,
  format: FolderFormat,
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
    const group = format === 'mlx' ? mlxGroup(weights) : 0;
    const tensors = huggingFaceTensors(config, weights, format, group);
    await writeSafetensors(join(building, 'model.safetensors'), tensors, { format: 'pt' }, options);
    await writeJson(join(building, 'config.json'), huggingFaceConfig(config, format, group));
    await copyTokenizer(source, building, notes);
    await renameOver(building, target);
  } catch (error) {
    await rm(building, { recursive: true, force: true });
    throw error;
  }
}

/** Folders are written in Hugging Face's names of BitNet also where the source had 1bitLLM's. */
const writtenGraph = (config: ModelConfig): Graph => graphOf(config.family === 'onebitllm' ? 'bitnet' : config.family);

function* huggingFaceTensors(
  config: ModelConfig,
  weights: ModelWeights,
  format: FolderFormat,
  group: number,
): Generator<TensorToWrite> {
  const { embedding, finalNorm, head } = MODEL_TENSORS;
  yield* huggingFaceMatrix(embedding.hf, weights.embedding, format, group);
  yield smallest(finalNorm.hf, weights.finalNorm.values);
  if (!config.tieWordEmbeddings && weights.head.kind !== 'int8') {
    yield* huggingFaceMatrix(head.hf, weights.head, format, group);
  }
  for (const { weight, name } of layerTensors(config, weights, 'hf', writtenGraph(config))) {
    if (weight.kind === 'vector') yield smallest(name, weight.values);
    else yield* huggingFaceMatrix(name, weight, format, group);
  }
}

function* huggingFaceMatrix(
  name: string,
  weight: LinearWeight | TableWeight,
  format: FolderFormat,
  group: number,
): Generator<TensorToWrite> {
  const { rows, columns } = weight;
  const shape = [rows, columns];
  if (weight.kind === 'dense') {
    yield { name, dtype: weight.dtype.toUpperCase() as Dtype, shape, bytes: weight.bytes };
    return;
  }
  if (format === 'mlx') {
    yield* mlxPack(name, weight, group);
    return;
  }
  if (weight.kind === 'ternary') {
    const isPacked = format === 'hf';
    yield isPacked
      ? { name, dtype: 'U8', shape: [Math.ceil(rows / 4), columns], bytes: weight.bytes }
      : { name, dtype: 'BF16', shape, bytes: f32ToBf16(Float32Array.from(unpackRowquad(weight.bytes, rows, columns))) };
    yield smallest(`${name}_scale`, Float32Array.of(weight.scale));
    return;
  }
  if (format === 'hf') {
    throw new ArgumentError({
      what: 'a matrix with a scale for each group of columns does not fit the packed BitNet layout, which has one',
      where: name,
      fix: 'use --to hf-unpacked, mlx, gguf-q2_0 or gguf-pq2_0',
    });
  }
  const dtype = weight.scaleType === 'f16' ? 'F16' : 'F32';
  yield { name, dtype, shape, bytes: encodeUnpacked(groupedRowsOf(weight), dtype, { at: { tensor: name } }) };
}

/** The columns of a group that all ternary matrices of a model can have in MLX's packs. */
function mlxGroup(weights: ModelWeights): number {
  const matrices = [weights.embedding, ...weights.layers.flatMap((layer) => Object.values(layer))].filter(
    (weight) => weight?.kind === 'grouped' || weight?.kind === 'ternary',
  );
  const group = [128, 64, 32].find((size) =>
    matrices.every((weight) => {
      if (weight?.kind !== 'grouped') return weight?.kind !== 'ternary' || weight.columns % size === 0;
      return weight.columns % size === 0 && weight.group % size === 0;
    }),
  );
  if (group !== undefined) return group;
  throw new ArgumentError({
    what: 'the groups of columns of this model fit none of 128, 64 and 32, which MLX has',
    fix: 'use --to hf-unpacked',
  });
}

function* mlxPack(name: string, weight: Exclude<LinearWeight, DenseWeight>, group: number): Generator<TensorToWrite> {
  const rows = regroup(groupedRowsOf(weight), group);
  const pack = rows && encodeMlx(rows, 2);
  if (pack === undefined) {
    throw new ArgumentError({
      what: `the scales are no f16 numbers in groups of ${group}, as MLX's packs need them here`,
      where: name,
      fix: 'use --to hf-unpacked',
    });
  }
  const module = name.replace(/\.weight$/, '');
  const shape = [weight.rows, weight.columns / group];
  yield { name, dtype: 'U32', shape: [weight.rows, weight.columns / 16], bytes: pack.weight };
  yield { name: `${module}.scales`, dtype: 'F16', shape, bytes: pack.scales };
  yield { name: `${module}.biases`, dtype: 'F16', shape, bytes: pack.biases };
}

/** As BF16 where that loses nothing, else F32. */
function smallest(name: string, values: Float32Array): TensorToWrite {
  const half = f32ToBf16(values);
  const exact = bf16ToF32(half).every((value, i) => value === values[i]);
  const bytes = exact ? half : new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
  return { name, dtype: exact ? 'BF16' : 'F32', shape: [values.length], bytes };
}

function huggingFaceConfig(config: ModelConfig, format: FolderFormat, group: number): object {
  const graph = writtenGraph(config);
  const { ropeScaling: scaling } = config;
  const isBitNet = graph.oneScale === 'int8';
  return {
    architectures: [graph.hf.architectures[0]],
    model_type: graph.family,
    hidden_size: config.hiddenSize,
    intermediate_size: config.intermediateSize,
    num_hidden_layers: config.numHiddenLayers,
    num_attention_heads: config.numAttentionHeads,
    num_key_value_heads: config.numKeyValueHeads,
    head_dim: config.headDim,
    vocab_size: config.vocabSize,
    max_position_embeddings: config.maxPositionEmbeddings,
    rope_theta: config.ropeTheta,
    ...(scaling !== undefined && { rope_scaling: huggingFaceScaling(scaling) }),
    rms_norm_eps: config.rmsNormEps,
    hidden_act: config.hiddenAct,
    tie_word_embeddings: config.tieWordEmbeddings,
    attention_bias: false,
    ...(config.bosTokenId !== undefined && { bos_token_id: config.bosTokenId }),
    ...(config.eosTokenIds.length > 0 && { eos_token_id: config.eosTokenIds }),
    torch_dtype: isBitNet ? 'bfloat16' : 'float16',
    ...(format === 'mlx' && { quantization: { group_size: group, bits: 2 } }),
    ...(format !== 'mlx' &&
      isBitNet && {
        quantization_config: { quant_method: 'bitnet', linear_class: 'autobitlinear', quantization_mode: 'offline' },
      }),
  };
}

function huggingFaceScaling(scaling: NonNullable<ModelConfig['ropeScaling']>): object {
  if (scaling.type === 'linear') return { rope_type: 'linear', factor: scaling.factor };
  const { factor, originalContext, betaFast, betaSlow, attentionFactor } = scaling;
  return {
    rope_type: 'yarn',
    factor,
    original_max_position_embeddings: originalContext,
    beta_fast: betaFast,
    beta_slow: betaSlow,
    ...(attentionFactor !== undefined && { attention_factor: attentionFactor }),
  };
}

async function copyTokenizer(source: ModelFiles, target: string, notes: string[]): Promise<void> {
  if (source.kind === 'gguf') {
    using file = await GgufFile.open(source.path);
    if ((file.string('tokenizer.ggml.model') ?? 'none') === 'none') {
      notes.push('the source has no vocabulary, so the folder has no tokenizer');
      return;
    }
    const { tokenizer, config, warnings } = tokenizerFilesOf(file);
    // What was guessed here looks certain in the folder.
    notes.push(...warnings);
    await writeJson(join(target, 'tokenizer.json'), tokenizer);
    await writeJson(join(target, 'tokenizer_config.json'), config);
    return;
  }
  const from = folderOf(source);
  let copied = 0;
  for (const parts of await companionFiles(from)) {
    const to = join(target, ...parts);
    if (parts.length > 1) await makeFolder(dirname(to));
    await copyFile(join(from, ...parts), to);
    copied += parts[0]!.startsWith('tokenizer') ? 1 : 0;
  }
  if (copied === 0) notes.push('the source has no tokenizer files');
}

const folderOf = (source: ModelFiles) => (source.kind === 'folder' ? source.path : dirname(source.path));

async function writeJson(path: string, value: object): Promise<void> {
  await writeFile(path, `${JSON.stringify(value, undefined, 2)}\n`);
}

// ---- GGUF

const MATRIX_TYPES = {
  'gguf-i2_s': 'I2_S',
  'gguf-tq2_0': 'TQ2_0',
  'gguf-tq1_0': 'TQ1_0',
  'gguf-q2_0': 'Q2_0',
  'gguf-pq2_0': 'PQ2_0',
  'gguf-ptq1_0': 'PTQ1_0',
} as const;
type MatrixType = (typeof MATRIX_TYPES)[keyof typeof MATRIX_TYPES];

/** Elements of a row that a block covers; I2_S runs through the whole matrix. */
const BLOCK = { I2_S: 128, TQ2_0: 256, TQ1_0: 256, Q2_0: 64, PQ2_0: 128, PTQ1_0: 128 } as const;

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
  const graph = graphOf(config.family);
  if (config.hiddenAct !== graph.defaults.hiddenAct && config.family !== 'llama') {
    throw new ArgumentError({
      what: `GGUF cannot say that a ${config.family} model has the activation ${config.hiddenAct}`,
      where: source.path,
      fix: 'convert to hf instead',
    });
  }
  const architecture = graph.gguf.architectures[0]!;
  notes.push(...readerNotes(type, architecture, config));
  const own = (await specialPairs(source, config, notes)) ?? modelPairs(config, architecture);
  const metadata = [...own, ...(await vocabularyPairs(source, config, notes))];
  const tensors = [...ggufTensors(config, weights, type, graph, notes)];
  await writeGguf(target, { metadata, tensors }, options);
}

/** Who reads the file, where that is not everybody. */
function readerNotes(type: MatrixType, architecture: string, config: ModelConfig): string[] {
  const notes: string[] = [];
  if (type === 'PQ2_0' || type === 'PTQ1_0') {
    notes.push(
      `${type} is read by PrismML's fork of llama.cpp and by this program; upstream llama.cpp takes gguf-q2_0`,
    );
  }
  if (type === 'I2_S') notes.push('I2_S is read by bitnet.cpp and by this program; upstream llama.cpp takes gguf-q2_0');
  if (architecture === 'bitnet-b1.58') {
    notes.push(
      'architecture "bitnet-b1.58" is read by bitnet.cpp and by this program; upstream llama.cpp does not know it',
    );
  }
  if (architecture === 'bitnet' && !config.tieWordEmbeddings) {
    notes.push(
      'llama.cpp refuses this file: the head of its architecture "bitnet" is always the embedding, and this model has one of its own; this program reads it',
    );
  }
  return notes;
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
    ...scalingPairs(config.ropeScaling, architecture, float, whole),
  ];
}

function scalingPairs(
  scaling: ModelConfig['ropeScaling'],
  architecture: string,
  float: (key: string, value: number) => GgufPair,
  whole: (key: string, value: number) => GgufPair,
): GgufPair[] {
  if (scaling === undefined) return [];
  const type: GgufPair = { key: `${architecture}.rope.scaling.type`, type: 'string', value: scaling.type };
  const pairs = [type, float('rope.scaling.factor', scaling.factor)];
  if (scaling.type === 'linear') return pairs;
  pairs.push(whole('rope.scaling.original_context_length', scaling.originalContext));
  if (scaling.betaFast !== 32) pairs.push(float('rope.scaling.yarn_beta_fast', scaling.betaFast));
  if (scaling.betaSlow !== 1) pairs.push(float('rope.scaling.yarn_beta_slow', scaling.betaSlow));
  if (scaling.attentionFactor !== undefined) {
    const times = scaling.attentionFactor / (0.1 * Math.log(scaling.factor) + 1);
    pairs.push(float('rope.scaling.attn_factor', times));
  }
  return pairs;
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
  type: MatrixType,
  graph: Graph,
  notes: string[],
): Generator<GgufTensorToWrite> {
  const { embedding, finalNorm, head } = MODEL_TENSORS;
  let rounded = 0;
  const context = { type, graph, config, onRounded: () => (rounded += 1) };
  yield* ggufMatrix(embedding.gguf, weights.embedding, context);
  yield floatVector(finalNorm.gguf, weights.finalNorm);
  if (!config.tieWordEmbeddings && weights.head.kind !== 'int8') yield* ggufMatrix(head.gguf, weights.head, context);
  for (const { tensor, weight, name } of layerTensors(config, weights, 'gguf')) {
    if (weight.kind === 'vector') yield floatVector(name, weight, tensor, config);
    else yield* ggufMatrix(name, weight, context, tensor);
  }
  if (rounded > 0) notes.push(`${rounded} scales were rounded to f16 (relative error up to 2^-11)`);
}

function floatVector(name: string, weight: VectorWeight, tensor?: TensorSpec, config?: ModelConfig): GgufTensorToWrite {
  const stored = tensor?.kind === 'vector' && config !== undefined ? tensor.inGguf?.(weight.values, config) : undefined;
  const { shape, values } = stored ?? { shape: [weight.values.length], values: weight.values };
  return { name, type: 'F32', shape, bytes: new Uint8Array(values.buffer, values.byteOffset, values.byteLength) };
}

type GgufContext = {
  readonly type: MatrixType;
  readonly graph: Graph;
  readonly config: ModelConfig;
  readonly onRounded: () => void;
};

function* ggufMatrix(
  name: string,
  weight: LinearWeight | TableWeight,
  context: GgufContext,
  tensor?: TensorSpec,
): Generator<GgufTensorToWrite> {
  const { type, graph, config } = context;
  const { rows, columns } = weight;
  const shape = [rows, columns];
  // The row of ours that becomes the file's: files of architecture "llama" hold the heads of q and k interleaved.
  const heads = graph.gguf.interleavedHeads && tensor?.kind === 'matrix' ? tensor.heads?.(config) : undefined;
  if (weight.kind === 'dense') {
    if (heads !== undefined)
      throw new ArgumentError({ what: 'q and k as floats are not converted to GGUF', where: name });
    yield { name, type: weight.dtype.toUpperCase(), shape, bytes: weight.bytes };
    return;
  }
  requireWholeBlocks(name, weight, type);
  if (weight.kind === 'grouped') {
    const { experts } = weight;
    const whole = experts === undefined ? shape : [experts, ...shape];
    yield { name, type, shape: whole, chunks: () => [groupedBlocks(name, weight, type, heads)] };
    return;
  }
  const { scale } = weight;
  // Blocks hold their scale as f16. llama.cpp's bitnet graphs take a float32 factor beside the matrix.
  const isExact = type === 'I2_S' || f16ToF32(f32ToF16(Float32Array.of(scale)))[0] === scale;
  const beside = !isExact && graph.family !== 'llama';
  if (!isExact && !beside) context.onRounded();
  const inside = beside ? 1 : type === 'I2_S' ? scale : f16ToF32(f32ToF16(Float32Array.of(scale)))[0]!;
  // Packed when it is written: all matrices at once would take much memory.
  yield { name, type, shape, chunks: () => [ternaryBlocks(name, weight, type, inside, heads)] };
  if (beside) {
    const factor = new Uint8Array(Float32Array.of(scale).buffer);
    yield { name: name.replace(/\.weight$/, '.scale'), type: 'F32', shape: [1], bytes: factor };
  }
}

function ternaryBlocks(
  name: string,
  { rows, columns, bytes }: TernaryWeight,
  type: MatrixType,
  scale: number,
  heads: number | undefined,
): Uint8Array {
  const own = unpackRowquad(bytes, rows, columns);
  const trits = heads === undefined ? own : interleavedHeads(own, rows, columns, heads);
  if (type === 'I2_S') return packI2s(trits, rows, columns, scale);
  if (type === 'TQ2_0') return packTq2(trits, scale);
  if (type === 'TQ1_0') return packTq1(trits, scale);
  const group = BLOCK[type];
  const codes = Uint8Array.from(trits, (trit) => trit + 1);
  const scales = new Float32Array((rows * columns) / group).fill(scale);
  const matrix = { rows, columns, group, quads: packQuads(codes, rows, columns), scales };
  return encodeBlocks(type, matrix, { at: { tensor: name } });
}

function groupedBlocks(
  name: string,
  weight: Exclude<LinearWeight, DenseWeight>,
  type: MatrixType,
  heads: number | undefined,
): Uint8Array {
  const own = groupedRowsOf(weight);
  if (type === 'I2_S') throw severalScales(name, type);
  const matrix = regroup(heads === undefined ? own : interleavedRows(own, heads), BLOCK[type]);
  if (matrix === undefined) throw severalScales(name, type);
  return encodeBlocks(type, matrix, { at: { tensor: name } });
}

const severalScales = (name: string, type: MatrixType) =>
  new ArgumentError({
    what: `${type} cannot hold the scales of this matrix, which change within its blocks`,
    where: name,
    fix: 'use --to gguf-q2_0 or --to hf-unpacked',
  });

function requireWholeBlocks(name: string, { rows, columns, kind }: LinearWeight, type: MatrixType): void {
  const divides =
    type === 'I2_S' ? kind === 'grouped' || (rows * columns) % BLOCK[type] === 0 : columns % BLOCK[type] === 0;
  if (divides) return;
  throw new ArgumentError({
    what: `${type} needs ${type === 'I2_S' ? `${BLOCK[type]} to divide the elements` : `rows of a multiple of ${BLOCK[type]}`}, this matrix is ${rows} x ${columns}`,
    where: name,
    fix:
      type === 'I2_S'
        ? 'convert to hf instead'
        : 'use --to gguf-q2_0 (rows of a multiple of 64), --to gguf-i2_s or --to hf-unpacked',
  });
}

function interleavedRows(matrix: GroupedRows, heads: number): GroupedRows {
  const { rows, columns, group } = matrix;
  const place = interleavedRow(rows / heads);
  const rowBytes = quadRowBytes(columns);
  const perRow = columns / group;
  const quads = new Uint8Array(matrix.quads.length);
  const scales = new Float32Array(matrix.scales.length);
  for (let row = 0; row < rows; row += 1) {
    quads.set(matrix.quads.subarray(row * rowBytes, (row + 1) * rowBytes), place(row) * rowBytes);
    scales.set(matrix.scales.subarray(row * perRow, (row + 1) * perRow), place(row) * perRow);
  }
  return { ...matrix, quads, scales };
}
