// A model's weights by their roles.

import type { DenseWeight, GroupedWeight, Int8Weight, TernaryWeight, VectorWeight } from '../engine/program.ts';

/** A matrix that a linear layer multiplies with. Its kind decides what becomes of the input: int8, int16 or floats. */
export type LinearWeight = TernaryWeight | GroupedWeight | DenseWeight;
export type TableWeight = DenseWeight | GroupedWeight;
export type HeadWeight = TableWeight | Int8Weight;

/** Matrices of a layer, and its vectors. */
export type MatrixRole = 'q' | 'k' | 'v' | 'o' | 'gate' | 'up' | 'down';
export type VectorRole = 'inputNorm' | 'qNorm' | 'kNorm' | 'attnSubNorm' | 'postAttentionNorm' | 'ffnSubNorm';

export type LayerWeights = { readonly [Role in MatrixRole]: LinearWeight } & {
  readonly [Role in 'inputNorm' | 'postAttentionNorm']: VectorWeight;
} & { readonly [Role in 'qNorm' | 'kNorm' | 'attnSubNorm' | 'ffnSubNorm']?: VectorWeight | undefined };

export type ModelWeights = {
  readonly embedding: TableWeight;
  readonly layers: readonly LayerWeights[];
  readonly finalNorm: VectorWeight;
  /** The embedding itself when tied; int8 when asked for. */
  readonly head: HeadWeight;
};
