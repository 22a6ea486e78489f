// The forward and backward pass of a whole model over a batch. One page for the three graph families, as in
// `model/record.ts`; the same operations in the same order, so the logits are those of inference, bit for bit.
//
//   x = embed[ids]
//   layer: h = norm(x); q, k, v = BitLinear(h); rope(q, k); a = attention; x += BitLinear(subNorm(a))
//          h = norm(x); m = f(BitLinear_gate(h)) * BitLinear_up(h);        x += BitLinear(subNorm(m))
//   loss = cross entropy of head(norm(x))

import { NonFiniteError } from '../engine/backend.ts';
import type { ModelConfig } from '../model/model-config.ts';
import { ropeTables } from '../model/rope.ts';
import { type Batch, checkBatch, splitBatch } from './batch.ts';
import type { TrainKernels } from './kernels.ts';
import type { AttentionShape } from './ops/attention.ts';
import { NO_TARGET, rowLoss } from './ops/cross-entropy.ts';
import { type LayerParameters, type Parameter, type ParameterPlan, planParameters, view } from './parameters.ts';

/** What a layer keeps of a forward pass; (T, ...) row-major. `codes` and `scale` are the quantized inputs. */
type LayerTape = {
  readonly x: Float32Array;
  readonly inputR: Float32Array;
  readonly inputCodes: Int8Array;
  readonly inputScale: Float32Array;
  readonly q: Float32Array;
  readonly k: Float32Array;
  readonly v: Float32Array;
  readonly attended: Float32Array;
  readonly attendedR: Float32Array;
  readonly attendedCodes: Int8Array;
  readonly attendedScale: Float32Array;
  readonly middle: Float32Array;
  readonly middleR: Float32Array;
  readonly middleCodes: Int8Array;
  readonly middleScale: Float32Array;
  readonly gate: Float32Array;
  readonly up: Float32Array;
  readonly gated: Float32Array;
  readonly gatedR: Float32Array;
  readonly gatedCodes: Int8Array;
  readonly gatedScale: Float32Array;
};

/** Logits are made for so many floats at a time (64 MB). */
const LOGITS_CHUNK = 16 * 2 ** 20;
/** Rows that go through the network at once unless told otherwise; more than one part changes memory, not bits. */
const DEFAULT_PART_ROWS = 4096;

export type LossResult = {
  /** Mean over the rows with a target, in nats. */
  readonly loss: number;
  /** Loss of each row, 0 where there is no target. */
  readonly rowLosses: Float64Array;
};

export type PassOptions = {
  readonly signal?: AbortSignal;
  /** Called as layers pass, forward and backward: parts done of all. */
  readonly onProgress?: (done: number, total: number) => void;
  /** Gets the logits (rows, V) of rows from `firstRow` on; they are the network's memory. */
  readonly onLogits?: (logits: Float32Array, firstRow: number, rows: number) => void;
};

export class Network {
  readonly config: ModelConfig;
  readonly plan: ParameterPlan;
  readonly kernels: TrainKernels;
  /** Longest sequence. */
  readonly context: number;
  readonly #partRows: number;
  readonly #attention: AttentionShape;
  readonly #cos: Float32Array;
  readonly #sin: Float32Array;
  /** Trits and scale of every ternary matrix, as of the last `quantize`. */
  readonly #trits = new Map<Parameter, Int8Array>();
  readonly #scales = new Map<Parameter, number>();
  #rows = 0;
  #tapes: LayerTape[] = [];
  #buffers: ReturnType<Network['makeBuffers']> | undefined;
  #logits = new Float32Array(0);
  #gradients: Float32Array | undefined;

  constructor(
    config: ModelConfig,
    kernels: TrainKernels,
    options: { readonly context?: number; readonly partRows?: number } = {},
  ) {
    this.config = config;
    this.plan = planParameters(config);
    this.kernels = kernels;
    this.context = Math.min(options.context ?? 4096, config.maxPositionEmbeddings);
    this.#partRows = options.partRows ?? DEFAULT_PART_ROWS;
    const { headDim } = config;
    this.#attention = {
      heads: config.numAttentionHeads,
      kvHeads: config.numKeyValueHeads,
      headDim,
      scale: Math.fround(headDim ** -0.5),
    };
    const { cos, sin } = ropeTables(config.ropeTheta, headDim, this.context);
    this.#cos = cos;
    this.#sin = sin;
    for (const parameter of this.plan.all) {
      if (parameter.kind === 'ternary') this.#trits.set(parameter, new Int8Array(parameter.length));
    }
  }

  /** Takes the trits of all ternary matrices from the latents. Both passes use those of the last call. */
  quantize(latents: Float32Array): void {
    const parameters = [...this.#trits.keys()];
    const scales = this.kernels.quantizeMatrices(
      parameters.map((parameter) => ({
        name: parameter.name,
        w: view(latents, parameter),
        trits: this.#trits.get(parameter)!,
      })),
    );
    parameters.forEach((parameter, i) => {
      this.#scales.set(parameter, scales[i]!);
    });
  }

  /** Trits and scale of a matrix as of the last `quantize`; the trits are the network's memory. */
  ternary(parameter: Parameter): { readonly trits: Int8Array; readonly scale: number } {
    return { trits: this.#trits.get(parameter)!, scale: this.#scales.get(parameter)! };
  }

  /** Room for the gradient of all parameters, for one step at a time; the network's memory. */
  get gradients(): Float32Array {
    this.#gradients ??= new Float32Array(this.plan.length);
    return this.#gradients;
  }

  /** Mean loss of a batch. `quantize` must have been called for these latents. */
  loss(latents: Float32Array, batch: Batch, options: PassOptions = {}): LossResult {
    return this.#run(latents, batch, undefined, options);
  }

  /** As `loss`; sets `gradients` (all of it) to the gradient of the mean loss. */
  lossAndGradients(
    latents: Float32Array,
    batch: Batch,
    gradients: Float32Array,
    options: PassOptions = {},
  ): LossResult {
    gradients.fill(0);
    return this.#run(latents, batch, gradients, options);
  }

  #run(latents: Float32Array, batch: Batch, gradients: Float32Array | undefined, options: PassOptions): LossResult {
    checkBatch(batch, { vocabSize: this.config.vocabSize, context: this.context });
    const gradScale = Math.fround(1 / batch.targetCount);
    const rowLosses = new Float64Array(batch.tokens.length);
    // A tied head's gradient is kept apart until the end: its sum then runs over all rows, however they were cut.
    const dHead =
      gradients === undefined
        ? undefined
        : this.plan.head === undefined
          ? new Float32Array(this.plan.embedding.length)
          : view(gradients, this.plan.head);
    const parts = splitBatch(batch, this.#partRows);
    const layers = this.config.numHiddenLayers;
    const perPart = (layers + 1) * (gradients === undefined ? 1 : 3);
    let row = 0;
    parts.forEach((part, i) => {
      let done = i * perPart;
      const tick = (weight: number) => {
        options.signal?.throwIfAborted();
        done += weight;
        options.onProgress?.(done, parts.length * perPart);
      };
      this.#forward(latents, part, tick);
      const firstRow = row;
      this.#head(latents, part, gradScale, rowLosses.subarray(row), gradients, dHead, (logits, at, rows) =>
        options.onLogits?.(logits, firstRow + at, rows),
      );
      tick(gradients === undefined ? 1 : 3);
      if (gradients !== undefined) this.#backward(latents, part, gradients, tick);
      row += part.tokens.length;
    });
    if (gradients !== undefined && this.plan.head === undefined) {
      this.kernels.addInPlace(view(gradients, this.plan.embedding), dHead!, this.plan.embedding.length);
    }
    let sum = 0;
    for (const value of rowLosses) sum += value;
    return { loss: sum / batch.targetCount, rowLosses };
  }

  makeBuffers(T: number) {
    const { hiddenSize, intermediateSize, headDim } = this.config;
    const attentionWidth = this.config.numAttentionHeads * headDim;
    const kvWidth = this.config.numKeyValueHeads * headDim;
    return {
      x: new Float32Array(T * hiddenSize),
      finalR: new Float32Array(T),
      hidden: new Float32Array(T * hiddenSize),
      normed: new Float32Array(T * Math.max(hiddenSize, attentionWidth, intermediateSize)),
      dx: new Float32Array(T * hiddenSize),
      dNormed: new Float32Array(T * Math.max(hiddenSize, attentionWidth, intermediateSize)),
      dAttended: new Float32Array(T * attentionWidth),
      dq: new Float32Array(T * attentionWidth),
      dk: new Float32Array(T * kvWidth),
      dv: new Float32Array(T * kvWidth),
      dGate: new Float32Array(T * intermediateSize),
      dUp: new Float32Array(T * intermediateSize),
      sums: new Float32Array(T),
      margins: new Float32Array(T),
    };
  }

  #makeTape(T: number): LayerTape {
    const { hiddenSize, intermediateSize, headDim } = this.config;
    const attentionWidth = this.config.numAttentionHeads * headDim;
    const kvWidth = this.config.numKeyValueHeads * headDim;
    const f32 = (width: number) => new Float32Array(T * width);
    return {
      x: f32(hiddenSize),
      inputR: f32(1),
      inputCodes: new Int8Array(T * hiddenSize),
      inputScale: f32(1),
      q: f32(attentionWidth),
      k: f32(kvWidth),
      v: f32(kvWidth),
      attended: f32(attentionWidth),
      attendedR: f32(1),
      attendedCodes: new Int8Array(T * attentionWidth),
      attendedScale: f32(1),
      middle: f32(hiddenSize),
      middleR: f32(1),
      middleCodes: new Int8Array(T * hiddenSize),
      middleScale: f32(1),
      gate: f32(intermediateSize),
      up: f32(intermediateSize),
      gated: f32(intermediateSize),
      gatedR: f32(1),
      gatedCodes: new Int8Array(T * intermediateSize),
      gatedScale: f32(1),
    };
  }

  #reserve(T: number): void {
    if (T <= this.#rows) return;
    this.#tapes = Array.from({ length: this.config.numHiddenLayers }, () => this.#makeTape(T));
    this.#buffers = this.makeBuffers(T);
    this.#rows = T;
  }

  #forward(latents: Float32Array, batch: Batch, tick: (weight: number) => void): void {
    const { kernels, config, plan } = this;
    const T = batch.tokens.length;
    this.#reserve(T);
    const { hiddenSize: hidden, intermediateSize: ffn, rmsNormEps: eps, headDim } = config;
    const attentionWidth = config.numAttentionHeads * headDim;
    const { x, normed } = this.#buffers!;
    kernels.embeddingForward(view(latents, plan.embedding), batch.tokens, T, hidden, x);
    plan.layers.forEach((layer, index) => {
      const tape = this.#tapes[index]!;
      tape.x.set(x.subarray(0, T * hidden));
      kernels.rmsNormForward(x, view(latents, layer.inputNorm), eps, T, hidden, tape.inputR, normed);
      this.#quantizeRows(normed, T, hidden, tape.inputCodes, tape.inputScale, index, 'q_proj, k_proj and v_proj');
      this.#product(layer.q, tape.inputCodes, tape.inputScale, T, tape.q);
      this.#product(layer.k, tape.inputCodes, tape.inputScale, T, tape.k);
      this.#product(layer.v, tape.inputCodes, tape.inputScale, T, tape.v);
      const { heads, kvHeads } = this.#attention;
      kernels.ropeForward(tape.q, batch.positions, this.#cos, this.#sin, T, heads, headDim);
      kernels.ropeForward(tape.k, batch.positions, this.#cos, this.#sin, T, kvHeads, headDim);
      kernels.attentionForward(tape.q, tape.k, tape.v, batch.starts, this.#attention, tape.attended);
      let input = tape.attended;
      if (layer.attnSubNorm !== undefined) {
        const weight = view(latents, layer.attnSubNorm);
        kernels.rmsNormForward(tape.attended, weight, eps, T, attentionWidth, tape.attendedR, normed);
        input = normed;
      }
      this.#quantizeRows(input, T, attentionWidth, tape.attendedCodes, tape.attendedScale, index, 'o_proj');
      this.#product(layer.o, tape.attendedCodes, tape.attendedScale, T, normed);
      kernels.addInPlace(x, normed, T * hidden);

      tape.middle.set(x.subarray(0, T * hidden));
      kernels.rmsNormForward(x, view(latents, layer.postAttentionNorm), eps, T, hidden, tape.middleR, normed);
      this.#quantizeRows(normed, T, hidden, tape.middleCodes, tape.middleScale, index, 'gate_proj and up_proj');
      this.#product(layer.gate, tape.middleCodes, tape.middleScale, T, tape.gate);
      this.#product(layer.up, tape.middleCodes, tape.middleScale, T, tape.up);
      kernels.gatedActivationForward(config.hiddenAct, tape.gate, tape.up, T * ffn, tape.gated);
      input = tape.gated;
      if (layer.ffnSubNorm !== undefined) {
        const weight = view(latents, layer.ffnSubNorm);
        kernels.rmsNormForward(tape.gated, weight, eps, T, ffn, tape.gatedR, normed);
        input = normed;
      }
      this.#quantizeRows(input, T, ffn, tape.gatedCodes, tape.gatedScale, index, 'down_proj');
      this.#product(layer.down, tape.gatedCodes, tape.gatedScale, T, normed);
      kernels.addInPlace(x, normed, T * hidden);
      tick(1);
    });
  }

  /** Loss of every row; with gradients also those of the head and final norm, and dx in the buffers. */
  #head(
    latents: Float32Array,
    batch: Batch,
    gradScale: number,
    rowLosses: Float64Array,
    gradients: Float32Array | undefined,
    dHead: Float32Array | undefined,
    onLogits: (logits: Float32Array, at: number, rows: number) => void,
  ): void {
    const { kernels, config, plan } = this;
    const { hiddenSize: C, vocabSize: V } = config;
    const T = batch.tokens.length;
    const { x, hidden, finalR, dNormed, dx, sums, margins } = this.#buffers!;
    const finalNorm = view(latents, plan.finalNorm);
    kernels.rmsNormForward(x, finalNorm, config.rmsNormEps, T, C, finalR, hidden);
    const head = view(latents, plan.head ?? plan.embedding);
    const chunk = Math.min(T, Math.max(1, Math.floor(LOGITS_CHUNK / V)));
    if (this.#logits.length < chunk * V) this.#logits = new Float32Array(chunk * V);
    const logits = this.#logits;
    for (let at = 0; at < T; at += chunk) {
      const rows = Math.min(chunk, T - at);
      const h = hidden.subarray(at * C, (at + rows) * C);
      kernels.denseForward(h, head, rows, V, C, logits);
      onLogits(logits, at, rows);
      const targets = batch.targets.subarray(at, at + rows);
      kernels.crossEntropyInPlace(logits, targets, gradients === undefined ? 0 : gradScale, rows, V, sums, margins);
      for (let t = 0; t < rows; t += 1) {
        if (targets[t] === NO_TARGET) continue;
        const loss = rowLoss(sums[t]!, margins[t]!);
        if (!Number.isFinite(loss)) throw new NonFiniteError(`logits of row ${at + t}`);
        rowLosses[at + t] = loss;
      }
      if (dHead === undefined) continue;
      kernels.denseBackwardInput(logits, head, rows, V, C, dNormed.subarray(at * C, (at + rows) * C));
      kernels.denseBackwardWeight(logits, h, rows, V, C, dHead);
    }
    if (gradients === undefined) return;
    dx.fill(0, 0, T * C);
    kernels.rmsNormBackward(x, finalNorm, finalR, dNormed, T, C, dx, view(gradients, plan.finalNorm));
  }

  #backward(latents: Float32Array, batch: Batch, gradients: Float32Array, tick: (weight: number) => void): void {
    const { kernels, config, plan } = this;
    const T = batch.tokens.length;
    const { hiddenSize: hidden, intermediateSize: ffn, headDim } = config;
    const attentionWidth = config.numAttentionHeads * headDim;
    const { dx, dNormed, dAttended, dq, dk, dv, dGate, dUp } = this.#buffers!;
    for (let index = config.numHiddenLayers - 1; index >= 0; index -= 1) {
      const layer: LayerParameters = plan.layers[index]!;
      const tape = this.#tapes[index]!;

      // dGated is written where dUp will be: the activation's backward pass may overwrite its input.
      this.#productBackward(layer.down, dx, tape.gatedCodes, tape.gatedScale, T, gradients, dUp.fill(0, 0, T * ffn));
      if (layer.ffnSubNorm !== undefined) {
        dNormed.set(dUp.subarray(0, T * ffn));
        const weight = view(latents, layer.ffnSubNorm);
        const dWeight = view(gradients, layer.ffnSubNorm);
        kernels.rmsNormBackward(tape.gated, weight, tape.gatedR, dNormed, T, ffn, dUp.fill(0, 0, T * ffn), dWeight);
      }
      kernels.gatedActivationBackward(config.hiddenAct, tape.gate, tape.up, dUp, T * ffn, dGate, dUp);
      dNormed.fill(0, 0, T * hidden);
      this.#productBackward(layer.gate, dGate, tape.middleCodes, tape.middleScale, T, gradients, dNormed);
      this.#productBackward(layer.up, dUp, tape.middleCodes, tape.middleScale, T, gradients, dNormed);
      this.#normBackward(layer.postAttentionNorm, latents, tape.middle, tape.middleR, T, gradients);

      dAttended.fill(0, 0, T * attentionWidth);
      this.#productBackward(layer.o, dx, tape.attendedCodes, tape.attendedScale, T, gradients, dAttended);
      if (layer.attnSubNorm !== undefined) {
        dNormed.set(dAttended.subarray(0, T * attentionWidth));
        dAttended.fill(0, 0, T * attentionWidth);
        const weight = view(latents, layer.attnSubNorm);
        const dWeight = view(gradients, layer.attnSubNorm);
        kernels.rmsNormBackward(tape.attended, weight, tape.attendedR, dNormed, T, attentionWidth, dAttended, dWeight);
      }
      const { q, k, v, attended } = tape;
      kernels.attentionBackward(q, k, v, attended, dAttended, batch.starts, this.#attention, dq, dk, dv);
      const { heads, kvHeads } = this.#attention;
      kernels.ropeBackward(dq, batch.positions, this.#cos, this.#sin, T, heads, headDim);
      kernels.ropeBackward(dk, batch.positions, this.#cos, this.#sin, T, kvHeads, headDim);
      dNormed.fill(0, 0, T * hidden);
      this.#productBackward(layer.q, dq, tape.inputCodes, tape.inputScale, T, gradients, dNormed);
      this.#productBackward(layer.k, dk, tape.inputCodes, tape.inputScale, T, gradients, dNormed);
      this.#productBackward(layer.v, dv, tape.inputCodes, tape.inputScale, T, gradients, dNormed);
      this.#normBackward(layer.inputNorm, latents, tape.x, tape.inputR, T, gradients);
      tick(2);
    }
    kernels.embeddingBackward(dx, batch.tokens, T, hidden, view(gradients, plan.embedding));
  }

  #quantizeRows(
    x: Float32Array,
    T: number,
    C: number,
    codes: Int8Array,
    scale: Float32Array,
    layer: number,
    of: string,
  ): void {
    const bad = this.kernels.quantizeRows(x, T, C, codes, scale);
    if (bad >= 0) throw new NonFiniteError(`layer ${layer}, input of ${of}, row ${bad} of the batch`);
  }

  #product(parameter: Parameter, codes: Int8Array, scale: Float32Array, T: number, out: Float32Array): void {
    const [R, C] = parameter.shape as [number, number];
    const { trits, scale: weightScale } = this.ternary(parameter);
    this.kernels.bitLinearForward(codes, scale, trits, weightScale, T, R, C, out);
  }

  /** Adds to dx and to the matrix's gradient. */
  #productBackward(
    parameter: Parameter,
    dy: Float32Array,
    codes: Int8Array,
    scale: Float32Array,
    T: number,
    gradients: Float32Array,
    dx: Float32Array,
  ): void {
    const [R, C] = parameter.shape as [number, number];
    const { trits, scale: weightScale } = this.ternary(parameter);
    this.kernels.bitLinearBackwardInput(dy, trits, weightScale, T, R, C, dx);
    this.kernels.bitLinearBackwardWeight(dy, codes, scale, T, R, C, view(gradients, parameter));
  }

  /** From dNormed in the buffers onto dx. */
  #normBackward(
    parameter: Parameter,
    latents: Float32Array,
    x: Float32Array,
    r: Float32Array,
    T: number,
    gradients: Float32Array,
  ): void {
    const { dNormed, dx } = this.#buffers!;
    const C = this.config.hiddenSize;
    this.kernels.rmsNormBackward(x, view(latents, parameter), r, dNormed, T, C, dx, view(gradients, parameter));
  }
}
