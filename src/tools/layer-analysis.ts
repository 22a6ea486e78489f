// Statistics of ternary layers, folded over windows of their files: memory stays that of a window.

import { addLayerStats, type LayerStats, layerStats } from '../analysis/layer-stats.ts';
import { addTritCounts, countRowquad, countTrits, NO_TRITS, type TritCounts } from '../analysis/trit-counts.ts';
import { CancelledError } from '../errors.ts';
import { openTernaryLayer, readPackedWindows, type TernaryLayer } from '../formats/ternary-layers.ts';
import type { TernaryScale } from '../quant/ternary-scale.ts';
import type { TernaryModel } from './ternary-model.ts';

export type AnalyzedLayer = LayerStats & {
  readonly name: string;
  readonly shape: readonly [rows: number, columns: number];
  /** w = scale * trit; the mean where a matrix has several scales. */
  readonly scale: number;
};

export type Analysis = { readonly layers: readonly AnalyzedLayer[]; readonly total: AnalyzedLayer };

export type AnalyzeOptions = {
  readonly signal?: AbortSignal | undefined;
  readonly onLayer?: (done: number, total: number, name: string) => void;
};

/** @throws CancelledError when the signal fires; NotTernaryError and other errors of the files. */
export async function analyzeLayers(
  model: TernaryModel,
  chosen: readonly TernaryLayer[],
  { signal, onLayer }: AnalyzeOptions = {},
): Promise<Analysis> {
  const layers: AnalyzedLayer[] = [];
  for (const layer of chosen) {
    if (signal?.aborted) throw new CancelledError('the analysis was cancelled');
    layers.push(await analyzeLayer(model, layer, signal));
    onLayer?.(layers.length, chosen.length, layer.name);
  }
  return { layers, total: totalOf(layers) };
}

async function analyzeLayer(
  { checkpoint, config }: TernaryModel,
  layer: TernaryLayer,
  signal: AbortSignal | undefined,
): Promise<AnalyzedLayer> {
  const options = { ...(config && { config }), ...(signal && { signal }) };
  const { name, rows, columns } = layer;
  const opened = await openTernaryLayer(checkpoint, layer, options);
  let counts: TritCounts = NO_TRITS;
  if (layer.form === 'packed') {
    // Counted as they lie, several times faster than unpacked.
    for await (const { packedStart, bytes } of readPackedWindows(checkpoint, layer, signal)) {
      counts = addTritCounts(counts, countRowquad(bytes, { rows, columns, packedStart }));
    }
  } else {
    for await (const { trits } of opened.windows(options)) counts = addTritCounts(counts, countTrits(trits));
  }
  return { name, shape: [rows, columns], ...layerStats(counts), scale: meanScale(opened.scale) };
}

function meanScale(scale: TernaryScale): number {
  if (scale.kind === 'tensor') return scale.value;
  return scale.values.reduce((sum, value) => sum + value, 0) / scale.values.length;
}

function totalOf(layers: readonly AnalyzedLayer[]): AnalyzedLayer {
  const stats = layers.reduce<LayerStats>(addLayerStats, layerStats(NO_TRITS));
  const weights = ({ shape: [rows, columns] }: AnalyzedLayer) => rows * columns;
  const all = layers.reduce((sum, layer) => sum + weights(layer), 0);
  const scale = layers.reduce((sum, layer) => sum + layer.scale * weights(layer), 0) / all;
  return { name: 'total', shape: [all, 1], ...stats, scale };
}
