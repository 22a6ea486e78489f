// How much memory a model takes, from its config and the sizes in its files, and whether a machine has it.

import { totalmem } from 'node:os';
import { BitnetError } from '../errors.ts';
import { MODEL_TENSORS, type Spelling, tensorsOf } from './graph.ts';
import { graphOf } from './graphs/all.ts';
import type { ModelConfig } from './model-config.ts';

/** Positions a program covers unless told otherwise, where the model allows more: bounds the RoPE tables and the cache. */
export const DEFAULT_CONTEXT_LENGTH = 4096;

export type ModelMemory = {
  /** Weights as the engine keeps them: codes of two bits with their scales, tables as the file has them. */
  readonly weightBytes: number;
  /** Of keys and values, for each token of a context. */
  readonly bytesPerToken: number;
  /** Of a sequence, whatever its length: recurrent states, and the caches of layers that see a window. */
  readonly stateBytes: number;
  /** Of tensors as the file has them, while they are repacked: the largest three. */
  readonly loadingBytes: number;
  /** Positions that a program covers unless told otherwise. */
  readonly contextLength: number;
  /** Weights, and the states and cache of a whole context. */
  readonly totalBytes: number;
};

/** A model is larger than the memory of this machine. */
export class ModelTooLargeError extends BitnetError {
  readonly code = 'MODEL_TOO_LARGE';
  readonly fault = 'job';
}

/** A code of two bits and its scale: an f16 for 128 columns or more, or, as in Q2_0 and where nothing tells, for 64. */
const CODE = 1 / 4;
const SCALE = { wide: 1 / 64, narrow: 1 / 32 } as const;
const WIDE: readonly string[] = ['PQ2_0', 'PTQ1_0', 'Q2_0_G128', 'Q1_0', 'TQ1_0', 'TQ2_0'];

/** Tensors that are read at once; see `FewAtOnce`. */
const READ_AT_ONCE = 3;

export type InfoOf = (name: string) => { readonly dtype: string; readonly byteLength: number } | undefined;

/** `infoOf`: of a tensor in the file. `int8Above`: heads of more bytes become int8. */
export function estimateMemory(
  config: ModelConfig,
  infoOf: InfoOf,
  spelling: Spelling,
  { int8Above = Infinity, contextLength }: { readonly int8Above?: number; readonly contextLength?: number } = {},
): ModelMemory {
  const graph = graphOf(config.family);
  const { hiddenSize, vocabSize, numHiddenLayers, numKeyValueHeads, headDim, deltaNet } = config;
  const perCode = (dtype: string | undefined) =>
    CODE + (dtype !== undefined && WIDE.includes(dtype) ? SCALE.wide : SCALE.narrow);
  const read: number[] = [];
  const tableBytes = (name: string): number => {
    const info = infoOf(name);
    if (info !== undefined) read.push(info.byteLength);
    const codes = vocabSize * hiddenSize * perCode(info?.dtype);
    const isTernary =
      graph.oneScale === 'int16' && (config.linearStorage === 'unpacked' || (info?.byteLength ?? 0) < 2 * codes);
    if (isTernary && info?.dtype !== 'Q4_K') return codes;
    return info === undefined || info.dtype === 'Q4_K' ? 2 * vocabSize * hiddenSize : info.byteLength;
  };
  const embedding = tableBytes(MODEL_TENSORS.embedding[spelling]);
  const ownHead = config.tieWordEmbeddings ? 0 : tableBytes(MODEL_TENSORS.head[spelling]);
  const head = (ownHead || embedding) > int8Above ? vocabSize * hiddenSize : ownHead;
  const layerBytes = (index: number): number =>
    tensorsOf(graph, config, index, spelling).reduce((sum, { tensor, name }) => {
      if (tensor.kind === 'vector') return sum + 4 * tensor.length(config);
      const [rows, columns] = tensor.shape(config);
      const info = infoOf(name);
      if (info !== undefined) read.push(info.byteLength);
      if (tensor.floats === true) return sum + (info?.byteLength ?? 4 * rows * columns);
      const count = rows * columns * (tensor.experts?.(config) ?? 1);
      return sum + count * (graph.oneScale === 'int8' ? CODE : perCode(info?.dtype));
    }, 0);
  let weightBytes = embedding + head;
  for (let index = 0; index < numHiddenLayers; index += 1) weightBytes += layerBytes(index);
  weightBytes = Math.round(weightBytes);

  const positions = contextLength ?? Math.min(DEFAULT_CONTEXT_LENGTH, config.maxPositionEmbeddings);
  const perPosition = 2 * 4 * numKeyValueHeads * headDim;
  const kinds = config.layerKinds ?? new Array<'attention'>(numHiddenLayers).fill('attention');
  const recurrent = kinds.filter((kind) => kind === 'recurrent').length;
  const windows = (config.windows ?? []).filter((size) => size > 0);
  const bytesPerToken = perPosition * (numHiddenLayers - recurrent - windows.length);
  let stateBytes = windows.reduce((sum, size) => sum + perPosition * Math.min(size, positions), 0);
  if (deltaNet !== undefined) {
    const { keyHeads, valueHeads, headDim: size, convTaps } = deltaNet;
    stateBytes += 4 * recurrent * (valueHeads * size * size + (convTaps - 1) * (2 * keyHeads + valueHeads) * size);
  }
  const loadingBytes = read
    .sort((a, b) => b - a)
    .slice(0, READ_AT_ONCE)
    .reduce((sum, bytes) => sum + bytes, 0);
  return {
    weightBytes,
    bytesPerToken,
    stateBytes,
    loadingBytes,
    contextLength: positions,
    totalBytes: weightBytes + stateBytes + bytesPerToken * positions,
  };
}

export const gigabytes = (bytes: number) => `${(bytes / 1e9).toFixed(bytes < 1e10 ? 1 : 0)} GB`;

/** Memory that this process may have, of the machine or of its container. */
export function machineBytes(): number {
  const limit = process.constrainedMemory() ?? 0;
  return limit > 0 && limit < totalmem() ? limit : totalmem();
}

/** Throws ModelTooLargeError for a model that this much memory cannot hold, with what would do. */
export function requireRoom(memory: ModelMemory, where: string, bytes = machineBytes()): void {
  const { weightBytes, stateBytes, bytesPerToken, contextLength, totalBytes } = memory;
  if (totalBytes <= bytes) return;
  const cache = gigabytes(stateBytes + bytesPerToken * contextLength);
  const room = bytes - weightBytes - stateBytes;
  const fitting = bytesPerToken > 0 && room > 0 ? Math.floor(room / bytesPerToken / 256) * 256 : 0;
  throw new ModelTooLargeError({
    what: `the model takes ${gigabytes(weightBytes)} for weights and ${cache} for ${contextLength.toLocaleString('en')} tokens, and there are ${gigabytes(bytes)} of memory`,
    where,
    fix:
      fitting > 0
        ? `take a context of at most ${fitting.toLocaleString('en')} tokens`
        : 'take a smaller model (Ternary Bonsai 8B takes 2.4 GB, 1.7B takes 0.5 GB) or a machine with more memory',
  });
}
