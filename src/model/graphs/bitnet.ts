// BitNet b1.58 as Hugging Face has it (2B-4T): sub-norms and ReLU². Source: arXiv:2504.12285; transformers' BitNet.
//
//   layer: h = norm(x); q, k, v = BitLinear(h); rope(q, k); a = attention; x += BitLinear(subNorm(a))
//          h = norm(x); m = relu2(BitLinear_gate(h)) * BitLinear_up(h);    x += BitLinear(subNorm(m))

import { type Graph, subNorms, TENSORS } from '../graph.ts';

const norms = subNorms({ attention: 'self_attn.attn_sub_norm', ffn: 'mlp.ffn_sub_norm' });
const { inputNorm, q, k, v, o, postAttentionNorm, gate, up, down } = TENSORS;

export const bitnet: Graph = {
  family: 'bitnet',
  title: 'BitNet',
  hf: { architectures: ['BitNetForCausalLM'], modelTypes: ['bitnet'] },
  gguf: { architectures: ['bitnet-b1.58', 'bitnet-25'], interleavedHeads: false },
  defaults: { ropeTheta: 500_000, rmsNormEps: 1e-5, tieWordEmbeddings: true, hiddenAct: 'relu2' },
  oneScale: 'int8',
  ropeScaling: [],
  refusedFlags: [],
  layer: [inputNorm, q, k, v, norms.attnSubNorm, o, postAttentionNorm, gate, up, norms.ffnSubNorm, down],
  recordLayer: (recorder, layer, index) => {
    recorder.attention(layer, index, { subNorm: layer.attnSubNorm });
    recorder.gatedFfn(layer, index, { subNorm: layer.ffnSubNorm });
  },
  trainable: true,
};
