// What an optimizer is told.

export type OptimizerKind = 'sgd' | 'adamw';

export const OPTIMIZERS = ['sgd', 'adamw'] as const satisfies readonly OptimizerKind[];

/** Which tensors decay: matrices only (the usual rule), or all, norms and embeddings included. */
export type DecayGroups = 'matrices' | 'all';

export type OptimizerSettings = {
  readonly kind: OptimizerKind;
  readonly beta1: number;
  readonly beta2: number;
  readonly eps: number;
  readonly decayGroups: DecayGroups;
  /** Largest norm of the whole gradient; a longer one is scaled down to it. Undefined: no limit. */
  readonly clipNorm?: number;
};
