// Records a model's forward pass as a program, from blocks that graphs share. Buffers are named, and one name is one
// buffer in all layers. What a linear layer does with its input follows from its weights: ternary matrices get it rounded
// to int8 (BitNet), grouped ones to int16, dense ones as it is.

import type {
  BufferId,
  BufferSpec,
  GroupedWeight,
  Op,
  Program,
  RecurrentSpec,
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

/** See `hadamard` in program.ts. */
type HeadMove = { readonly keyHeads: number; readonly headDim: number };
type CodedWeight = Exclude<LinearWeight, { kind: 'dense' }>;
type Quantized = { readonly kind: string; readonly codes: BufferId; readonly scale: BufferId };

const kindOfCodes = (weight: CodedWeight) => (weight.kind === 'ternary' ? 'int8' : `int16 in ${weight.group}`);

/** As the file spells it; an int8 head is made from a matrix of that name. */
const weightName = ({ kind, name }: Weight) => (kind === 'int8' ? name.replace(/ \(int8\)$/, '') : name);

export class GraphRecorder {
  readonly config: ModelConfig;
  readonly #buffers: BufferSpec[] = [];
  readonly #bufferIds = new Map<string, BufferId>();
  readonly #weights: Weight[] = [];
  readonly #weightIds = new Map<Weight, WeightId>();
  readonly #ops: Op[] = [];
  readonly #recurrent: RecurrentSpec[] = [];
  /** Of each layer with attention; 0 for all positions. */
  readonly #windows: number[] = [];
  readonly #signs = new Map<number, VectorWeight>();
  readonly #reached = new Set<string>();
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
    if (this.config.rotation?.embedding === true) this.#hadamard(this.x, this.x, 'inverse');
  }

  #hadamard(x: BufferId, out: BufferId, direction: 'forward' | 'inverse', move?: HeadMove): void {
    const { width } = this.#buffers[x]!;
    const { block, signs } = this.config.rotation!;
    let weight = this.#signs.get(width);
    if (weight === undefined) {
      // Validated: every width that is rotated has signs.
      weight = { kind: 'vector', name: `signs of ${width}`, values: signs(width) };
      this.#signs.set(width, weight);
    }
    const { keyHeads, headDim } = move ?? { keyHeads: 0, headDim: 0 };
    this.push({ op: 'hadamard', x, signs: this.use(weight), block, direction, keyHeads, headDim, out });
  }

  /** Whether a matrix is stored in a rotated basis, so that its input has to be rotated: its name says so. */
  #isRotated(weight: Weight): boolean {
    return this.config.rotation?.matrices.has(weightName(weight)) === true;
  }

  /** x for the matrices stored in a rotated basis. In place where nobody reads it as it was. */
  #rotated(x: BufferId, weights: readonly Weight[], isOnlyReader: boolean, move?: HeadMove): BufferId {
    const { name, width, rows } = this.#buffers[x]!;
    const out = isOnlyReader && move === undefined ? x : this.buffer(`${name} rotated`, width, { rows });
    this.#hadamard(x, out, 'forward', move);
    for (const weight of weights) this.#reached.add(weightName(weight));
    return out;
  }

  norm(x: BufferId, weight: VectorWeight, out: BufferId): void {
    this.push({ op: 'rmsNorm', x, weight: this.use(weight), eps: this.config.rmsNormEps, out });
  }

  /**
   * out = weight . x for matrices that read the same x, rotated for those that want it. `label`: where we are, for errors.
   * `move`: how heads lie in x that these matrices, if rotated and trained so, have in key heads' order.
   */
  linear(x: BufferId, outputs: readonly LinearOutput[], label: string, move?: HeadMove): void {
    const rotated = outputs.filter(({ weight }) => this.#isRotated(weight));
    const plain = outputs.filter(({ weight }) => !this.#isRotated(weight));
    if (plain.length > 0) this.#products(x, plain, label);
    if (rotated.length === 0) return;
    const weights = rotated.map(({ weight }) => weight);
    const moved = this.config.rotation?.groupedColumns === true ? move : undefined;
    this.#products(this.#rotated(x, weights, plain.length === 0, moved), rotated, label);
  }

  #products(x: BufferId, outputs: readonly LinearOutput[], label: string): void {
    let quantized: Quantized | undefined;
    for (const { weight, out } of outputs) {
      if (weight.kind === 'dense') {
        this.push({ op: 'denseMatmul', x, weight: this.use(weight), out });
        continue;
      }
      if (quantized?.kind !== kindOfCodes(weight)) quantized = this.#quantize(x, weight, label);
      const { codes, scale } = quantized;
      const op = weight.kind === 'ternary' ? 'ternaryMatmul' : 'groupedMatmul';
      this.push({ op, codes, scale, weight: this.use(weight), out });
    }
  }

  /** x rounded to what products with such a weight take. */
  #quantize(x: BufferId, weight: CodedWeight, label: string): Quantized {
    const { name, rows } = this.#buffers[x]!;
    const kind = kindOfCodes(weight);
    const scale = this.buffer(`${name} scale (${kind})`, 1, { rows });
    const codes = this.#codes(`${name} codes (${kind})`, weight, rows);
    this.push({ op: weight.kind === 'ternary' ? 'quantize' : 'quantize16', x, codes, scale, label });
    return { kind, codes, scale };
  }

  #codes(name: string, weight: CodedWeight, rows: BufferSpec['rows']): BufferId {
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
      /** W_q gives each head's query and then a gate of its output, whose sigmoid it is multiplied with. */
      readonly outputGate?: boolean | undefined;
      /** Positions that are seen, the own one included; all where absent. */
      readonly window?: number | undefined;
      /** Without RoPE. */
      readonly noPositions?: boolean | undefined;
    } = {},
  ): void {
    const { hiddenSize, numAttentionHeads: heads, numKeyValueHeads: kvHeads, headDim, rmsNormEps: eps } = this.config;
    const normed = this.buffer('normed', hiddenSize);
    const q = this.buffer('q', heads * headDim);
    const k = this.buffer('k', kvHeads * headDim);
    const v = this.buffer('v', kvHeads * headDim);
    const attended = this.buffer('attended', heads * headDim);
    const both = options.outputGate === true ? this.buffer('q and gate', 2 * heads * headDim) : q;
    const gate = options.outputGate === true ? this.buffer('attention gate', heads * headDim) : undefined;
    this.norm(this.x, layer.inputNorm!, normed);
    const outputs = [
      { weight: layer.q!, out: both },
      { weight: layer.k!, out: k },
      { weight: layer.v!, out: v },
    ];
    this.linear(normed, outputs, `layer ${index}, input of q_proj, k_proj and v_proj`);
    if (gate !== undefined) this.push({ op: 'splitHeads', x: both, first: q, second: gate, heads, headDim });
    if (options.headNorms !== undefined) {
      const [ofQ, ofK] = [this.use(options.headNorms.q), this.use(options.headNorms.k)];
      this.push({ op: 'rmsNormHeads', x: q, weight: ofQ, eps, heads, headDim, out: q });
      this.push({ op: 'rmsNormHeads', x: k, weight: ofK, eps, heads: kvHeads, headDim, out: k });
    }
    if (options.noPositions !== true) {
      this.push({ op: 'rope', x: q, heads, headDim });
      this.push({ op: 'rope', x: k, heads: kvHeads, headDim });
    }
    const cache = this.#windows.push(options.window ?? 0) - 1;
    this.push({ op: 'kvAppend', layer: cache, k, v });
    const scale = Math.fround(headDim ** -0.5);
    this.push({ op: 'attention', layer: cache, q, out: attended, heads, kvHeads, headDim, scale });
    if (options.subNorm !== undefined) this.norm(attended, options.subNorm, attended);
    const output = gate ?? attended;
    if (gate !== undefined) this.push({ op: 'gatedActivation', fn: 'sigmoid', gate, up: attended, out: gate });
    this.#addLinear(output, layer.o!, `layer ${index}, input of o_proj`);
  }

  /** x += W_out (headNorm(delta rule of the convolved W_qkv h) * silu(W_z h)) of h = norm(x). */
  gatedDeltaNet(layer: LayerWeights, index: number): void {
    const { hiddenSize, rmsNormEps: eps, deltaNet } = this.config;
    const { keyHeads, valueHeads, headDim, convTaps: taps, order } = deltaNet!;
    const keyWidth = keyHeads * headDim;
    const channels = 2 * keyWidth + valueHeads * headDim;
    const normed = this.buffer('normed', hiddenSize);
    const qkv = this.buffer('qkv', channels);
    const convolved = this.buffer('convolved', channels);
    const z = this.buffer('z', valueHeads * headDim);
    const beta = this.buffer('beta', valueHeads);
    const alpha = this.buffer('alpha', valueHeads);
    const delta = this.buffer('delta', valueHeads * headDim);
    this.norm(this.x, layer.inputNorm!, normed);
    const outputs = [
      { weight: layer.qkv!, out: qkv },
      { weight: layer.z!, out: z },
      { weight: layer.beta!, out: beta },
      { weight: layer.alpha!, out: alpha },
    ];
    this.linear(normed, outputs, `layer ${index}, input of in_proj`);
    const convState = this.#state(`layer ${index}, convolution`, (taps - 1) * channels);
    this.push({ op: 'causalConv', state: convState, x: qkv, weight: this.use(layer.conv!), taps, out: convolved });
    const scale = Math.fround(headDim ** -0.5);
    this.push({ op: 'l2NormHeads', x: convolved, offset: 0, heads: keyHeads, headDim, eps, scale });
    this.push({ op: 'l2NormHeads', x: convolved, offset: keyWidth, heads: keyHeads, headDim, eps, scale: 1 });
    this.push({
      op: 'gatedDelta',
      state: this.#state(`layer ${index}, delta rule`, valueHeads * headDim * headDim),
      x: convolved,
      beta,
      alpha,
      decay: this.use(layer.decay!),
      bias: this.use(layer.decayBias!),
      keyHeads,
      valueHeads,
      headDim,
      order,
      out: delta,
    });
    const norm = this.use(layer.deltaNorm!);
    this.push({ op: 'rmsNormHeads', x: delta, weight: norm, eps, heads: valueHeads, headDim, out: delta });
    this.push({ op: 'gatedActivation', fn: 'silu', gate: z, up: delta, out: z });
    this.#addLinear(z, layer.deltaOut!, `layer ${index}, input of out_proj`, { keyHeads, headDim });
  }

  #state(name: string, width: number): number {
    return this.#recurrent.push({ name, width }) - 1;
  }

  /** x += W_down (act(W_gate h) * W_up h) of h = norm(x). */
  gatedFfn(layer: LayerWeights, index: number, options: { readonly subNorm?: VectorWeight | undefined } = {}): void {
    const { hiddenSize, intermediateSize, hiddenAct } = this.config;
    const normed = this.buffer('normed', hiddenSize);
    const gate = this.buffer('gate', intermediateSize);
    const up = this.buffer('up', intermediateSize);
    this.norm(this.x, layer.postAttentionNorm!, normed);
    const outputs = [
      { weight: layer.gate!, out: gate },
      { weight: layer.up!, out: up },
    ];
    this.linear(normed, outputs, `layer ${index}, input of gate_proj and up_proj`);
    this.push({ op: 'gatedActivation', fn: hiddenAct, gate, up, out: gate });
    if (options.subNorm !== undefined) this.norm(gate, options.subNorm, gate);
    this.#addLinear(gate, layer.down!, `layer ${index}, input of down_proj`);
  }

  /** x += the weighted outputs of the experts that the router chooses, each a clamped gated FFN, of h = norm(x). */
  mixtureOfExperts(layer: LayerWeights, index: number, { leastShare }: { readonly leastShare: number }): void {
    const { hiddenSize, experts } = this.config;
    const { count, used, intermediateSize, clamps } = experts!;
    const normed = this.buffer('normed', hiddenSize);
    const logits = this.buffer('router', count);
    const chosen = this.buffer('chosen experts', used, { dtype: 'i32' });
    const weights = this.buffer('shares of experts', used);
    const gate = this.buffer('expert gate', intermediateSize, { rows: 'choices' });
    const up = this.buffer('expert up', intermediateSize, { rows: 'choices' });
    const update = this.buffer('expert update', hiddenSize, { rows: 'choices' });
    this.norm(this.x, layer.postAttentionNorm!, normed);
    const label = `layer ${index}, input of the experts' router`;
    this.linear(normed, [{ weight: layer.router!, out: logits }], label);
    this.push({ op: 'routeExperts', x: logits, experts: chosen, weights, least: leastShare, label });
    const into = [
      { weight: layer.expertGate!, out: gate },
      { weight: layer.expertUp!, out: up },
    ];
    this.#expertProducts(normed, chosen, into, `layer ${index}, input of the experts' gate_proj and up_proj`);
    this.push({ op: 'gatedActivation', fn: 'clampedSilu', limit: clamps[index]!, gate, up, out: gate });
    const out = [{ weight: layer.expertDown!, out: update }];
    this.#expertProducts(gate, chosen, out, `layer ${index}, input of the experts' down_proj`);
    this.push({ op: 'addExperts', x: this.x, y: update, weights });
  }

  #expertProducts(x: BufferId, experts: BufferId, outputs: readonly LinearOutput[], label: string): void {
    let quantized: Quantized | undefined;
    for (const { weight, out } of outputs) {
      if (weight.kind !== 'grouped')
        throw new TypeError(`experts are grouped matrices, "${weight.name}" is ${weight.kind}`);
      if (quantized?.kind !== kindOfCodes(weight)) quantized = this.#quantize(x, weight, label);
      const { codes, scale } = quantized;
      this.push({ op: 'expertMatmul', codes, scale, weight: this.use(weight), experts, out });
    }
  }

  #addLinear(from: BufferId, weight: LinearWeight, label: string, move?: HeadMove): void {
    const update = this.buffer('update', this.config.hiddenSize);
    this.linear(from, [{ weight, out: update }], label, move);
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
      const x = this.#isRotated(weight) ? this.#rotated(last, [weight], true) : last;
      this.push({ op: 'quantize', x, codes, scale, label });
      this.push({ op: 'int8Matmul', codes, scale, weight: this.use(weight), out: logits });
    } else {
      this.linear(last, [{ weight, out: logits }], label);
    }
    return logits;
  }

  finish(logits: BufferId, { name, contextLength }: RecordOptions): Program {
    const { numHiddenLayers, numKeyValueHeads: kvHeads, headDim, rotaryDim = headDim, ropeTheta } = this.config;
    const { ropeScaling, vocabSize, rotation, experts } = this.config;
    const unreached = [...(rotation?.matrices ?? [])].find((matrix) => !this.#reached.has(matrix));
    // Every matrix of the list is in the file and the graph, so this is a fault of the graph's page.
    if (unreached !== undefined) throw new Error(`"${unreached}" is to be rotated, and its input never was`);
    const windows = this.#windows;
    return {
      name,
      buffers: this.#buffers,
      weights: this.#weights,
      ops: this.#ops,
      kv: { layers: windows.length, kvHeads, headDim, ...(windows.some((size) => size > 0) && { windows }) },
      rope: growingRope(ropeTheta, rotaryDim, contextLength, ropeScaling),
      ...(this.#recurrent.length > 0 && { recurrent: this.#recurrent }),
      ...(experts !== undefined && { choices: experts.used }),
      contextLength,
      vocabSize,
      logits,
      tracePoints: numHiddenLayers,
    };
  }
}
