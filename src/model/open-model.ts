// A model opened for the engine: config, weights, and the program recorded from them.

import { basename, dirname, join } from 'node:path';
import type { Program } from '../engine/program.ts';
import type { Checkpoint } from '../formats/checkpoint.ts';
import { GgufFile } from '../formats/gguf-file.ts';
import { ggufWarning } from '../formats/gguf-kind.ts';
import { openCheckpoint } from '../formats/open-checkpoint.ts';
import type { OpenOptions } from '../formats/random-access-file.ts';
import { ConfigError, parseConfig } from './config.ts';
import { readConfigBytes } from './config-bytes.ts';
import { ggufConfig } from './gguf-config.ts';
import { loadGgufWeights } from './gguf-weights.ts';
import type { Spelling } from './graph.ts';
import { graphOf } from './graphs/all.ts';
import { loadWeights } from './hugging-face-weights.ts';
import { DEFAULT_CONTEXT_LENGTH, estimateMemory, requireRoom } from './memory-estimate.ts';
import type { ModelConfig } from './model-config.ts';
import type { ModelWeights } from './model-weights.ts';
import { recordProgram } from './record.ts';
import { RenamedCheckpoint } from './renamed-checkpoint.ts';
import { withPackRotation } from './rotated-pack.ts';
import type { LoadWeightsOptions } from './weight-reader.ts';

type RoomOptions = {
  /** Default: the model's own, at most 4096. */
  readonly contextLength?: number;
  /** Memory that there is; default: the machine's. */
  readonly memoryBytes?: number;
};

export type OpenModelOptions = LoadWeightsOptions &
  RoomOptions & {
    /** For messages and results. */
    readonly name: string;
  };

export type OpenedModel = {
  readonly config: ModelConfig;
  readonly program: Program;
  /** What the output head became. */
  readonly head: 'full' | 'int8';
  /** What a person should know of the file. */
  readonly warnings: readonly string[];
};

export async function readModelConfig(folder: string): Promise<ModelConfig> {
  const text = await readConfigBytes(folder);
  if (text === undefined) {
    const fix = 'give a folder in Hugging Face layout: config.json beside the weights';
    throw new ConfigError({ what: 'there is no config.json', where: folder, fix });
  }
  return parseConfig(text, join(folder, 'config.json'));
}

/**
 * Opens a folder in Hugging Face layout, a .safetensors file beside its config.json, or a .gguf file, and records its
 * program. Throws `ConfigError`, `WeightError`, and what reading the file throws.
 */
export async function openModel(location: ModelFiles, options: OpenModelOptions): Promise<OpenedModel> {
  const { config, weights, warnings } = await openWeights(location, options);
  const contextLength = contextOf(config, options.contextLength);
  return {
    config,
    program: recordProgram(config, weights, { name: options.name, contextLength }),
    head: weights.head.kind === 'int8' ? 'int8' : 'full',
    warnings,
  };
}

const contextOf = (config: ModelConfig, asked = DEFAULT_CONTEXT_LENGTH) =>
  Math.min(asked, config.maxPositionEmbeddings);

/** The config and weights alone. Throws ModelTooLargeError before it reads them. */
export async function openWeights(
  location: ModelFiles,
  options: LoadWeightsOptions & RoomOptions,
): Promise<{ readonly config: ModelConfig; readonly weights: ModelWeights; readonly warnings: readonly string[] }> {
  if (location.kind === 'gguf') {
    using file = await GgufFile.open(location.path, { readAhead: true });
    const config = ggufConfig(file);
    const drafts = (config.draftBlocks ?? 0) > 0 ? 'blocks that only draft tokens (MTP) are left alone' : undefined;
    const found = [ggufWarning(file), drafts].filter((word) => word !== undefined);
    const warnings = found.map((word) => `${basename(location.path)}: ${word}`);
    requireItsRoom(config, file, 'gguf', options);
    return { config, weights: await loadGgufWeights(file, config, options), warnings };
  }
  const { config, checkpoint, words } = await openFolder(location, { readAhead: true });
  using _ = checkpoint;
  const warnings = words.map((word) => `${basename(location.path)}: it has ${word}`);
  requireItsRoom(config, checkpoint, 'hf', options);
  return { config, weights: await loadWeights(checkpoint, config, options), warnings };
}

function requireItsRoom(
  config: ModelConfig,
  checkpoint: Checkpoint,
  spelling: Spelling,
  { contextLength, memoryBytes, head }: LoadWeightsOptions & RoomOptions,
): void {
  const infoOf = (name: string) => (checkpoint.has(name) ? checkpoint.info(name) : undefined);
  const int8Above = typeof head === 'object' ? head.int8Above : head === 'int8' ? -1 : Infinity;
  const memory = estimateMemory(config, infoOf, spelling, {
    int8Above,
    contextLength: contextOf(config, contextLength),
  });
  requireRoom(memory, checkpoint.path, memoryBytes);
}

/** A folder's config, and its tensors by the names of its graph. Dispose the checkpoint. */
export async function openFolder(
  location: ModelFiles,
  options: OpenOptions = {},
): Promise<{ readonly config: ModelConfig; readonly checkpoint: Checkpoint; readonly words: readonly string[] }> {
  const folder = location.kind === 'folder' ? location.path : dirname(location.path);
  const config = await readModelConfig(folder);
  const inner = await openCheckpoint(location.path, options);
  try {
    const checkpoint = new RenamedCheckpoint(inner, graphOf(config.family).hf);
    const { words } = checkpoint;
    if (config.rotatedPack === undefined) return { config, checkpoint, words };
    return { config: await withPackRotation(config, checkpoint, folder), checkpoint, words };
  } catch (error) {
    inner[Symbol.dispose]();
    throw error;
  }
}

export type ModelFiles = { readonly kind: 'folder' | 'safetensors' | 'gguf'; readonly path: string };
