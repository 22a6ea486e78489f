// What is said about the trits of a layer, or of all layers together; everything follows from the three counts.

import { type Gf3Residue, gf3Residue, isConserved } from '../gf3/sums.ts';
import { addTritCounts, type TritCounts } from './trit-counts.ts';

export type LayerStats = {
  readonly counts: TritCounts;
  /** Percent of all weights, 0 to 100; 0 where there are none. */
  readonly minusPct: number;
  readonly ergodicPct: number;
  readonly plusPct: number;
  readonly tritSum: number;
  readonly gf3Residue: Gf3Residue;
  readonly conserved: boolean;
  /** Shannon entropy of the three shares: 0 to log2(3) = 1.585 bits a weight. */
  readonly entropyBits: number;
};

function entropyOf(counts: readonly number[], total: number): number {
  let bits = 0;
  for (const count of counts) if (count > 0) bits += (count / total) * Math.log2(total / count);
  return bits;
}

export function layerStats(counts: TritCounts): LayerStats {
  const { minus, ergodic, plus } = counts;
  const total = minus + ergodic + plus;
  const percent = (count: number) => (total === 0 ? 0 : (100 * count) / total);
  const tritSum = plus - minus;
  return {
    counts,
    minusPct: percent(minus),
    ergodicPct: percent(ergodic),
    plusPct: percent(plus),
    tritSum,
    gf3Residue: gf3Residue(tritSum),
    conserved: isConserved(tritSum),
    entropyBits: entropyOf([minus, ergodic, plus], total),
  };
}

/** The statistics of two layers (or windows) taken as one; `layerStats(NO_TRITS)` is neutral. */
export function addLayerStats(a: LayerStats, b: LayerStats): LayerStats {
  return layerStats(addTritCounts(a.counts, b.counts));
}
