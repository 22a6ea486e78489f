// Learning rate and weight decay of a step.

export const SCHEDULES = ['two-stage', 'cosine', 'constant'] as const;
export type ScheduleKind = (typeof SCHEDULES)[number];

export type ScheduleSettings = {
  readonly kind: ScheduleKind;
  /** Highest learning rate. */
  readonly lr: number;
  readonly weightDecay: number;
  /** Steps over which the rate rises from 0. */
  readonly warmup: number;
  readonly steps: number;
};

// The published recipe for b1.58 models: a high first stage, then an abrupt drop at half time to a lower one that ends at
// zero; decay in the first half only, so that trits can settle. Its numbers were 1.5e-3 -> 8e-4, then 5e-4 -> 0.
const FIRST_STAGE_END = 8 / 15;
const SECOND_STAGE_START = 1 / 3;
/** Where the cosine ends, as a share of the highest rate. */
const COSINE_END = 0.1;

/** Rates of step `step` (from 0). Only sums, products and the cosine of the run time; no state. */
export function ratesAt(settings: ScheduleSettings, step: number): { lr: number; weightDecay: number } {
  const { kind, lr, weightDecay, warmup, steps } = settings;
  const rise = step < warmup ? (step + 1) / (warmup + 1) : 1;
  if (kind === 'constant') return { lr: lr * rise, weightDecay };
  const share = step / Math.max(1, steps);
  if (kind === 'cosine') {
    const fall = COSINE_END + ((1 - COSINE_END) * (1 + Math.cos(Math.PI * share))) / 2;
    return { lr: lr * rise * fall, weightDecay };
  }
  if (share < 0.5) return { lr: lr * rise * (1 - (1 - FIRST_STAGE_END) * 2 * share), weightDecay };
  return { lr: lr * rise * SECOND_STAGE_START * 2 * (1 - share), weightDecay: 0 };
}
