// Records a model's forward pass as a program, from blocks that graphs share. Buffers are named, and one name is one
// buffer in all layers. What a linear layer does with its input follows from its weights: ternary matrices get it rounded
// to int8 (BitNet), grouped ones to int16, dense ones as it is.

import type {
  BufferId,
  BufferSpec,
  GroupedWeight,
  Op,
  Program,
  VectorWeight,
  Weight,
  WeightId,
} from '../engine/program.ts';
import type { ModelConfig } from './model-config.ts';
import type { HeadWeight, LayerWeights, LinearWeight, TableWeight } from './model-weights.ts';
import { growingRope } from './rope.ts';

export type RecordOptions = {
  readonly name: string;
  /** Positions the program may use; at most the config's maxPositionEmbeddings. */
  readonly contextLength: number;
};

/** A matrix of a linear layer and where its product goes. */
export type LinearOutput = { readonly weight: LinearWeight; readonly out: BufferId };

export class GraphRecorder {
  readonly config: ModelConfig;
  readonly #buffers: BufferSpec[] = [];
  readonly #bufferIds = new Map<string, BufferId>();
  readonly #weights: Weight[] = [];
  readonly #weightIds = new Map<Weight, WeightId>();
  readonly #ops: Op[] = [];
  /** The residual stream. */
  readonly x: BufferId;

  constructor(config: ModelConfig) {
    this.config = config;
    this.x = this.buffer('x', config.hiddenSize);
  }

  /** One row per token; the buffer of this name, made when it is first asked for. */
  buffer(name: string, width: number, rest: Partial<Pick<BufferSpec, 'dtype' | 'rows' | 'group'>> = {}): BufferId {
    const known = this.#bufferIds.get(name);
    if (known !== undefined) return known;
    const id = this.#buffers.push({ name, dtype: 'f32', rows: 'tokens', width, ...rest }) - 1;
    this.#bufferIds.set(name, id);
    return id;
  }

  use(weight: Weight): WeightId {
    const known = this.#weightIds.get(weight);
    if (known !== undefined) return known;
    const id = this.#weights.push(weight) - 1;
    this.#weightIds.set(weight, id);
    return id;
  }

  push(op: Op): void {
    this.#ops.push(op);
  }

  embed(table: TableWeight): void {
    this.push({ op: table.kind === 'dense' ? 'embed' : 'embedGrouped', table: this.use(table), out: this.x });
  }

  norm(x: BufferId, weight: VectorWeight, out: BufferId): void {
    this.push({ op: 'rmsNorm', x, weight: this.use(weight), eps: this.config.rmsNormEps, out });
  }

  /** out = weight . x for matrices that read the same x. `label`: where we are, for errors. */
  linear(x: BufferId, outputs: readonly LinearOutput[], label: string): void {
    const { name, rows } = this.#buffers[x]!;
    let quantized: { kind: string; codes: BufferId; scale: BufferId } | undefined;
    for (const { weight, out } of outputs) {
      if (weight.kind === 'dense') {
        this.push({ op: 'denseMatmul', x, weight: this.use(weight), out });
        continue;
      }
      const kind = weight.kind === 'ternary' ? 'int8' : `int16 in ${weight.group}`;
      if (quantized?.kind !== kind) {
        const scale = this.buffer(`${name} scale (${kind})`, 1, { rows });
        const codes = this.#codes(`${name} codes (${kind})`, weight, rows);
        this.push({ op: weight.kind === 'ternary' ? 'quantize' : 'quantize16', x, codes, scale, label });
        quantized = { kind, codes, scale };
      }
      const { codes, scale } = quantized;
      const op = weight.kind === 'ternary' ? 'ternaryMatmul' : 'groupedMatmul';
      this.push({ op, codes, scale, weight: this.use(weight), out });
    }
  }

  #codes(name: string, weight: Exclude<LinearWeight, { kind: 'dense' }>, rows: BufferSpec['rows']): BufferId {
    if (weight.kind === 'ternary') return this.buffer(name, weight.columns, { dtype: 'i8', rows });
    return this.buffer(name, weight.columns, { dtype: 'i16', rows, group: (weight as GroupedWeight).group });
  }

  /** x += W_o attention(rope(W_q h), rope(W_k h), W_v h) of h = norm(x). */
  attention(
    layer: LayerWeights,
    index: number,
    options: {
      /** Before the output projection. */
      readonly subNorm?: VectorWeight | undefined;
      /** Of every head, before rotation. */
      readonly headNorms?: { readonly q: VectorWeight; readonly k: VectorWeight } | undefined;
    } = {},
  ): void {
    const { hiddenSize, numAttentionHeads: heads, numKeyValueHeads: kvHeads, headDim, rmsNormEps: eps } = this.config;
    const normed = this.buffer('normed', hiddenSize);
    const q = this.buffer('q', heads * headDim);
    const k = this.buffer('k', kvHeads * headDim);
    const v = this.buffer('v', kvHeads * headDim);
    const attended = this.buffer('attended', heads * headDim);
    this.norm(this.x, layer.inputNorm, normed);
    const outputs = [
      { weight: layer.q, out: q },
      { weight: layer.k, out: k },
      { weight: layer.v, out: v },
    ];
    this.linear(normed, outputs, `layer ${index}, input of q_proj, k_proj and v_proj`);
    if (options.headNorms !== undefined) {
      const [ofQ, ofK] = [this.use(options.headNorms.q), this.use(options.headNorms.k)];
      this.push({ op: 'rmsNormHeads', x: q, weight: ofQ, eps, heads, headDim, out: q });
      this.push({ op: 'rmsNormHeads', x: k, weight: ofK, eps, heads: kvHeads, headDim, out: k });
    }
    this.push({ op: 'rope', x: q, heads, headDim });
    this.push({ op: 'rope', x: k, heads: kvHeads, headDim });
    this.push({ op: 'kvAppend', layer: index, k, v });
    const scale = Math.fround(headDim ** -0.5);
    this.push({ op: 'attention', layer: index, q, out: attended, heads, kvHeads, headDim, scale });
    if (options.subNorm !== undefined) this.norm(attended, options.subNorm, attended);
    this.#addLinear(attended, layer.o, `layer ${index}, input of o_proj`);
  }

  /** x += W_down (act(W_gate h) * W_up h) of h = norm(x). */
  gatedFfn(layer: LayerWeights, index: number, options: { readonly subNorm?: VectorWeight | undefined } = {}): void {
    const { hiddenSize, intermediateSize, hiddenAct } = this.config;
    const normed = this.buffer('normed', hiddenSize);
    const gate = this.buffer('gate', intermediateSize);
    const up = this.buffer('up', intermediateSize);
    this.norm(this.x, layer.postAttentionNorm, normed);
    const outputs = [
      { weight: layer.gate, out: gate },
      { weight: layer.up, out: up },
    ];
    this.linear(normed, outputs, `layer ${index}, input of gate_proj and up_proj`);
    this.push({ op: 'gatedActivation', fn: hiddenAct, gate, up, out: gate });
    if (options.subNorm !== undefined) this.norm(gate, options.subNorm, gate);
    this.#addLinear(gate, layer.down, `layer ${index}, input of down_proj`);
  }

  #addLinear(from: BufferId, weight: LinearWeight, label: string): void {
    const update = this.buffer('update', this.config.hiddenSize);
    this.linear(from, [{ weight, out: update }], label);
    this.push({ op: 'add', x: this.x, y: update });
  }

  /** Counts the trits of the residual stream, in traced steps. */
  tracePoint(index: number): void {
    this.push({ op: 'countTrits', x: this.x, index });
  }

  /** Logits of the rows that are asked for. */
  head(finalNorm: VectorWeight, weight: HeadWeight): BufferId {
    const { hiddenSize, vocabSize } = this.config;
    const last = this.buffer('last', hiddenSize, { rows: 'outputs' });
    const logits = this.buffer('logits', vocabSize, { rows: 'outputs' });
    this.push({ op: 'selectOutputs', x: this.x, out: last });
    this.norm(last, finalNorm, last);
    const label = 'input of the output head';
    if (weight.kind === 'int8') {
      const codes = this.buffer('last codes', hiddenSize, { dtype: 'i8', rows: 'outputs' });
      const scale = this.buffer('last scale', 1, { rows: 'outputs' });
      this.push({ op: 'quantize', x: last, codes, scale, label });
      this.push({ op: 'int8Matmul', codes, scale, weight: this.use(weight), out: logits });
    } else {
      this.linear(last, [{ weight, out: logits }], label);
    }
    return logits;
  }

  finish(logits: BufferId, { name, contextLength }: RecordOptions): Program {
    const {
      numHiddenLayers: layers,
      numKeyValueHeads: kvHeads,
      headDim,
      ropeTheta,
      ropeScaling,
      vocabSize,
    } = this.config;
    return {
      name,
      buffers: this.#buffers,
      weights: this.#weights,
      ops: this.#ops,
      kv: { layers, kvHeads, headDim },
      rope: growingRope(ropeTheta, headDim, contextLength, ropeScaling),
      contextLength,
      vocabSize,
      logits,
      tracePoints: layers,
    };
  }
}
