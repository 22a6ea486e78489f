// 1bitLLM's reproduction of BitNet b1.58 (large, 3B): BitNet's graph with SiLU and other names; its files call themselves
// "BitnetForCausalLM", one letter from Hugging Face's. Source: 1bitLLM's modeling_bitnet.py; arXiv:2402.17764.

import { type Graph, subNorms, TENSORS } from '../graph.ts';
import { bitnet } from './bitnet.ts';

const norms = subNorms({ attention: 'self_attn.inner_attn_ln', ffn: 'mlp.ffn_layernorm' });
const { inputNorm, q, k, v, o, postAttentionNorm, gate, up, down } = TENSORS;

export const onebitllm: Graph = {
  ...bitnet,
  family: 'onebitllm',
  title: '1bitLLM',
  hf: { architectures: ['BitnetForCausalLM'], modelTypes: [] },
  gguf: { architectures: ['bitnet'], interleavedHeads: false },
  defaults: { ropeTheta: 10_000, rmsNormEps: 1e-5, tieWordEmbeddings: true, hiddenAct: 'silu' },
  layer: [inputNorm, q, k, v, norms.attnSubNorm, o, postAttentionNorm, gate, up, norms.ffnSubNorm, down],
};
