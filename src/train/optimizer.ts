// One optimizer step over the flat parameter vector: SGD or AdamW with decoupled decay, which tensors decay, clipping.

import { checkOptimizer, checkRates } from './check-rates.ts';
import type { TrainKernels } from './kernels.ts';
import type { DecayGroups, OptimizerSettings } from './optimizer-settings.ts';
import { type Parameter, type ParameterPlan, view } from './parameters.ts';

export { type DecayGroups, OPTIMIZERS, type OptimizerKind, type OptimizerSettings } from './optimizer-settings.ts';

/** The companions of published BitNet recipes. */
export const DEFAULT_OPTIMIZER: OptimizerSettings = {
  kind: 'adamw',
  beta1: 0.9,
  beta2: 0.95,
  eps: 1e-8,
  decayGroups: 'matrices',
  clipNorm: 1,
};

/** Moments of AdamW, laid out as the parameters; SGD leaves them alone. */
export type OptimizerState = {
  readonly m: Float32Array;
  readonly v: Float32Array;
  /** AdamW steps taken so far. */
  adamSteps: number;
};

export function zeroOptimizerState(plan: ParameterPlan): OptimizerState {
  return { m: new Float32Array(plan.length), v: new Float32Array(plan.length), adamSteps: 0 };
}

function decays({ kind }: Parameter, groups: DecayGroups): boolean {
  return groups === 'all' || kind === 'ternary' || kind === 'head';
}

/** base^exponent by squaring: multiplications only, so the same on every machine. */
export function integerPower(base: number, exponent: number): number {
  let result = 1;
  let square = base;
  for (let n = exponent; n > 0; n = Math.floor(n / 2)) {
    if (n % 2 === 1) result *= square;
    square *= square;
  }
  return result;
}

/** Norm of the whole gradient. */
export function gradientNorm(kernels: TrainKernels, plan: ParameterPlan, gradients: Float32Array): number {
  let sum = 0;
  for (const parameter of plan.all) sum += kernels.sumSquares(view(gradients, parameter));
  return Math.sqrt(sum);
}

/** Updates `latents` and `state` in place; returns the gradient's norm before clipping. Throws ArgumentError for bad rates. */
export function optimizerStep(
  kernels: TrainKernels,
  plan: ParameterPlan,
  settings: OptimizerSettings,
  rates: { readonly lr: number; readonly weightDecay: number },
  latents: Float32Array,
  gradients: Float32Array,
  state: OptimizerState,
): number {
  checkRates(rates);
  checkOptimizer(settings);
  const norm = gradientNorm(kernels, plan, gradients);
  const { clipNorm, kind, beta1, beta2, eps, decayGroups } = settings;
  const gradScale = clipNorm !== undefined && norm > clipNorm ? clipNorm / norm : 1;
  if (kind === 'adamw') state.adamSteps += 1;
  const correction1 = 1 - integerPower(beta1, state.adamSteps);
  const correction2 = 1 - integerPower(beta2, state.adamSteps);
  for (const parameter of plan.all) {
    const keep = 1 - (decays(parameter, decayGroups) ? rates.lr * rates.weightDecay : 0);
    const p = view(latents, parameter);
    const g = view(gradients, parameter);
    if (kind === 'sgd') {
      kernels.sgdUpdate(p, g, { lr: rates.lr, keep, gradScale });
      continue;
    }
    kernels.adamWUpdate(p, g, view(state.m, parameter), view(state.v, parameter), {
      beta1,
      beta2,
      eps,
      keep,
      stepSize: rates.lr / correction1,
      secondScale: 1 / Math.sqrt(correction2),
      gradScale,
    });
  }
  return norm;
}
