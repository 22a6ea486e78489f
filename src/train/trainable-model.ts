// A model folder opened for training: config as written and as read, latents, and what identifies them.

import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { ArgumentError } from '../errors.ts';
import { GgufFile } from '../formats/gguf-file.ts';
import { openCheckpoint } from '../formats/open-checkpoint.ts';
import { parseJson } from '../formats/strict-json.ts';
import { parseConfig } from '../model/config.ts';
import { ggufConfig } from '../model/gguf-config.ts';
import { graphOf } from '../model/graphs/all.ts';
import type { ModelConfig } from '../model/model-config.ts';
import { readModelConfig } from '../model/open-model.ts';
import { loadLatents } from './load-latents.ts';
import { type ParameterPlan, planParameters } from './parameters.ts';

export type TrainableModel = {
  /** Folder that holds the tokenizer. */
  readonly folder: string;
  readonly config: ModelConfig;
  /** config.json as it is. */
  readonly configJson: Readonly<Record<string, unknown>>;
  readonly plan: ParameterPlan;
  readonly latents: Float32Array<ArrayBuffer>;
  /** Float masters, or latents made up for packed trits (`latentsFromTrits`). */
  readonly from: 'masters' | 'trits';
};

/** Subfolder in which packed models bring their float masters along. */
export const MASTER_FOLDER = 'master';

/**
 * Opens a folder in Hugging Face layout, or the `master/` inside it where there is one: training goes on from the float
 * weights if they are to be had.
 */
export async function openTrainableModel(folder: string): Promise<TrainableModel> {
  const inner = join(folder, MASTER_FOLDER);
  const source =
    existsSync(join(inner, 'config.json')) && existsSync(join(inner, 'model.safetensors')) ? inner : folder;
  const config = await readModelConfig(source);
  requireTrainable(config, source);
  const plan = planParameters(config);
  using checkpoint = await openCheckpoint(source);
  if (checkpoint.format !== 'safetensors') {
    throw new ArgumentError({
      what: `the model is a ${checkpoint.format} file; training starts from safetensors`,
      where: source,
      fix: 'convert it to a folder in Hugging Face layout first',
    });
  }
  const latents = await loadLatents(checkpoint, config, plan);
  const configJson = await readConfigJson(source);
  const from = config.linearStorage === 'masters' ? 'masters' : 'trits';
  return { folder, config, configJson, plan, latents, from };
}

/**
 * Refuses a model that is one file: by its graph, where training does not know that, since no folder of it would do either.
 * `what`: what begins from a folder, for the message.
 */
export async function refuseFile(
  location: { readonly kind: string; readonly path: string; readonly name: string },
  what: string,
): Promise<never> {
  const { kind, path, name } = location;
  if (kind === 'gguf') {
    using file = await GgufFile.open(path);
    requireTrainable(ggufConfig(file), name);
  }
  throw new ArgumentError({
    what: `${name} is a ${kind} file; ${what} from a folder with config, weights and tokenizer`,
    fix: 'convert it to a folder in Hugging Face layout first',
  });
}

async function readConfigJson(folder: string): Promise<Record<string, unknown>> {
  const where = join(folder, 'config.json');
  // `parseConfig` has read it as an object before.
  return parseJson(await readFile(where), { where }) as Record<string, unknown>;
}

/** Refuses a config that cannot be trained before anything is allocated for it; parses it otherwise. */
export function configOf(json: Readonly<Record<string, unknown>>, name: string): ModelConfig {
  const config = parseConfig(JSON.stringify(json), name);
  requireTrainable(config, name);
  return config;
}

/** Training knows the gradients of graphs with BitLinear layers, and one scale a matrix. */
function requireTrainable(config: ModelConfig, where: string): void {
  const graph = graphOf(config.family);
  const isGrouped = config.linearStorage === 'mlx' || config.linearStorage === 'unpacked';
  if (graph.trainable && !isGrouped && config.floatModules === undefined) return;
  throw new ArgumentError({
    what: `training is for BitNet, 1bitLLM and Llama graphs whose linear layers are all BitLinear, this is a ${graph.title} model${isGrouped ? ' with scales for groups of columns' : ''}`,
    where,
    fix: 'train a BitNet model, or leave --model away for the embedded one',
  });
}

/** SHA-256 of typed arrays and texts in order, each preceded by its length, so that no two lists collide. */
export function hashOf(...parts: readonly (string | Float32Array)[]): string {
  const hash = createHash('sha256');
  for (const part of parts) {
    const bytes =
      typeof part === 'string' ? Buffer.from(part, 'utf8') : Buffer.from(part.buffer, part.byteOffset, part.byteLength);
    hash.update(`${bytes.byteLength}:`);
    hash.update(bytes);
  }
  return hash.digest('hex');
}
