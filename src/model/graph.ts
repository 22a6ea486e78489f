// What a graph says of itself, once: which files are its, what its config keys mean, its tensors, and its forward pass. One
// page per graph lies in graphs/; loading, converting, random models and the parameters of training are loops over it.

import type { GraphRecorder } from './graph-recorder.ts';
import type { ModelConfig, ModelFamily } from './model-config.ts';
import type { LayerWeights, MatrixRole, VectorRole } from './model-weights.ts';

export type TensorSpec = {
  /** Within `model.layers.N.` and `.weight`. */
  readonly hf: string;
  /** Within `blk.N.` and `.weight`. */
  readonly gguf: string;
} & (
  | {
      readonly role: MatrixRole;
      readonly kind: 'matrix';
      readonly shape: (config: ModelConfig) => readonly [rows: number, columns: number];
      /** Rows are heads of this many; formats may order them by head. */
      readonly heads?: ((config: ModelConfig) => number) | undefined;
    }
  | { readonly role: VectorRole; readonly kind: 'vector'; readonly length: (config: ModelConfig) => number }
);

export type Graph = {
  readonly family: ModelFamily;
  /** For messages. */
  readonly title: string;
  readonly hf: {
    /** `architectures[0]` of config.json. */
    readonly architectures: readonly string[];
    /** `model_type`, where a config names no architecture. */
    readonly modelTypes: readonly string[];
  };
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
  /** Of one layer, in the order in which checkpoints list them. */
  readonly layer: readonly TensorSpec[];
  /** The forward pass of one layer, on shared blocks. */
  readonly recordLayer: (recorder: GraphRecorder, layer: LayerWeights, index: number) => void;
  /** Whether training knows the graph's gradients. */
  readonly trainable: boolean;
};

// ---- Rows of a tensor table

const attentionWidth = (config: ModelConfig) => config.numAttentionHeads * config.headDim;
const kvWidth = (config: ModelConfig) => config.numKeyValueHeads * config.headDim;

const matrix = (
  role: MatrixRole,
  hf: string,
  gguf: string,
  shape: (config: ModelConfig) => readonly [number, number],
  heads?: (config: ModelConfig) => number,
): TensorSpec => ({ role, kind: 'matrix', hf, gguf, shape, heads });

export const vector = (
  role: VectorRole,
  hf: string,
  gguf: string,
  length: (config: ModelConfig) => number,
): TensorSpec => ({ role, kind: 'vector', hf, gguf, length });

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
  hf: (index: number, name: string) => `model.layers.${index}.${name}.weight`,
  gguf: (index: number, name: string) => `blk.${index}.${name}.weight`,
} as const;
