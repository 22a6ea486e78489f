// How much memory a model will take, told before anything is read: from its config and the sizes in its files.

import { freemem, totalmem } from 'node:os';
import { GgufFile } from '../formats/gguf-file.ts';
import { ggufConfig } from './gguf-config.ts';
import { estimateMemory, gigabytes, type ModelMemory } from './memory-estimate.ts';
import { type ModelFiles, openFolder } from './open-model.ts';

/** Reads headers only. Throws what opening the files throws. `int8Above`: heads of more bytes become int8. */
export async function memoryOf(files: ModelFiles, options: { readonly int8Above?: number } = {}): Promise<ModelMemory> {
  if (files.kind === 'gguf') {
    using file = await GgufFile.open(files.path);
    return estimateMemory(ggufConfig(file), (name) => (file.has(name) ? file.info(name) : undefined), 'gguf', options);
  }
  const { config, checkpoint } = await openFolder(files);
  using _ = checkpoint;
  const infoOf = (name: string) => (checkpoint.has(name) ? checkpoint.info(name) : undefined);
  return estimateMemory(config, infoOf, 'hf', options);
}

/** "1.7 GB for weights, 0.9 GB more at 4,096 tokens; 14 GB of 25 GB are free". */
export function memoryLine({ weightBytes, stateBytes, bytesPerToken, contextLength }: ModelMemory): string {
  const cache = gigabytes(stateBytes + bytesPerToken * contextLength);
  return (
    `${gigabytes(weightBytes)} for weights, ${cache} more at ${contextLength.toLocaleString('en')} tokens; ` +
    `${gigabytes(freemem())} of ${gigabytes(totalmem())} are free`
  );
}
