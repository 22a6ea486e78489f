// Models of the hybrid and mixture graphs with random weights, and what they compute in float64, written from the formulas and
// not from the engine: weights as they are without any rotation, attention over all keys at once, experts by the book.

import type { DenseWeight, GroupedWeight, VectorWeight } from '../../src/engine/program.ts';
import { expertsWeight } from '../../src/model/grouped-weight.ts';
import type { ModelConfig } from '../../src/model/model-config.ts';
import type { LayerWeights, ModelWeights } from '../../src/model/model-weights.ts';
import { toQuads } from '../../src/quant/grouped/grouped-matrix.ts';
import { toPanel64 } from '../../src/quant/grouped/panel64.ts';
import { splitMix } from '../engine-js/random.ts';

/** A matrix in double, row-major. */
export type Matrix = { readonly rows: number; readonly columns: number; readonly values: Float64Array };

export type RandomModel = {
  readonly config: ModelConfig;
  readonly weights: ModelWeights;
  /** By the weight's name: what it stands for, experts one after the other. */
  readonly matrices: ReadonlyMap<string, readonly Matrix[]>;
  readonly vectors: ReadonlyMap<string, Float64Array>;
};

const bitCount = (i: number) => i.toString(2).replaceAll('0', '').length;

const tables = new Map<number, Float64Array>();

/** H of one block, (block, block), by its definition. */
function hadamardMatrix(block: number): Float64Array {
  const known = tables.get(block);
  if (known !== undefined) return known;
  const made = Float64Array.from({ length: block * block }, (_, at) => {
    return (bitCount(Math.floor(at / block) & (at % block)) % 2 === 0 ? 1 : -1) / Math.sqrt(block);
  });
  tables.set(block, made);
  return made;
}

/** In double: the blockwise transform of a row. */
function transform(row: Float64Array, block: number): Float64Array {
  const H = hadamardMatrix(block);
  return row.map((_, at) => {
    const base = Math.floor(at / block) * block;
    let sum = 0;
    for (let j = 0; j < block; j += 1) sum += H[(at - base) * block + j]! * row[base + j]!;
    return sum;
  });
}

type Trits = {
  readonly rows: number;
  readonly columns: number;
  readonly group: number;
  readonly codes: Uint8Array;
  readonly scales: Float32Array;
};

/** Makes weights by name, rotated ones where the config's rotation lists them. */
export class WeightMaker {
  readonly #random: () => number;
  readonly #config: ModelConfig;
  readonly matrices = new Map<string, Matrix[]>();
  readonly vectors = new Map<string, Float64Array>();

  constructor(config: ModelConfig, seed: number) {
    this.#config = config;
    this.#random = splitMix(seed);
  }

  vector(name: string, length: number, from: number, to: number): VectorWeight {
    const values = Float32Array.from({ length }, () => from + (to - from) * this.#random());
    this.vectors.set(name, Float64Array.from(values));
    return { kind: 'vector', name, values };
  }

  dense(name: string, rows: number, columns: number): DenseWeight {
    const values = Float32Array.from({ length: rows * columns }, () => (this.#random() * 2 - 1) / Math.sqrt(columns));
    this.matrices.set(name, [{ rows, columns, values: Float64Array.from(values) }]);
    return { kind: 'dense', name, rows, columns, dtype: 'f32', bytes: new Uint8Array(values.buffer) };
  }

  /** Trits under scales for each `group` columns. */
  async grouped(name: string, rows: number, columns: number, group: number): Promise<GroupedWeight> {
    const matrix = this.#trits(rows, columns, group);
    this.matrices.set(name, [this.#asItIs(name, matrix)]);
    return { kind: 'grouped', name, layout: 'panel64', ...(await toPanel64(toQuads(matrix))) };
  }

  async experts(name: string, count: number, rows: number, columns: number, group: number): Promise<GroupedWeight> {
    const all = Array.from({ length: count }, () => this.#trits(rows, columns, group));
    this.matrices.set(
      name,
      all.map((matrix) => this.#asItIs(name, matrix)),
    );
    const allocate = (bytes: number) => Promise.resolve(new Uint8Array(bytes));
    const read = (expert: number) => Promise.resolve(toQuads(all[expert]!));
    return expertsWeight(name, count, read, { at: { tensor: name, file: 'none', offset: 0 }, allocate });
  }

  #trits(rows: number, columns: number, group: number): Trits {
    const codes = Uint8Array.from({ length: rows * columns }, () => Math.floor(this.#random() * 3));
    // f16 numbers, as files have them.
    const scales = Float32Array.from({ length: (rows * columns) / group }, () => {
      return (1 + Math.floor(this.#random() * 64) / 64) * 2 ** -Math.round(Math.log2(columns) / 2);
    });
    return { rows, columns, group, codes, scales };
  }

  /** The weights that a stored matrix stands for: rotated back, its columns of heads in the order of the activation. */
  #asItIs(name: string, { rows, columns, group, codes, scales }: Trits): Matrix {
    const values = Float64Array.from(codes, (code, i) => (code - 1) * scales[Math.floor(i / group)]!);
    const { rotation, deltaNet } = this.#config;
    const isEmbedding = name === 'token_embd.weight';
    const isRotated = rotation?.matrices.has(name) === true || (isEmbedding && rotation?.embedding === true);
    if (rotation === undefined || !isRotated) return { rows, columns, values };
    const signs = rotation.signs(columns);
    for (let row = 0; row < rows; row += 1) {
      const own = values.subarray(row * columns, (row + 1) * columns);
      own.set(transform(own, rotation.block).map((value, i) => value * signs[i]!));
      if (!name.endsWith('ssm_out.weight') || !rotation.groupedColumns) continue;
      const { keyHeads, valueHeads, headDim } = deltaNet!;
      const grouped = own.slice();
      for (let h = 0; h < valueHeads; h += 1) {
        const place = (h % keyHeads) * (valueHeads / keyHeads) + Math.floor(h / keyHeads);
        own.set(grouped.subarray(place * headDim, (place + 1) * headDim), h * headDim);
      }
    }
    return { rows, columns, values };
  }
}

// ---- The forward pass

const silu = (x: number) => x / (1 + Math.exp(-x));
const sigmoid = (x: number) => 1 / (1 + Math.exp(-x));

function times({ rows, columns, values }: Matrix, x: Float64Array): Float64Array {
  const out = new Float64Array(rows);
  for (let r = 0; r < rows; r += 1) for (let c = 0; c < columns; c += 1) out[r]! += values[r * columns + c]! * x[c]!;
  return out;
}

function rms(x: Float64Array, weight: Float64Array, eps: number): Float64Array {
  const out = new Float64Array(x.length);
  const D = weight.length;
  for (let at = 0; at < x.length; at += D) {
    const mean = x.subarray(at, at + D).reduce((sum, value) => sum + value * value, 0) / D;
    for (let i = 0; i < D; i += 1) out[at + i] = (x[at + i]! / Math.sqrt(mean + eps)) * weight[i]!;
  }
  return out;
}

/** Logits (tokens, vocabulary). */
export function referenceLogits(
  { config, weights, matrices, vectors }: RandomModel,
  ids: readonly number[],
): Float64Array {
  const { rmsNormEps: eps } = config;
  const one = (weight: { readonly name: string } | undefined) => matrices.get(weight!.name)![0]!;
  const vec = (weight: VectorWeight | undefined) => vectors.get(weight!.name)!;
  const embedding = one(weights.embedding);
  let stream = ids.map((id) => embedding.values.slice(id * embedding.columns, (id + 1) * embedding.columns));
  const add = (x: Float64Array, y: Float64Array) => x.map((value, i) => value + y[i]!);

  weights.layers.forEach((layer, index) => {
    const normed = stream.map((x) => rms(x, vec(layer.inputNorm), eps));
    const mixed =
      config.layerKinds?.[index] === 'recurrent'
        ? deltaNet(config, layer, normed, one, vec)
        : attention(config, layer, index, normed, one, vec);
    stream = stream.map((x, t) => add(x, mixed[t]!));
    stream = stream.map((x) => {
      const h = rms(x, vec(layer.postAttentionNorm), eps);
      if (config.experts !== undefined) return add(x, experts(config, layer, index, h, matrices));
      const up = times(one(layer.up), h);
      return add(
        x,
        times(
          one(layer.down),
          times(one(layer.gate), h).map((value, i) => silu(value) * up[i]!),
        ),
      );
    });
  });
  const head = one(weights.head);
  const out = new Float64Array(ids.length * head.rows);
  stream.forEach((x, t) => {
    out.set(times(head, rms(x, vec(weights.finalNorm), eps)), t * head.rows);
  });
  return out;
}

type One = (weight: { readonly name: string } | undefined) => Matrix;
type Vec = (weight: VectorWeight | undefined) => Float64Array;

function deltaNet(config: ModelConfig, layer: LayerWeights, rows: Float64Array[], one: One, vec: Vec): Float64Array[] {
  const { keyHeads, valueHeads: H, headDim: D, convTaps, order } = config.deltaNet!;
  const { rmsNormEps: eps } = config;
  const qkv = rows.map((h) => times(one(layer.qkv), h));
  const taps = vec(layer.conv);
  const C = qkv[0]!.length;
  const S = Array.from({ length: H }, () => new Float64Array(D * D));
  return rows.map((h, t) => {
    const u = qkv[t]!.map((_, c) => {
      let sum = 0;
      for (let j = 0; j < convTaps; j += 1) {
        const past = qkv[t - (convTaps - 1) + j];
        if (past !== undefined) sum += taps[j * C + c]! * past[c]!;
      }
      return silu(sum);
    });
    const unit = (at: number) => {
      const x = u.subarray(at, at + D);
      const length = Math.sqrt(x.reduce((sum, value) => sum + value * value, 0) + eps);
      return x.map((value) => value / length);
    };
    const [b, a] = [times(one(layer.beta), h), times(one(layer.alpha), h)];
    const o = new Float64Array(H * D);
    for (let head = 0; head < H; head += 1) {
      const key = order === 'tiled' ? head % keyHeads : Math.floor(head / (H / keyHeads));
      const q = unit(key * D).map((value) => value / Math.sqrt(D));
      const k = unit((keyHeads + key) * D);
      const v = u.subarray((2 * keyHeads + head) * D, (2 * keyHeads + head + 1) * D);
      const y = a[head]! + vec(layer.decayBias)[head]!;
      const g = Math.exp(vec(layer.decay)[head]! * (y > 20 ? y : Math.log1p(Math.exp(y))));
      const state = S[head]!;
      for (let j = 0; j < D; j += 1) {
        let predicted = 0;
        for (let i = 0; i < D; i += 1) predicted += g * state[i * D + j]! * k[i]!;
        const d = sigmoid(b[head]!) * (v[j]! - predicted);
        for (let i = 0; i < D; i += 1) {
          state[i * D + j] = g * state[i * D + j]! + k[i]! * d;
          o[head * D + j]! += state[i * D + j]! * q[i]!;
        }
      }
    }
    const z = times(one(layer.z), h);
    return times(
      one(layer.deltaOut),
      rms(o, vec(layer.deltaNorm), eps).map((value, i) => value * silu(z[i]!)),
    );
  });
}

function attention(
  config: ModelConfig,
  layer: LayerWeights,
  index: number,
  rows: Float64Array[],
  one: One,
  vec: Vec,
): Float64Array[] {
  const { numAttentionHeads: H, numKeyValueHeads: G, headDim: D, rotaryDim = D, ropeTheta, rmsNormEps: eps } = config;
  const window = config.windows?.[index] ?? 0;
  const hasPositions = config.windows === undefined || window > 0;
  const isGated = config.deltaNet !== undefined;
  const turned = (x: Float64Array, position: number) => {
    if (!hasPositions) return x;
    const out = x.slice();
    for (let at = 0; at < x.length; at += D) {
      for (let j = 0; j < rotaryDim / 2; j += 1) {
        const angle = position * ropeTheta ** ((-2 * j) / rotaryDim);
        const [p, q] = [x[at + j]!, x[at + j + rotaryDim / 2]!];
        out[at + j] = p * Math.cos(angle) - q * Math.sin(angle);
        out[at + j + rotaryDim / 2] = q * Math.cos(angle) + p * Math.sin(angle);
      }
    }
    return out;
  };
  const parts = rows.map((h, t) => {
    const both = times(one(layer.q), h);
    const pick = (offset: number) =>
      Float64Array.from({ length: H * D }, (_, i) => both[Math.floor(i / D) * 2 * D + offset + (i % D)]!);
    const q = isGated ? pick(0) : both;
    return {
      q: turned(rms(q, vec(layer.qNorm), eps), t),
      gate: isGated ? pick(D) : undefined,
      k: turned(rms(times(one(layer.k), h), vec(layer.kNorm), eps), t),
      v: times(one(layer.v), h),
    };
  });
  return parts.map(({ q, gate }, t) => {
    const out = new Float64Array(H * D);
    for (let head = 0; head < H; head += 1) {
      const kv = Math.floor(head / (H / G)) * D;
      const first = window === 0 ? 0 : Math.max(0, t - window + 1);
      const seen = parts.slice(first, t + 1);
      const scores = seen.map(({ k }) => {
        let sum = 0;
        for (let d = 0; d < D; d += 1) sum += q[head * D + d]! * k[kv + d]!;
        return Math.exp(sum / Math.sqrt(D));
      });
      const total = scores.reduce((a, b) => a + b, 0);
      seen.forEach(({ v }, j) => {
        for (let d = 0; d < D; d += 1) out[head * D + d]! += (scores[j]! / total) * v[kv + d]!;
      });
    }
    return times(one(layer.o), gate === undefined ? out : out.map((value, i) => value * sigmoid(gate[i]!)));
  });
}

function experts(
  config: ModelConfig,
  layer: LayerWeights,
  index: number,
  h: Float64Array,
  matrices: RandomModel['matrices'],
): Float64Array {
  const { used, clamps } = config.experts!;
  const clamp = clamps[index]!;
  const logits = times(matrices.get(layer.router!.name)![0]!, h);
  const total = logits.reduce((sum, value) => sum + Math.exp(value), 0);
  const order = [...logits.keys()].sort((a, b) => logits[b]! - logits[a]! || a - b).slice(0, used);
  const shares = order.map((expert) => Math.exp(logits[expert]!) / total);
  const sum = Math.max(
    shares.reduce((a, b) => a + b, 0),
    6.103515625e-5,
  );
  const out = new Float64Array(h.length);
  order.forEach((expert, i) => {
    const of = (weight: { readonly name: string } | undefined) => matrices.get(weight!.name)![expert]!;
    const up = times(of(layer.expertUp), h);
    const mixed = times(of(layer.expertGate), h).map((value, j) => {
      return silu(Math.min(value, clamp)) * Math.min(Math.max(up[j]!, -clamp), clamp);
    });
    times(of(layer.expertDown), mixed).forEach((value, j) => {
      out[j]! += (shares[i]! / sum) * value;
    });
  });
  return out;
}
