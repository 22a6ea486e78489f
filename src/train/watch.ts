// Held-out loss over a run: which checkpoint did best, and whether it still falls. A pure function of the looks, so that a
// resumed run decides as one that was never interrupted.

import type { Watch } from './run-state.ts';

/** A fall of less is noise: over five looks it would not be a thousandth of a nat at a loss near 1. */
const LEAST_FALL = 0.001;

export type Look = { readonly step: number; readonly loss: number; readonly latents: Float32Array };

/** The watch after a look. Copies the latents of one that is the best so far (the first of equals stays). */
export function watchLook(watch: Watch, { step, loss, latents }: Look): Watch {
  const isBest = watch.best === undefined || loss < watch.best.loss;
  const best = isBest ? { step, loss, latents: Float32Array.from(latents) } : watch.best;
  const fell = loss < watch.mark * (1 - LEAST_FALL);
  return { best, mark: fell ? loss : watch.mark, stale: fell ? 0 : watch.stale + 1 };
}

/** No clear fall in `patience` looks; a patience of 0 never ends. */
export function onPlateau({ stale }: Watch, patience: number): boolean {
  return patience > 0 && stale >= patience;
}
