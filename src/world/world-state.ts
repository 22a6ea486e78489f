// A world: all that the next training step depends on. Its id is the hash of just that, so equal worlds have equal ids
// wherever and however they were reached.

import type { OptimizerSettings, OptimizerState } from '../train/optimizer.ts';
import { hashOf } from '../train/trainable-model.ts';

export type WorldState = {
  /** Id of the model it began from. */
  readonly base: string;
  /** Gradient steps taken since. */
  readonly stepCount: number;
  /** Flat, by the model's parameter plan. */
  readonly latents: Float32Array;
  readonly optimizer: OptimizerState;
};

/** Constants of the optimizers; every world has these. Neither decay nor clipping: a morphism is the plain step. */
export const WORLD_OPTIMIZER: Omit<OptimizerSettings, 'kind'> = {
  beta1: 0.9,
  beta2: 0.95,
  eps: 1e-8,
  decayGroups: 'matrices',
};

/** Raised when the meaning of a state or of a step changes, so that old ids are not mistaken for new ones. */
const FORMAT = 'bitnet-gf3 world 1';

export function worldId({ base, stepCount, latents, optimizer }: WorldState): string {
  const { m, v, adamSteps } = optimizer;
  const facts = JSON.stringify({ format: FORMAT, base, stepCount, adamSteps, ...WORLD_OPTIMIZER });
  // Before the first AdamW step the moments are zero.
  return adamSteps === 0 ? hashOf(facts, latents) : hashOf(facts, latents, m, v);
}

export function copyState(state: WorldState): WorldState {
  const { m, v, adamSteps } = state.optimizer;
  // Zeros are not read to be written again: memory that nobody has touched yet takes none.
  if (adamSteps === 0) {
    const optimizer = { m: new Float32Array(m.length), v: new Float32Array(v.length), adamSteps };
    return { ...state, latents: state.latents.slice(), optimizer };
  }
  return { ...state, latents: state.latents.slice(), optimizer: { m: m.slice(), v: v.slice(), adamSteps } };
}
