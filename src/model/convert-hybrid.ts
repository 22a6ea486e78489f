// What `convert` does with models whose layers are of several kinds, whose weights are rotated, or that have experts: from one
// GGUF to another, with the keys of the first. Folders order heads and store norms in another way, and are refused.

import type { GroupedWeight } from '../engine/program.ts';
import { ArgumentError } from '../errors.ts';
import { GgufFile } from '../formats/gguf-file.ts';
import type { GgufPair } from '../formats/write-gguf.ts';
import type { GroupedRows } from '../quant/grouped/grouped-matrix.ts';
import { fromPanel64, panel64ByteLength, panel64ScaleCount } from '../quant/grouped/panel64.ts';
import { graphOf } from './graphs/all.ts';
import type { ModelConfig } from './model-config.ts';
import type { ModelFiles } from './open-model.ts';

/** Whether the config holds more than the keys that every graph has. */
const isSpecial = ({ layerKinds, experts, rotation }: ModelConfig) =>
  layerKinds !== undefined || experts !== undefined || rotation !== undefined;

/** Throws ArgumentError for a source or target that is a folder, where the model is none that folders are written of. */
export function refuseFolders(source: ModelFiles, toFolder: boolean, config: ModelConfig): void {
  if (!isSpecial(config) || (source.kind === 'gguf' && !toFolder)) return;
  const { title } = graphOf(config.family);
  const rotated = config.rotation === undefined ? '' : ' with rotated weights';
  throw new ArgumentError({
    what: `a ${title} model${rotated} is converted from one GGUF type to another only, ${toFolder ? 'not to a folder' : 'not from a folder'}`,
    where: source.path,
    fix: 'convert a .gguf of the model to another type, for example --to gguf-q2_0',
  });
}

/**
 * The keys of the source that say what the model is, but for blocks that are not written; undefined for models whose
 * config says everything.
 */
export async function specialPairs(
  source: ModelFiles,
  config: ModelConfig,
  notes: string[],
): Promise<GgufPair[] | undefined> {
  if (!isSpecial(config) || source.kind !== 'gguf') return undefined;
  using file = await GgufFile.open(source.path);
  const architecture = file.architecture!;
  const { draftBlocks = 0, layerKinds, numHiddenLayers, rotation } = config;
  const dropped = new Set<string>();
  const pairs: GgufPair[] = [
    { key: 'general.architecture', type: 'string', value: architecture },
    { key: 'general.quantization_version', type: 'u32', value: 2 },
  ];
  if (draftBlocks > 0) {
    notes.push('blocks that only draft tokens (MTP) are not written');
    const keys = ['block_count', 'nextn_predict_layers', 'attention.recurrent_layers', 'full_attention_interval'];
    for (const key of keys) dropped.add(`${architecture}.${key}`);
    pairs.push({ key: `${architecture}.block_count`, type: 'u32', value: numHiddenLayers });
    const recurrent = layerKinds?.map((kind) => kind === 'recurrent');
    if (recurrent !== undefined) {
      const key = `${architecture}.attention.recurrent_layers`;
      pairs.push({ key, type: 'array', elementType: 'bool', value: recurrent });
    }
  }
  if (rotation !== undefined) {
    notes.push(
      "the weights stay rotated: this program and PrismML's fork of llama.cpp read them, upstream llama.cpp would run them into noise",
    );
  }
  const own = [...file.entries].filter(([key]) => key.startsWith(`${architecture}.`) || key.startsWith('prism.'));
  for (const [key, { raw }] of own) if (!dropped.has(key)) pairs.push({ key, raw });
  return pairs;
}

/** The rows of all experts, one after the other. */
export function expertRows(weight: GroupedWeight, experts: number): GroupedRows {
  const { rows, columns, group, bytes, scales, scaleType } = weight;
  const panelBytes = panel64ByteLength(rows, columns);
  const scaleBytes = panel64ScaleCount(rows, columns, group) * (scaleType === 'f16' ? 2 : 4);
  const parts = Array.from({ length: experts }, (_, expert) =>
    fromPanel64({
      ...weight,
      bytes: bytes.subarray(expert * panelBytes, (expert + 1) * panelBytes),
      scales: scales.subarray(expert * scaleBytes, (expert + 1) * scaleBytes),
    }),
  );
  const quads = new Uint8Array(parts.reduce((sum, part) => sum + part.quads.length, 0));
  const values = new Float32Array((experts * rows * columns) / group);
  parts.forEach((part, expert) => {
    quads.set(part.quads, expert * part.quads.length);
    values.set(part.scales, expert * part.scales.length);
  });
  return { rows: experts * rows, columns, group, quads, scales: values };
}
