// What an optimizer may be told. A rate that is not a number, infinite or negative would turn every weight into one, and
// be found only when the next loss is read; they come from flags, and from records and cases that somebody else wrote.

import { ArgumentError } from '../errors.ts';
import type { OptimizerSettings } from './optimizer-settings.ts';
import type { ScheduleSettings } from './schedule.ts';

/** The kernels compute in float32, where a larger number is infinite. */
export const MAX_LEARNING_RATE = 3.4e38;

/** Throws ArgumentError unless 0 <= lr <= MAX_LEARNING_RATE; above 1 nothing learns, but that is for the loss to say. */
export function checkLearningRate(lr: unknown): asserts lr is number {
  requireRange('learning rate', lr, MAX_LEARNING_RATE);
}

/** Throws ArgumentError for rates that no step can be taken with. */
export function checkRates({ lr, weightDecay }: { readonly lr: number; readonly weightDecay: number }): void {
  checkLearningRate(lr);
  requireRange('weight decay', weightDecay, 1);
}

/** Throws ArgumentError for moments, eps or a norm that no step can be taken with. */
export function checkOptimizer({ kind, beta1, beta2, eps, clipNorm }: OptimizerSettings): void {
  if (clipNorm !== undefined && !(clipNorm > 0)) {
    throw new ArgumentError({
      what: `clipNorm must be a number above 0, got ${clipNorm}`,
      fix: 'leave it out for no limit',
    });
  }
  if (kind !== 'adamw') return;
  // At 1 a moment never moves, and its correction divides by 0.
  for (const [name, beta] of Object.entries({ beta1, beta2 })) {
    if (!(typeof beta === 'number' && beta >= 0 && beta < 1)) {
      throw new ArgumentError({
        what: `${name} of AdamW must be a number from 0 to below 1, got ${shown(beta)}`,
        fix: 'use 0.9 and 0.95',
      });
    }
  }
  requireRange('eps of AdamW', eps, 1);
}

/** Throws ArgumentError for a schedule that cannot be followed. */
export function checkSchedule({ lr, weightDecay, warmup, steps }: ScheduleSettings): void {
  checkRates({ lr, weightDecay });
  for (const [name, value, least] of [
    ['warmup', warmup, 0],
    ['steps', steps, 1],
  ] as const) {
    if (Number.isSafeInteger(value) && value >= least) continue;
    throw new ArgumentError({
      what: `${name} must be an integer, ${least} or more, got ${shown(value)}`,
      fix: 'count optimizer steps',
    });
  }
}

function requireRange(name: string, value: unknown, max: number): void {
  // Written so that NaN is refused.
  if (typeof value === 'number' && value >= 0 && value <= max) return;
  throw new ArgumentError({
    what: `the ${name} must be a number from 0 to ${max}, got ${shown(value)}`,
    fix:
      name === 'learning rate'
        ? 'try 0.0003 to go on from a model, 0.002 for a new one'
        : 'leave it out for the default',
  });
}

function shown(value: unknown): string {
  return typeof value === 'number' ? String(value) : typeof value;
}
