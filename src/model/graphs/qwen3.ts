// Qwen3's dense graph with group-scaled ternary matrices, embedding and head (Ternary Bonsai 1.7B, 4B, 8B): Llama's, with
// an RMSNorm of each head of q and k before rotation. Weights only; the input of a matrix is rounded to int16.
// Source: transformers' Qwen3.

import { type Graph, TENSORS, vector } from '../graph.ts';

const { inputNorm, q, k, v, o, postAttentionNorm, gate, up, down } = TENSORS;

export const qwen3: Graph = {
  family: 'qwen3',
  title: 'Qwen3',
  hf: { architectures: ['Qwen3ForCausalLM'], modelTypes: ['qwen3'] },
  gguf: { architectures: ['qwen3'], interleavedHeads: false },
  defaults: { ropeTheta: 10_000, rmsNormEps: 1e-6, tieWordEmbeddings: false, hiddenAct: 'silu' },
  oneScale: 'int16',
  ropeScaling: ['linear', 'yarn'],
  refusedFlags: ['use_sliding_window'],
  layer: [
    inputNorm,
    q,
    k,
    v,
    vector('qNorm', 'self_attn.q_norm', 'attn_q_norm', (c) => c.headDim),
    vector('kNorm', 'self_attn.k_norm', 'attn_k_norm', (c) => c.headDim),
    o,
    postAttentionNorm,
    gate,
    up,
    down,
  ],
  recordLayer: (recorder, layer, index) => {
    recorder.attention(layer, index, { headNorms: { q: layer.qNorm!, k: layer.kNorm! } });
    recorder.gatedFfn(layer, index);
  },
  trainable: false,
};
