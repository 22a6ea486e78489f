// What the forward pass needs to know of a model, whichever file says it. Field names are a checkpoint's own in camelCase.

import type { ModulePatterns } from './module-patterns.ts';
import type { RopeScaling } from './rope.ts';

/** Name of a graph: one page each in graphs/. */
export type ModelFamily = string;

/**
 * How the linear layers are stored. `masters`: float latent weights, made ternary by absmean at load. `packed`: 2-bit
 * trits and a `weight_scale` that the output is multiplied with or divided by. `mlx`: MLX's affine packs, embedding and
 * head with them. `unpacked`: floats that are trits times a scale for every row and group of columns. `gguf`: as each
 * tensor's type says.
 */
export type LinearStorage = 'masters' | 'packed-multiply' | 'packed-divide' | 'mlx' | 'unpacked' | 'gguf';

/** Bits of a code and columns of a group in MLX's packs. */
export type MlxPack = { readonly bits: 1 | 2; readonly groupSize: number };

export type ModelConfig = {
  readonly family: ModelFamily;
  readonly hiddenSize: number;
  readonly intermediateSize: number;
  readonly numHiddenLayers: number;
  readonly numAttentionHeads: number;
  readonly numKeyValueHeads: number;
  readonly headDim: number;
  readonly vocabSize: number;
  readonly maxPositionEmbeddings: number;
  readonly ropeTheta: number;
  readonly ropeScaling?: RopeScaling | undefined;
  readonly rmsNormEps: number;
  readonly hiddenAct: 'relu2' | 'silu';
  readonly tieWordEmbeddings: boolean;
  readonly linearStorage: LinearStorage;
  readonly mlx?: MlxPack | undefined;
  /** Linear layers that stay floats although the others are ternary. */
  readonly floatModules?: ModulePatterns | undefined;
  readonly bosTokenId: number | undefined;
  readonly eosTokenIds: readonly number[];
  /** Keys of the file that are not known to be harmless; nothing was done with them. */
  readonly unknownKeys: readonly string[];
};
