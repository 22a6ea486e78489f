// Records a model's forward pass as a program. One function per graph family would repeat the same page three times, so
// there is one page, and the two things in which the families differ (sub-norms and the gate) are fields of the weights.
//
//   x = embed[ids]
//   layer: h = norm(x); q, k, v = BitLinear(h); rope(q, k); a = attention; x += BitLinear(subNorm(a))
//          h = norm(x); m = f(BitLinear_gate(h)) * BitLinear_up(h);        x += BitLinear(subNorm(m))
//   logits = head(norm(x))
// BitLinear = absmax quantization of its input, then the ternary product. Source: arXiv:2402.17764, arXiv:2504.12285.

import type {
  BufferId,
  BufferSpec,
  DenseWeight,
  Int8Weight,
  Op,
  Program,
  RopeSpec,
  TernaryWeight,
  VectorWeight,
  Weight,
  WeightId,
} from '../engine/program.ts';
import type { ModelConfig } from './config.ts';

export type LayerWeights = {
  readonly inputNorm: VectorWeight;
  readonly q: TernaryWeight;
  readonly k: TernaryWeight;
  readonly v: TernaryWeight;
  /** Absent in Llama graphs. */
  readonly attnSubNorm?: VectorWeight;
  readonly o: TernaryWeight;
  readonly postAttentionNorm: VectorWeight;
  readonly gate: TernaryWeight;
  readonly up: TernaryWeight;
  /** Absent in Llama graphs. */
  readonly ffnSubNorm?: VectorWeight;
  readonly down: TernaryWeight;
};

export type ModelWeights = {
  readonly embedding: DenseWeight;
  readonly layers: readonly LayerWeights[];
  readonly finalNorm: VectorWeight;
  /** The embedding itself when tied; int8 when asked for. */
  readonly head: DenseWeight | Int8Weight;
};

export type RecordOptions = {
  readonly name: string;
  /** Positions the program may use; at most the config's maxPositionEmbeddings. */
  readonly contextLength: number;
};

export function recordProgram(config: ModelConfig, weights: ModelWeights, options: RecordOptions): Program {
  const { hiddenSize, intermediateSize, numAttentionHeads: heads, numKeyValueHeads: kvHeads, headDim } = config;
  const attentionWidth = heads * headDim;
  const kvWidth = kvHeads * headDim;

  const buffers: BufferSpec[] = [];
  const buffer = (name: string, width: number, dtype: 'f32' | 'i8' = 'f32', rows: BufferSpec['rows'] = 'tokens') =>
    buffers.push({ name, dtype, rows, width }) - 1;
  const weightList: Weight[] = [];
  const weightIds = new Map<Weight, WeightId>();
  const use = (weight: Weight): WeightId => {
    const known = weightIds.get(weight);
    if (known !== undefined) return known;
    const id = weightList.push(weight) - 1;
    weightIds.set(weight, id);
    return id;
  };
  const ops: Op[] = [];

  const x = buffer('x', hiddenSize);
  const normed = buffer('normed', hiddenSize);
  const hiddenCodes = buffer('hidden codes', hiddenSize, 'i8');
  const hiddenScale = buffer('hidden scale', 1);
  const q = buffer('q', attentionWidth);
  const k = buffer('k', kvWidth);
  const v = buffer('v', kvWidth);
  const attended = buffer('attended', attentionWidth);
  const attendedCodes = buffer('attended codes', attentionWidth, 'i8');
  const attendedScale = buffer('attended scale', 1);
  const gate = buffer('gate', intermediateSize);
  const up = buffer('up', intermediateSize);
  const gatedCodes = buffer('gated codes', intermediateSize, 'i8');
  const gatedScale = buffer('gated scale', 1);
  const update = buffer('update', hiddenSize);

  const norm = (from: BufferId, weight: VectorWeight, out: BufferId) =>
    ops.push({ op: 'rmsNorm', x: from, weight: use(weight), eps: config.rmsNormEps, out });
  const quantize = (from: BufferId, codes: BufferId, scale: BufferId, label: string) =>
    ops.push({ op: 'quantize', x: from, codes, scale, label });
  const product = (codes: BufferId, scale: BufferId, weight: TernaryWeight, out: BufferId) =>
    ops.push({ op: 'ternaryMatmul', codes, scale, weight: use(weight), out });

  ops.push({ op: 'embed', table: use(weights.embedding), out: x });
  weights.layers.forEach((layer, index) => {
    norm(x, layer.inputNorm, normed);
    quantize(normed, hiddenCodes, hiddenScale, `layer ${index}, input of q_proj, k_proj and v_proj`);
    product(hiddenCodes, hiddenScale, layer.q, q);
    product(hiddenCodes, hiddenScale, layer.k, k);
    product(hiddenCodes, hiddenScale, layer.v, v);
    ops.push({ op: 'rope', x: q, heads, headDim });
    ops.push({ op: 'rope', x: k, heads: kvHeads, headDim });
    ops.push({ op: 'kvAppend', layer: index, k, v });
    const scale = Math.fround(headDim ** -0.5);
    ops.push({ op: 'attention', layer: index, q, out: attended, heads, kvHeads, headDim, scale });
    if (layer.attnSubNorm !== undefined) norm(attended, layer.attnSubNorm, attended);
    quantize(attended, attendedCodes, attendedScale, `layer ${index}, input of o_proj`);
    product(attendedCodes, attendedScale, layer.o, update);
    ops.push({ op: 'add', x, y: update });

    norm(x, layer.postAttentionNorm, normed);
    quantize(normed, hiddenCodes, hiddenScale, `layer ${index}, input of gate_proj and up_proj`);
    product(hiddenCodes, hiddenScale, layer.gate, gate);
    product(hiddenCodes, hiddenScale, layer.up, up);
    ops.push({ op: 'gatedActivation', fn: config.hiddenAct, gate, up, out: gate });
    if (layer.ffnSubNorm !== undefined) norm(gate, layer.ffnSubNorm, gate);
    quantize(gate, gatedCodes, gatedScale, `layer ${index}, input of down_proj`);
    product(gatedCodes, gatedScale, layer.down, update);
    ops.push({ op: 'add', x, y: update });
    ops.push({ op: 'countTrits', x, index });
  });

  const last = buffer('last', hiddenSize, 'f32', 'outputs');
  const logits = buffer('logits', config.vocabSize, 'f32', 'outputs');
  ops.push({ op: 'selectOutputs', x, out: last });
  norm(last, weights.finalNorm, last);
  if (weights.head.kind === 'int8') {
    const codes = buffer('last codes', hiddenSize, 'i8', 'outputs');
    const scale = buffer('last scale', 1, 'f32', 'outputs');
    quantize(last, codes, scale, 'input of the output head');
    ops.push({ op: 'int8Matmul', codes, scale, weight: use(weights.head), out: logits });
  } else {
    ops.push({ op: 'denseMatmul', x: last, weight: use(weights.head), out: logits });
  }

  return {
    name: options.name,
    buffers,
    weights: weightList,
    ops,
    kv: { layers: config.numHiddenLayers, kvHeads, headDim },
    rope: growingRope(config.ropeTheta, headDim, options.contextLength),
    contextLength: options.contextLength,
    vocabSize: config.vocabSize,
    logits,
    tracePoints: config.numHiddenLayers,
  };
}

/**
 * cos and sin of position * theta^(-2j/D) for j < D/2, position-major (positions, D/2), computed in double and rounded
 * once. Source: arXiv:2104.09864 section 3.2.2.
 */
export function ropeTables(
  theta: number,
  headDim: number,
  positions: number,
): { cos: Float32Array; sin: Float32Array } {
  const { cos, sin } = growingRope(theta, headDim, positions);
  return { cos, sin };
}

/** As `ropeTables`, computed as far as somebody asks: whoever takes `cos` or `sin` gets all of it. */
function growingRope(theta: number, headDim: number, positions: number): RopeSpec {
  const half = headDim / 2;
  const frequencies = Array.from({ length: half }, (_, j) => theta ** ((-2 * j) / headDim));
  const cos = new Float32Array(positions * half);
  const sin = new Float32Array(positions * half);
  let known = 0;
  const upTo = (end: number) => {
    for (; known < Math.min(end, positions); known += 1) {
      for (let j = 0; j < half; j += 1) {
        const angle = known * frequencies[j]!;
        cos[known * half + j] = Math.cos(angle);
        sin[known * half + j] = Math.sin(angle);
      }
    }
    return { cos, sin };
  };
  return {
    headDim,
    get cos() {
      return upTo(positions).cos;
    },
    get sin() {
      return upTo(positions).sin;
    },
    upTo,
  };
}
