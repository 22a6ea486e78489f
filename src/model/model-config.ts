// What the forward pass needs to know of a model, whichever file says it. Field names are a checkpoint's own in camelCase.

import type { ModulePatterns } from './module-patterns.ts';
import type { RopeScaling } from './rope.ts';
import type { Rotation } from './rotation.ts';

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

/** A gated delta net's heads, and its causal convolution. */
export type DeltaNetConfig = {
  readonly keyHeads: number;
  /** A multiple of keyHeads. */
  readonly valueHeads: number;
  /** Of keys and values alike. */
  readonly headDim: number;
  readonly convTaps: number;
  /** Which key head a value head has: h mod keyHeads as GGUF lays them, or h div (valueHeads / keyHeads). */
  readonly order: 'tiled' | 'grouped';
};

/** A matrix of a pack, and the columns of its rotation's blocks; 0 for none. */
export type PackModule = { readonly path: string; readonly block: number };

export type ExpertsConfig = {
  readonly count: number;
  /** Chosen for a token. */
  readonly used: number;
  readonly intermediateSize: number;
  /** Per layer: where gate and up are cut off before they are multiplied. */
  readonly clamps: readonly number[];
};

export type ModelConfig = {
  readonly family: ModelFamily;
  readonly hiddenSize: number;
  readonly intermediateSize: number;
  readonly numHiddenLayers: number;
  readonly numAttentionHeads: number;
  readonly numKeyValueHeads: number;
  readonly headDim: number;
  /** Elements of a head that turn, the first ones; all of them where absent. */
  readonly rotaryDim?: number | undefined;
  readonly vocabSize: number;
  readonly maxPositionEmbeddings: number;
  readonly ropeTheta: number;
  readonly ropeScaling?: RopeScaling | undefined;
  readonly rmsNormEps: number;
  readonly hiddenAct: 'relu2' | 'silu';
  readonly tieWordEmbeddings: boolean;
  readonly linearStorage: LinearStorage;
  /** Per layer, in graphs of several kinds: attention, or a recurrent state. */
  readonly layerKinds?: readonly ('attention' | 'recurrent')[] | undefined;
  readonly deltaNet?: DeltaNetConfig | undefined;
  readonly experts?: ExpertsConfig | undefined;
  /** Per layer: positions that attention sees, its own included; 0 for all. */
  readonly windows?: readonly number[] | undefined;
  /** Blocks after the last layer that only draft tokens; their tensors are not read. */
  readonly draftBlocks?: number | undefined;
  /** Of a pack in a rotated basis, whose contract lies in a file beside the config: what the config says of matrices. */
  readonly rotatedPack?: { readonly modules: readonly PackModule[] } | undefined;
  /** In which basis matrices are stored, if not their own. */
  readonly rotation?: Rotation | undefined;
  readonly mlx?: MlxPack | undefined;
  /** Linear layers that stay floats although the others are ternary. */
  readonly floatModules?: ModulePatterns | undefined;
  readonly bosTokenId: number | undefined;
  readonly eosTokenIds: readonly number[];
  /** Keys of the file that are not known to be harmless; nothing was done with them. */
  readonly unknownKeys: readonly string[];
};
