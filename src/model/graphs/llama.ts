// Llama's graph with ternary matrices: BitLinear layers (HF1BitLLM, Falcon3-1.58bit, Falcon-E), or weights alone (TriLM).
// Source: transformers' Llama; arXiv:2402.17764; TriLM: arXiv:2407.12327.

import { type Graph, TENSORS } from '../graph.ts';

const { inputNorm, q, k, v, o, postAttentionNorm, gate, up, down } = TENSORS;

export const llama: Graph = {
  family: 'llama',
  title: 'Llama',
  hf: { architectures: ['LlamaForCausalLM'], modelTypes: [] },
  gguf: { architectures: ['llama'], interleavedHeads: true },
  defaults: { ropeTheta: 10_000, rmsNormEps: 1e-6, tieWordEmbeddings: false, hiddenAct: 'silu' },
  oneScale: 'int8',
  ropeScaling: [],
  refusedFlags: [],
  layer: [inputNorm, q, k, v, o, postAttentionNorm, gate, up, down],
  recordLayer: (recorder, layer, index) => {
    recorder.attention(layer, index);
    recorder.gatedFfn(layer, index);
  },
  trainable: true,
};
