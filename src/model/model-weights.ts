// A model's weights by their roles.

import type { DenseWeight, GroupedWeight, Int8Weight, TernaryWeight, VectorWeight } from '../engine/program.ts';

/** A matrix that a linear layer multiplies with. Its kind decides what becomes of the input: int8, int16 or floats. */
export type LinearWeight = TernaryWeight | GroupedWeight | DenseWeight;
export type TableWeight = DenseWeight | GroupedWeight;
export type HeadWeight = TableWeight | Int8Weight;

/** Matrices of attention and of a dense FFN. */
type DenseRole = 'q' | 'k' | 'v' | 'o' | 'gate' | 'up' | 'down';
/** Of a gated delta net: q, k and v in one, the gate of its output, its two gates of time, and its output. */
type DeltaRole = 'qkv' | 'z' | 'beta' | 'alpha' | 'deltaOut';
/** Of a mixture: the router, and matrices with one part for each expert. */
type ExpertRole = 'router' | 'expertGate' | 'expertUp' | 'expertDown';
export type MatrixRole = DenseRole | DeltaRole | ExpertRole;

export type VectorRole =
  | 'inputNorm'
  | 'qNorm'
  | 'kNorm'
  | 'attnSubNorm'
  | 'postAttentionNorm'
  | 'ffnSubNorm'
  /** Of a gated delta net: taps of its convolution (tap-major), bias and rate of its decay, norm of its output. */
  | 'conv'
  | 'decayBias'
  | 'decay'
  | 'deltaNorm';

/** What the layer's graph has: see its table of tensors. */
export type LayerWeights = { readonly [Role in MatrixRole]?: LinearWeight | undefined } & {
  readonly [Role in VectorRole]?: VectorWeight | undefined;
};

export type ModelWeights = {
  readonly embedding: TableWeight;
  readonly layers: readonly LayerWeights[];
  readonly finalNorm: VectorWeight;
  /** The embedding itself when tied; int8 when asked for. */
  readonly head: HeadWeight;
};
