// Statistics of ternary layers, folded over windows of their files, each read once: memory stays that of a window.

import { addLayerStats, type LayerStats, layerStats } from '../analysis/layer-stats.ts';
import { misreadSign, PlusTwoBands } from '../analysis/misread.ts';
import { type ScaleSpread, ScaleTally } from '../analysis/scale-tally.ts';
import { addTritCounts, countRowquad, NO_TRITS, type TritCounts } from '../analysis/trit-counts.ts';
import { CancelledError } from '../errors.ts';
import { openTernaryLayer, readPackedWindows, type TernaryLayer } from '../formats/ternary-layers.ts';
import type { TernaryScale } from '../quant/ternary-scale.ts';
import { remarksOn, type TernaryModel } from './ternary-model.ts';

export type AnalyzedLayer = LayerStats & {
  readonly name: string;
  readonly shape: readonly [rows: number, columns: number];
  /** w = scale * trit; the mean where a matrix has several scales. */
  readonly scale: number;
  /** Weights of +2 times the scale: no trits, and in none of the counts, shares and sums. Undefined where none can be. */
  readonly plusTwo: number | undefined;
  /** Where a matrix has several scales. `group`: columns that share one; undefined where the groups differ. */
  readonly scales: (ScaleSpread & { readonly group: number | undefined }) | undefined;
  /** Bytes that no writer of the layout makes, where it has such. */
  readonly neverWritten: number;
};

export type Analysis = {
  readonly layers: readonly AnalyzedLayer[];
  readonly total: AnalyzedLayer;
  /** What is odd about the file, in words. */
  readonly warnings: readonly string[];
};

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
  const warnings = remarksOn(model);
  for (const layer of chosen) {
    if (signal?.aborted) throw new CancelledError('the analysis was cancelled');
    const { stats, warning: misread } = await analyzeLayer(model, layer, signal);
    layers.push(stats);
    if (misread !== undefined) warnings.push(misread);
    if (stats.neverWritten > 0) {
      const bytes = `${stats.neverWritten} bytes that no writer of its layout makes`;
      warnings.push(`${layer.name}: ${bytes}; they are read by the rule of all others`);
    }
    onLayer?.(layers.length, chosen.length, layer.name);
  }
  return { layers, total: totalOf(layers), warnings };
}

async function analyzeLayer(
  { checkpoint, config }: TernaryModel,
  layer: TernaryLayer,
  signal: AbortSignal | undefined,
): Promise<{ stats: AnalyzedLayer; warning: string | undefined }> {
  const options = { ...(config && { config }), ...(signal && { signal }) };
  const { name, rows, columns } = layer;
  const opened = await openTernaryLayer(checkpoint, layer, options);
  const tally = new ScaleTally();
  const bands = new PlusTwoBands(rows, columns);
  let counts: TritCounts = NO_TRITS;
  let plusTwo: number | undefined;
  let group: number | undefined;
  let neverWritten = 0;
  if (layer.form === 'packed') {
    // Counted as they lie, several times faster than unpacked.
    for await (const { packedStart, bytes } of readPackedWindows(checkpoint, layer, signal)) {
      counts = addTritCounts(counts, countRowquad(bytes, { rows, columns, packedStart }));
    }
  } else {
    for await (const window of opened.windows(options)) {
      const { rowStart, scales } = window;
      neverWritten += window.neverWritten;
      if (scales !== undefined) {
        tally.push(scales.values);
        group = scales.group;
        plusTwo ??= 0;
      }
      let from = 0;
      for (const end of bands.ends(rowStart, rowStart + window.rows)) {
        const [minus, ergodic, plus, two] = window.counts(from, end - rowStart);
        counts = addTritCounts(counts, { minus, ergodic, plus });
        if (plusTwo !== undefined) plusTwo += two;
        bands.push(rowStart + from, two, (end - rowStart - from) * columns);
        from = end - rowStart;
      }
    }
  }
  const scale = opened.scale();
  if (scale !== undefined) {
    tally.push(scale.kind === 'tensor' ? Float32Array.of(scale.value) : scale.values);
    group = groupOf(scale, columns);
  }
  const common = tally.common();
  const stats = {
    name,
    shape: [rows, columns] as const,
    ...layerStats(counts),
    scale: common ?? tally.mean(),
    plusTwo,
    scales: common === undefined ? { group, ...tally.spread() } : undefined,
    neverWritten,
  };
  return { stats, warning: misreadSign(name, bands, tally.largest()) };
}

/** Columns that share a scale: those of a row where blocks of rows do. */
function groupOf(scale: TernaryScale, columns: number): number {
  if (scale.kind === 'groups') return scale.size;
  return scale.kind === 'columnSlices' ? columns / scale.values.length : columns;
}

function totalOf(layers: readonly AnalyzedLayer[]): AnalyzedLayer {
  const stats = layers.reduce<LayerStats>(addLayerStats, layerStats(NO_TRITS));
  const weights = ({ shape: [rows, columns] }: AnalyzedLayer) => rows * columns;
  const sum = (of: (layer: AnalyzedLayer) => number) => layers.reduce((total, layer) => total + of(layer), 0);
  const all = sum(weights);
  return {
    name: 'total',
    shape: [all, 1],
    ...stats,
    scale: sum((layer) => layer.scale * weights(layer)) / all,
    plusTwo: layers.some(({ plusTwo }) => plusTwo !== undefined) ? sum(({ plusTwo }) => plusTwo ?? 0) : undefined,
    scales: undefined,
    neverWritten: sum(({ neverWritten }) => neverWritten),
  };
}
