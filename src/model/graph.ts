// What a graph says of itself, once: which files are its, what its config keys mean, its tensors, and its forward pass. One
// page per graph lies in graphs/; loading, converting, random models and the parameters of training are loops over it.

import type { ConfigKeys } from './config-keys.ts';
import type { GraphRecorder } from './graph-recorder.ts';
import type { ModelConfig, ModelFamily } from './model-config.ts';
import type { LayerWeights, MatrixRole, VectorRole } from './model-weights.ts';

export type Spelling = 'hf' | 'gguf';

type SizeOf = (config: ModelConfig) => number;

export type TensorSpec = {
  /** Within `model.layers.N.` and `.weight`. */
  readonly hf: string;
  /** Within `blk.N.` and `.weight`. */
  readonly gguf: string;
  /** Names that do not end in `.weight`. */
  readonly bare?: boolean | undefined;
  /** Which layers have it; all where absent. */
  readonly layers?: ((config: ModelConfig, index: number) => boolean) | undefined;
} & (MatrixSpec | VectorSpec);

export type MatrixSpec = {
  readonly role: MatrixRole;
  readonly kind: 'matrix';
  readonly shape: (config: ModelConfig) => readonly [rows: number, columns: number];
  /** Rows are heads of this many; formats may order them by head. */
  readonly heads?: SizeOf | undefined;
  /** As many matrices of that shape: one tensor in GGUF, in Hugging Face's names one for each, its number for `*`. */
  readonly experts?: SizeOf | undefined;
  /** Stays as it is, whatever its values. */
  readonly floats?: boolean | undefined;
};

export type VectorSpec = {
  readonly role: VectorRole;
  readonly kind: 'vector';
  readonly length: SizeOf;
  /** Shapes that files may give it; (length) where absent. */
  readonly shapes?: ((config: ModelConfig) => readonly (readonly number[])[]) | undefined;
  /** What the file's numbers mean, from its format. */
  readonly convert?: ((values: Float32Array, from: VectorSource) => Float32Array) | undefined;
  /** As a GGUF has it, where it is not the vector as it is. */
  readonly inGguf?:
    | ((
        values: Float32Array,
        config: ModelConfig,
      ) => { readonly shape: readonly number[]; readonly values: Float32Array })
    | undefined;
};

export type VectorSource = {
  readonly spelling: Spelling;
  readonly config: ModelConfig;
  /** Refuses the vector. */
  readonly fail: (what: string, fix: string) => never;
};

export type Graph = {
  readonly family: ModelFamily;
  /** For messages. */
  readonly title: string;
  readonly hf: {
    /** `architectures[0]` of config.json. */
    readonly architectures: readonly string[];
    /** `model_type`, where a config names no architecture. */
    readonly modelTypes: readonly string[];
    /** `model_type` of packs in a rotated basis, whatever architecture they name. */
    readonly rotatedTypes?: readonly string[] | undefined;
    /** Beginnings of names that some folders have, and what they are here. */
    readonly prefixes?: readonly (readonly [from: string, to: string])[] | undefined;
    /** Tensors of other parts of a model: left alone, with a word. */
    readonly otherParts?: readonly { readonly names: RegExp; readonly word: string }[] | undefined;
  };
  /** What only this graph's config says, beside the keys of all; throws by `keys.fail` for what we do not run. */
  readonly config?: ((keys: ConfigKeys, common: ModelConfig) => Partial<ModelConfig>) | undefined;
  readonly gguf: {
    /** `general.architecture`; the first is what `convert` writes. */
    readonly architectures: readonly string[];
    /** Whether the file's rows of q and k lie as neighbouring RoPE pairs; see `interleavedRow`. */
    readonly interleavedHeads: boolean;
  };
  /** What an absent key means in transformers. */
  readonly defaults: {
    readonly ropeTheta: number;
    readonly rmsNormEps: number;
    readonly tieWordEmbeddings: boolean;
    /** The gate where a config names none. */
    readonly hiddenAct: 'relu2' | 'silu';
  };
  /**
   * What one scale for a whole matrix means: `int8`: a BitNet, trained with inputs rounded to int8; `int16`: weights only,
   * run with inputs as near to floats as integers get.
   */
  readonly oneScale: 'int8' | 'int16';
  /** How the positions of RoPE may be scaled. */
  readonly ropeScaling: readonly ('linear' | 'yarn')[];
  /** Flags of config.json that must be false, beside those of every graph. */
  readonly refusedFlags: readonly string[];
  /** Models without any ternary matrix are run as well, as the floats they are. */
  readonly floats?: boolean | undefined;
  /** Weights may be stored in a rotated basis; see `rotation.ts`. */
  readonly rotates?: boolean | undefined;
  /** RoPE may turn only the first elements of a head: the share where a config names none. */
  readonly rotaryShare?: number | undefined;
  /** Layers may see a window. */
  readonly hasWindows?: boolean | undefined;
  /** What the numbers of the final norm mean; see `VectorSpec`. */
  readonly finalNorm?: VectorSpec['convert'];
  /** Of the layers, in the order in which checkpoints list them. */
  readonly layer: readonly TensorSpec[];
  /** The forward pass of one layer, on shared blocks. */
  readonly recordLayer: (recorder: GraphRecorder, layer: LayerWeights, index: number) => void;
  /** Whether training knows the graph's gradients. */
  readonly trainable: boolean;
};

// ---- Rows of a tensor table

const attentionWidth = (config: ModelConfig) => config.numAttentionHeads * config.headDim;
const kvWidth = (config: ModelConfig) => config.numKeyValueHeads * config.headDim;

export const matrix = (
  role: MatrixRole,
  hf: string,
  gguf: string,
  shape: (config: ModelConfig) => readonly [number, number],
  heads?: SizeOf,
): TensorSpec & MatrixSpec => ({ role, kind: 'matrix', hf, gguf, shape, heads });

export const vector = (role: VectorRole, hf: string, gguf: string, length: SizeOf): TensorSpec & VectorSpec => ({
  role,
  kind: 'vector',
  hf,
  gguf,
  length,
});

/** Tensors that only some layers have. */
export const only = (
  layers: NonNullable<TensorSpec['layers']>,
  ...tensors: readonly TensorSpec[]
): readonly TensorSpec[] => tensors.map((tensor) => ({ ...tensor, layers }));

/** What the layers of all graphs here have under the same names. */
export const TENSORS = {
  inputNorm: vector('inputNorm', 'input_layernorm', 'attn_norm', (c) => c.hiddenSize),
  q: matrix(
    'q',
    'self_attn.q_proj',
    'attn_q',
    (c) => [attentionWidth(c), c.hiddenSize],
    (c) => c.numAttentionHeads,
  ),
  k: matrix(
    'k',
    'self_attn.k_proj',
    'attn_k',
    (c) => [kvWidth(c), c.hiddenSize],
    (c) => c.numKeyValueHeads,
  ),
  v: matrix('v', 'self_attn.v_proj', 'attn_v', (c) => [kvWidth(c), c.hiddenSize]),
  o: matrix('o', 'self_attn.o_proj', 'attn_output', (c) => [c.hiddenSize, attentionWidth(c)]),
  postAttentionNorm: vector('postAttentionNorm', 'post_attention_layernorm', 'ffn_norm', (c) => c.hiddenSize),
  gate: matrix('gate', 'mlp.gate_proj', 'ffn_gate', (c) => [c.intermediateSize, c.hiddenSize]),
  up: matrix('up', 'mlp.up_proj', 'ffn_up', (c) => [c.intermediateSize, c.hiddenSize]),
  down: matrix('down', 'mlp.down_proj', 'ffn_down', (c) => [c.hiddenSize, c.intermediateSize]),
} as const;

/** Norms between attention or gate and the matrix behind it, under a family's own names. */
export const subNorms = (names: { readonly attention: string; readonly ffn: string }) => ({
  attnSubNorm: vector('attnSubNorm', names.attention, 'attn_sub_norm', attentionWidth),
  ffnSubNorm: vector('ffnSubNorm', names.ffn, 'ffn_sub_norm', (c) => c.intermediateSize),
});

/** Tensors outside the layers. */
export const MODEL_TENSORS = {
  embedding: { hf: 'model.embed_tokens.weight', gguf: 'token_embd.weight' },
  finalNorm: { hf: 'model.norm.weight', gguf: 'output_norm.weight' },
  head: { hf: 'lm_head.weight', gguf: 'output.weight' },
} as const;

/** Whole names of a layer's tensor. */
export const layerName = {
  hf: (index: number, name: string, bare = false) => `model.layers.${index}.${name}${bare ? '' : '.weight'}`,
  gguf: (index: number, name: string, bare = false) => `blk.${index}.${name}${bare ? '' : '.weight'}`,
} as const;

/** The tensors of one layer with their names in a format, in the order of the table. */
export function tensorsOf(graph: Graph, config: ModelConfig, index: number, spelling: Spelling) {
  return graph.layer
    .filter(({ layers }) => layers?.(config, index) ?? true)
    .map((tensor) => ({ tensor, name: layerName[spelling](index, tensor[spelling], tensor.bare) }));
}
