// A morphism World -> World': training steps on one batch, then conservation if asked for. Pure computation: the same
// world and morphism give the same bits on every machine and with any number of threads.

import { BitnetError, CancelledError } from '../errors.ts';
import { type Gf3Residue, gf3Residue } from '../gf3/sums.ts';
import type { Batch } from '../train/batch.ts';
import type { Network } from '../train/network.ts';
import { type OptimizerKind, optimizerStep } from '../train/optimizer.ts';
import { view } from '../train/parameters.ts';
import { type ConservedMatrix, conserve, type ExtraFlip } from './conserve.ts';
import { WorldError } from './world-error.ts';
import { copyState, WORLD_OPTIMIZER, type WorldState } from './world-state.ts';

/** Gradient steps of one morphism. */
export const MAX_STEPS = 100;

export type Morphism = {
  readonly optimizer: OptimizerKind;
  readonly lr: number;
  /** Gradient steps on the same batch. */
  readonly steps: number;
  readonly conserve: boolean;
};

/** Whether a number can be the rate of a step: one that is not finite or below 0 leads away from every loss. */
export function isRate(lr: unknown): lr is number {
  return typeof lr === 'number' && lr > 0 && Number.isFinite(Math.fround(lr));
}

export type LayerChange = {
  readonly name: string;
  /** Trits that are not what they were. */
  readonly flips: number;
  readonly tritDeltaSum: number;
};

export type MorphismReport = {
  readonly lossBefore: number;
  readonly lossAfter: number;
  readonly layers: readonly LayerChange[];
  readonly tritDeltaSum: number;
  readonly gf3Residue: Gf3Residue;
  readonly conserved: boolean;
  /** Flips that conservation added. */
  readonly extraFlips: readonly ExtraFlip[];
};

export type MorphismHooks = {
  readonly signal?: AbortSignal;
  readonly onProgress?: (done: number, total: number, message: string) => void;
};

/** Lets messages of a cancel in, between passes. */
const breathe = (signal: AbortSignal | undefined) =>
  new Promise<void>((resolve, reject) => {
    setImmediate(() => (signal?.aborted ? reject(new CancelledError('the step was cancelled')) : resolve()));
  });

function isAbort(error: unknown, signal: AbortSignal | undefined): boolean {
  return signal?.aborted === true && error === signal.reason;
}

/**
 * Takes the morphism. The given world is not changed. `report` is computed only when asked for (`measure`): a replay
 * needs no second look at the loss.
 */
export async function applyMorphism(
  network: Network,
  world: WorldState,
  batch: Batch,
  morphism: Morphism,
  hooks: MorphismHooks & { readonly measure?: boolean } = {},
): Promise<{ readonly world: WorldState; readonly report: MorphismReport | undefined }> {
  const { kernels, plan, gradients } = network;
  const { signal, onProgress, measure = true } = hooks;
  const state = copyState(world);
  // A backward pass costs about twice a forward pass.
  const total = 3 * morphism.steps + (measure ? 1 : 0);
  const passOptions = (start: number, share: number, message: string) => ({
    ...(signal && { signal }),
    onProgress: (done: number, of: number) => onProgress?.(start + (share * done) / of, total, message),
  });
  const ternary = plan.all.filter(({ kind }) => kind === 'ternary');
  let before: Int8Array[] = [];
  let lossBefore = 0;
  let updates = 0;
  try {
    for (let step = 0; step < morphism.steps; step += 1) {
      await breathe(signal);
      network.quantize(state.latents);
      if (step === 0) before = ternary.map((parameter) => network.ternary(parameter).trits.slice());
      const message = morphism.steps === 1 ? 'gradient' : `gradient ${step + 1} of ${morphism.steps}`;
      const { loss } = network.lossAndGradients(state.latents, batch, gradients, passOptions(3 * step, 3, message));
      if (step === 0) lossBefore = loss;
      const settings = { ...WORLD_OPTIMIZER, kind: morphism.optimizer };
      const rates = { lr: morphism.lr, weightDecay: 0 };
      optimizerStep(kernels, plan, settings, rates, state.latents, gradients, state.optimizer);
      updates += 1;
    }
    await breathe(signal);
    network.quantize(state.latents);
    const matrices = ternary.map((parameter, i): ConservedMatrix => {
      const { trits, scale } = network.ternary(parameter);
      return { name: parameter.name, w: view(state.latents, parameter), trits, scale, before: before[i]! };
    });
    const extraFlips = morphism.conserve ? conserve(matrices) : [];
    const next: WorldState = { ...state, stepCount: world.stepCount + morphism.steps };
    if (!measure) return { world: next, report: undefined };

    const layers = matrices.map(({ name, trits, before: old }) => changeOf(name, old, trits));
    const tritDeltaSum = layers.reduce((sum, layer) => sum + layer.tritDeltaSum, 0);
    // Conservation has moved scales: quantize anew for the loss.
    if (extraFlips.length > 0) network.quantize(state.latents);
    const { loss: lossAfter } = network.loss(state.latents, batch, passOptions(3 * morphism.steps, 1, 'loss after'));
    await breathe(signal);
    const residue = gf3Residue(tritDeltaSum);
    return {
      world: next,
      report: {
        lossBefore,
        lossAfter,
        layers,
        tritDeltaSum,
        gf3Residue: residue,
        conserved: residue === 0,
        extraFlips,
      },
    };
  } catch (error) {
    if (isAbort(error, signal)) throw new CancelledError('the step was cancelled');
    // Before the first update, it is the checkpoint that is at fault, and the error says so.
    const wasTrained = updates > 0 || world.stepCount > 0;
    if (wasTrained && error instanceof BitnetError && error.code.startsWith('NON_FINITE'))
      throw diverged(error, morphism);
    throw error;
  }
}

function diverged(cause: BitnetError, { lr, optimizer }: Morphism): WorldError {
  return new WorldError(
    {
      what: `the training diverged: ${cause.text.what} (${cause.text.where})`,
      fix: `step from an earlier world, with a smaller lr than ${lr} (${optimizer})`,
    },
    { cause },
  );
}

export function changeOf(name: string, from: Int8Array, to: Int8Array): LayerChange {
  let flips = 0;
  let sum = 0;
  for (let i = 0; i < to.length; i += 1) {
    const delta = to[i]! - from[i]!;
    if (delta === 0) continue;
    flips += 1;
    sum += delta;
  }
  return { name, flips, tritDeltaSum: sum };
}

/**
 * What a step gained, in nats per token and as a share; negative where it lost. A share of nothing, where a batch was
 * learned to the last bit, is the largest number: JSON has no infinity.
 */
export function worldExpectedValue(lossBefore: number, lossAfter: number): { wev: number; wevRatio: number } {
  const ratio = lossBefore === lossAfter ? 0 : Math.min(lossBefore / lossAfter - 1, Number.MAX_VALUE);
  return { wev: lossBefore - lossAfter, wevRatio: ratio };
}
