// How much memory a model will take, told before anything is read: from its config and the sizes in its files.

import { freemem, totalmem } from 'node:os';
import { dirname } from 'node:path';
import { GgufFile } from '../formats/gguf-file.ts';
import { openCheckpoint } from '../formats/open-checkpoint.ts';
import { ggufConfig } from './gguf-config.ts';
import { MODEL_TENSORS } from './graph.ts';
import { graphOf } from './graphs/all.ts';
import type { ModelConfig } from './model-config.ts';
import { DEFAULT_CONTEXT_LENGTH, type ModelFiles, readModelConfig } from './open-model.ts';

export type ModelMemory = {
  /** Weights as the engine keeps them: codes of two bits with their scales, tables as the file has them. */
  readonly weightBytes: number;
  /** Of keys and values, for each token of a context. */
  readonly bytesPerToken: number;
  /** Positions that a program covers unless told otherwise. */
  readonly contextLength: number;
  /** Weights, and the cache of a whole context. */
  readonly totalBytes: number;
};

/** A code of two bits, and the largest share of a scale: an f16 for 64 columns, or an f32 for 128. */
const BYTES_PER_CODE = 1 / 4 + 1 / 32;

/** Reads headers only. Throws what opening the files throws. `int8Above`: heads of more bytes become int8. */
export async function memoryOf(files: ModelFiles, { int8Above = Infinity } = {}): Promise<ModelMemory> {
  if (files.kind === 'gguf') {
    using file = await GgufFile.open(files.path);
    return estimate(ggufConfig(file), (name) => (file.has(name) ? file.info(name) : undefined), 'gguf', int8Above);
  }
  const config = await readModelConfig(files.kind === 'folder' ? files.path : dirname(files.path));
  using checkpoint = await openCheckpoint(files.path);
  const infoOf = (name: string) => (checkpoint.has(name) ? checkpoint.info(name) : undefined);
  return estimate(config, infoOf, 'hf', int8Above);
}

function estimate(
  config: ModelConfig,
  infoOf: (name: string) => { readonly dtype: string; readonly byteLength: number } | undefined,
  spelling: 'hf' | 'gguf',
  int8Above: number,
): ModelMemory {
  const { layer, oneScale } = graphOf(config.family);
  const { hiddenSize, vocabSize, numHiddenLayers, numKeyValueHeads, headDim } = config;
  const tableBytes = (name: string): number => {
    const info = infoOf(name);
    const codes = vocabSize * hiddenSize * BYTES_PER_CODE;
    const isTernary =
      oneScale === 'int16' && (config.linearStorage === 'unpacked' || (info?.byteLength ?? 0) < 2 * codes);
    return isTernary ? codes : (info?.byteLength ?? 2 * vocabSize * hiddenSize);
  };
  const embedding = tableBytes(MODEL_TENSORS.embedding[spelling]);
  const ownHead = config.tieWordEmbeddings ? 0 : tableBytes(MODEL_TENSORS.head[spelling]);
  const head = (ownHead || embedding) > int8Above ? vocabSize * hiddenSize : ownHead;
  const perLayer = layer.reduce((sum, tensor) => {
    if (tensor.kind === 'vector') return sum + 4 * tensor.length(config);
    const [rows, columns] = tensor.shape(config);
    return sum + rows * columns * (oneScale === 'int8' ? 1 / 4 : BYTES_PER_CODE);
  }, 0);
  const weightBytes = Math.round(embedding + head + numHiddenLayers * perLayer);
  const bytesPerToken = 2 * 4 * numHiddenLayers * numKeyValueHeads * headDim;
  const contextLength = Math.min(DEFAULT_CONTEXT_LENGTH, config.maxPositionEmbeddings);
  return { weightBytes, bytesPerToken, contextLength, totalBytes: weightBytes + bytesPerToken * contextLength };
}

const gigabytes = (bytes: number) => `${(bytes / 1e9).toFixed(bytes < 1e10 ? 1 : 0)} GB`;

/** "1.7 GB for weights, 0.9 GB more at 4,096 tokens; 14 GB of 25 GB are free". */
export function memoryLine({ weightBytes, bytesPerToken, contextLength }: ModelMemory): string {
  const cache = gigabytes(bytesPerToken * contextLength);
  return (
    `${gigabytes(weightBytes)} for weights, ${cache} more at ${contextLength.toLocaleString('en')} tokens; ` +
    `${gigabytes(freemem())} of ${gigabytes(totalmem())} are free`
  );
}
