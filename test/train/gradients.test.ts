// Every backward pass against central differences of its forward formula, which is written down here once more in double
// precision. Quantizers are frozen where they appear: a straight-through gradient is the gradient of the network in which
// each quantizer adds a constant.

import { expect, test } from 'vitest';
import type { ModelFamily } from '../../src/model/model-config.ts';
import { makeBatch, nextTokenSequence } from '../../src/train/batch.ts';
import { JS_KERNELS as k } from '../../src/train/kernels.ts';
import { Network } from '../../src/train/network.ts';
import { rowLoss } from '../../src/train/ops/cross-entropy.ts';
import { type Parameter, type ParameterPlan, view } from '../../src/train/parameters.ts';
import { Numbers, randomLatents, tinyConfig } from './tiny.ts';

const STEP = 1e-6;

/** d loss / d x by central differences of a function in double. */
function differences(x: Float64Array, loss: (x: Float64Array) => number, only?: readonly number[]): Float64Array {
  const out = new Float64Array(x.length);
  for (const i of only ?? x.keys()) {
    const kept = x[i]!;
    x[i] = kept + STEP;
    const above = loss(x);
    x[i] = kept - STEP;
    const below = loss(x);
    x[i] = kept;
    out[i] = (above - below) / (2 * STEP);
  }
  return out;
}

/** Relative L2 distance of a gradient in float32 from the differences. */
function expectClose(actual: ArrayLike<number>, expected: Float64Array, limit = 2e-5): void {
  expect(actual.length).toBe(expected.length);
  let distance = 0;
  let norm = 0;
  for (let i = 0; i < expected.length; i += 1) {
    distance += (actual[i]! - expected[i]!) ** 2;
    norm += expected[i]! ** 2;
  }
  expect(norm).toBeGreaterThan(0);
  expect(Math.sqrt(distance / norm)).toBeLessThan(limit);
}

const doubles = (x: ArrayLike<number>) => Float64Array.from(x);
const weightedSum = (y: ArrayLike<number>, weights: ArrayLike<number>) => {
  let sum = 0;
  for (let i = 0; i < y.length; i += 1) sum += y[i]! * weights[i]!;
  return sum;
};

// ---- the formulas, in double ----

function rmsNorm(x: Float64Array, w: ArrayLike<number>, eps: number, C: number): Float64Array {
  const out = new Float64Array(x.length);
  for (let at = 0; at < x.length; at += C) {
    let squares = 0;
    for (let i = 0; i < C; i += 1) squares += x[at + i]! ** 2;
    const r = 1 / Math.sqrt(squares / C + eps);
    for (let i = 0; i < C; i += 1) out[at + i] = x[at + i]! * r * w[i]!;
  }
  return out;
}

function product(x: ArrayLike<number>, w: ArrayLike<number>, R: number, C: number): Float64Array {
  const T = x.length / C;
  const out = new Float64Array(T * R);
  for (let t = 0; t < T; t += 1) {
    for (let r = 0; r < R; r += 1) {
      let sum = 0;
      for (let c = 0; c < C; c += 1) sum += x[t * C + c]! * w[r * C + c]!;
      out[t * R + r] = sum;
    }
  }
  return out;
}

function rotate(x: ArrayLike<number>, starts: ArrayLike<number>, theta: number, H: number, D: number): Float64Array {
  const out = new Float64Array(x.length);
  for (let s = 0; s + 1 < starts.length; s += 1) {
    for (let t = starts[s]!; t < starts[s + 1]!; t += 1) {
      for (let h = 0; h < H; h += 1) {
        for (let j = 0; j < D / 2; j += 1) {
          const angle = (t - starts[s]!) * theta ** ((-2 * j) / D);
          const at = (t * H + h) * D + j;
          const [a, b] = [x[at]!, x[at + D / 2]!];
          out[at] = a * Math.cos(angle) - b * Math.sin(angle);
          out[at + D / 2] = b * Math.cos(angle) + a * Math.sin(angle);
        }
      }
    }
  }
  return out;
}

function attention(
  q: ArrayLike<number>,
  keys: ArrayLike<number>,
  values: ArrayLike<number>,
  starts: ArrayLike<number>,
  heads: number,
  kvHeads: number,
  D: number,
): Float64Array {
  const out = new Float64Array(q.length);
  for (let s = 0; s + 1 < starts.length; s += 1) {
    for (let t = starts[s]!; t < starts[s + 1]!; t += 1) {
      for (let h = 0; h < heads; h += 1) {
        const kv = Math.floor((h * kvHeads) / heads);
        const weights: number[] = [];
        for (let j = starts[s]!; j <= t; j += 1) {
          let score = 0;
          for (let d = 0; d < D; d += 1) score += q[(t * heads + h) * D + d]! * keys[(j * kvHeads + kv) * D + d]!;
          weights.push(Math.exp(score / Math.sqrt(D)));
        }
        const total = weights.reduce((sum, e) => sum + e, 0);
        weights.forEach((e, j) => {
          for (let d = 0; d < D; d += 1) {
            const at = (t * heads + h) * D + d;
            out[at] = out[at]! + (e / total) * values[((starts[s]! + j) * kvHeads + kv) * D + d]!;
          }
        });
      }
    }
  }
  return out;
}

const GATES = {
  relu2: (g: number) => Math.max(g, 0) ** 2,
  silu: (g: number) => g / (1 + Math.exp(-g)),
};

function crossEntropy(logits: Float64Array, targets: ArrayLike<number>, V: number): number {
  let sum = 0;
  let count = 0;
  for (let t = 0; t < targets.length; t += 1) {
    if (targets[t]! < 0) continue;
    let total = 0;
    for (let j = 0; j < V; j += 1) total += Math.exp(logits[t * V + j]!);
    sum += Math.log(total) - logits[t * V + targets[t]!]!;
    count += 1;
  }
  return sum / count;
}

// ---- operation by operation ----

test('rmsNorm', () => {
  const [T, C, eps] = [3, 20, 1e-5];
  const n = new Numbers(1);
  const [x, w, dy] = [n.floats(T * C, 2), n.floats(C), n.floats(T * C)];
  const r = new Float32Array(T);
  k.rmsNormForward(x, w, eps, T, C, r, new Float32Array(T * C));
  const [dx, dw] = [new Float32Array(T * C), new Float32Array(C)];
  k.rmsNormBackward(x, w, r, dy, T, C, dx, dw);
  expectClose(
    dx,
    differences(doubles(x), (value) => weightedSum(rmsNorm(value, w, eps, C), dy)),
  );
  expectClose(
    dw,
    differences(doubles(w), (value) => weightedSum(rmsNorm(doubles(x), value, eps, C), dy)),
  );
});

test('BitLinear, with both quantizers frozen', () => {
  const [T, R, C] = [4, 6, 17];
  const n = new Numbers(2);
  const [x, w, dy] = [n.floats(T * C), n.floats(R * C), n.floats(T * R)];
  const codes = new Int8Array(T * C);
  const scale = new Float32Array(T);
  k.quantizeRows(x, T, C, codes, scale);
  const trits = new Int8Array(R * C);
  const [m] = k.quantizeMatrices([{ name: 'w', w, trits }]);
  const out = new Float32Array(T * R);
  k.bitLinearForward(codes, scale, trits, m!, T, R, C, out);
  const xShift = x.map((value, i) => codes[i]! / scale[Math.floor(i / C)]! - value);
  const wShift = w.map((value, i) => trits[i]! * m! - value);
  const f = (a: ArrayLike<number>, b: ArrayLike<number>) =>
    product(
      doubles(a).map((v, i) => v + xShift[i]!),
      doubles(b).map((v, i) => v + wShift[i]!),
      R,
      C,
    );
  expectClose(out, f(x, w), 1e-6);
  const [dx, dw] = [new Float32Array(T * C), new Float32Array(R * C)];
  k.bitLinearBackwardInput(dy, trits, m!, T, R, C, dx);
  k.bitLinearBackwardWeight(dy, codes, scale, T, R, C, dw);
  expectClose(
    dx,
    differences(doubles(x), (value) => weightedSum(f(value, w), dy)),
    1e-6,
  );
  expectClose(
    dw,
    differences(doubles(w), (value) => weightedSum(f(x, value), dy)),
    1e-6,
  );
});

test('BitLinear: the worked example of the method, to the printed digits', () => {
  const w = Float32Array.of(1, -2, 0.25, 0.5, -0.5, 1.5);
  const x = Float32Array.of(0.5, -1, 0.3);
  const dy = Float32Array.of(1, -2);
  const [codes, scale, trits] = [new Int8Array(3), new Float32Array(1), new Int8Array(6)];
  k.quantizeRows(x, 1, 3, codes, scale);
  const [m] = k.quantizeMatrices([{ name: 'w', w, trits }]);
  expect(m).toBeCloseTo(0.9583333, 7);
  expect([...trits]).toEqual([1, -1, 0, 1, -1, 1]);
  expect([...codes]).toEqual([64, -127, 38]);
  const [y, dx, dw] = [new Float32Array(2), new Float32Array(3), new Float32Array(6)];
  k.bitLinearForward(codes, scale, trits, m!, 1, 2, 3, y);
  k.bitLinearBackwardInput(dy, trits, m!, 1, 2, 3, dx);
  k.bitLinearBackwardWeight(dy, codes, scale, 1, 2, 3, dw);
  const near = (actual: Float32Array, expected: number[]) =>
    expected.forEach((value, i) => {
      expect(actual[i]).toBeCloseTo(value, 6);
    });
  near(y, [1.441273, 1.7280184]);
  near(dx, [-0.9583333, 0.9583333, -1.9166667]);
  near(dw, [0.503937, -1, 0.2992126, -1.007874, 2, -0.5984252]);
});

test('the output head', () => {
  const [T, R, C] = [3, 7, 18];
  const n = new Numbers(3);
  const [x, w, dy] = [n.floats(T * C), n.floats(R * C), n.floats(T * R)];
  const [dx, dw] = [new Float32Array(T * C), new Float32Array(R * C)];
  k.denseBackwardInput(dy, w, T, R, C, dx);
  k.denseBackwardWeight(dy, x, T, R, C, dw);
  expectClose(
    dx,
    differences(doubles(x), (value) => weightedSum(product(value, w, R, C), dy)),
    1e-6,
  );
  expectClose(
    dw,
    differences(doubles(w), (value) => weightedSum(product(x, value, R, C), dy)),
    1e-6,
  );
});

test('RoPE', () => {
  const [H, D, theta] = [2, 8, 100];
  const starts = [0, 3, 5];
  const n = new Numbers(4);
  const [x, dy] = [n.floats(5 * H * D), n.floats(5 * H * D)];
  const positions = Int32Array.of(0, 1, 2, 0, 1);
  const angle = (i: number) => Math.floor(i / (D / 2)) * theta ** ((-2 * (i % (D / 2))) / D);
  const cos = Float32Array.from({ length: (3 * D) / 2 }, (_, i) => Math.cos(angle(i)));
  const sin = Float32Array.from({ length: (3 * D) / 2 }, (_, i) => Math.sin(angle(i)));
  const dx = dy.slice();
  k.ropeBackward(dx, positions, cos, sin, 5, H, D);
  expectClose(
    dx,
    differences(doubles(x), (value) => weightedSum(rotate(value, starts, theta, H, D), dy)),
    1e-6,
  );
});

test.each([
  { heads: 4, kvHeads: 2 },
  { heads: 3, kvHeads: 1 },
  { heads: 2, kvHeads: 2 },
])('attention, $heads heads on $kvHeads', ({ heads, kvHeads }) => {
  const D = 6;
  const starts = Int32Array.of(0, 4, 5, 10);
  const n = new Numbers(5);
  const [q, keys, values, dy] = [heads, kvHeads, kvHeads, heads].map((h) => n.floats(10 * h * D, 1.5)) as [
    Float32Array,
    Float32Array,
    Float32Array,
    Float32Array,
  ];
  const shape = { heads, kvHeads, headDim: D, scale: Math.fround(D ** -0.5) };
  const out = new Float32Array(q.length);
  k.attentionForward(q, keys, values, starts, shape, out);
  expectClose(out, attention(q, keys, values, starts, heads, kvHeads, D), 1e-6);
  const [dq, dk, dv] = [q, keys, values].map((x) => new Float32Array(x.length)) as [
    Float32Array,
    Float32Array,
    Float32Array,
  ];
  k.attentionBackward(q, keys, values, out, dy, starts, shape, dq, dk, dv);
  const f = (a: ArrayLike<number>, b: ArrayLike<number>, c: ArrayLike<number>) =>
    weightedSum(attention(a, b, c, starts, heads, kvHeads, D), dy);
  expectClose(
    dq,
    differences(doubles(q), (value) => f(value, keys, values)),
  );
  expectClose(
    dk,
    differences(doubles(keys), (value) => f(q, value, values)),
  );
  expectClose(
    dv,
    differences(doubles(values), (value) => f(q, keys, value)),
  );
});

test.each(['relu2', 'silu'] as const)('gated %s', (fn) => {
  const n = new Numbers(6);
  const [gate, up, dy] = [n.floats(40, 2), n.floats(40), n.floats(40)];
  const [dGate, dUp] = [new Float32Array(40), new Float32Array(40)];
  k.gatedActivationBackward(fn, gate, up, dy, 40, dGate, dUp);
  const f = (g: ArrayLike<number>, u: ArrayLike<number>) =>
    weightedSum(
      doubles(g).map((value, i) => GATES[fn](value) * u[i]!),
      dy,
    );
  expectClose(
    dGate,
    differences(doubles(gate), (value) => f(value, up)),
  );
  expectClose(
    dUp,
    differences(doubles(up), (value) => f(gate, value)),
  );
});

test('embedding: a token that comes twice gets both gradients', () => {
  const tokens = Int32Array.of(2, 0, 2);
  const dOut = Float32Array.of(1, 2, 3, 4, 5, 6);
  const dTable = new Float32Array(8);
  k.embeddingBackward(dOut, tokens, 3, 2, dTable);
  expect([...dTable]).toEqual([3, 4, 0, 0, 6, 8, 0, 0]);
});

test('cross-entropy, with rows that predict nothing', () => {
  const [T, V] = [4, 9];
  const logits = new Numbers(7).floats(T * V, 3);
  const targets = Int32Array.of(1, -1, 8, 0);
  const gradient = logits.slice();
  const [sums, margins] = [new Float32Array(T), new Float32Array(T)];
  k.crossEntropyInPlace(gradient, targets, Math.fround(1 / 3), T, V, sums, margins);
  expectClose(
    gradient,
    differences(doubles(logits), (value) => crossEntropy(value, targets, V)),
  );
  const losses = [0, 2, 3].map((t) => rowLoss(sums[t]!, margins[t]!));
  expect((losses[0]! + losses[1]! + losses[2]!) / 3).toBeCloseTo(crossEntropy(doubles(logits), targets, V), 6);
});

// ---- a whole model ----

/** The network's loss in double, every quantizer replaced by adding the constant it added in the float32 pass. */
function frozenModel(
  plan: ParameterPlan,
  network: Network,
  latents: Float32Array,
  batch: ReturnType<typeof makeBatch>,
) {
  const { config } = network;
  const { hiddenSize, intermediateSize, headDim, numAttentionHeads: heads, numKeyValueHeads: kvHeads } = config;
  const weightShift = new Map<Parameter, Float64Array>();
  for (const parameter of plan.all.filter(({ kind }) => kind === 'ternary')) {
    const { trits, scale } = network.ternary(parameter);
    weightShift.set(
      parameter,
      doubles(view(latents, parameter)).map((value, i) => trits[i]! * scale - value),
    );
  }
  const inputShifts: Float64Array[] = [];
  /** The first call records the shifts of the activations, later ones use them. */
  let recording = true;
  return (values: Float64Array): number => {
    let call = 0;
    const of = (parameter: Parameter) => values.subarray(parameter.offset, parameter.offset + parameter.length);
    const bitLinears = (x: Float64Array, C: number, parameters: readonly Parameter[]) => {
      if (recording) {
        const float = Float32Array.from(x);
        const T = x.length / C;
        const codes = new Int8Array(x.length);
        const scale = new Float32Array(T);
        k.quantizeRows(float, T, C, codes, scale);
        inputShifts.push(x.map((value, i) => codes[i]! / scale[Math.floor(i / C)]! - value));
      }
      const shift = inputShifts[call]!;
      call += 1;
      const shifted = x.map((value, i) => value + shift[i]!);
      return parameters.map((parameter) => {
        const weight = of(parameter).map((value, i) => value + weightShift.get(parameter)![i]!);
        return product(shifted, weight, parameter.shape[0]!, C);
      });
    };
    const norm = (x: Float64Array, parameter: Parameter) =>
      rmsNorm(x, of(parameter), config.rmsNormEps, parameter.length);
    let x = new Float64Array(batch.tokens.length * hiddenSize);
    batch.tokens.forEach((token, t) => {
      x.set(of(plan.embedding).subarray(token * hiddenSize, (token + 1) * hiddenSize), t * hiddenSize);
    });
    for (const layer of plan.layers) {
      const [q, key, value] = bitLinears(norm(x, layer.inputNorm), hiddenSize, [layer.q, layer.k, layer.v]);
      const turn = (y: Float64Array, H: number) => rotate(y, batch.starts, config.ropeTheta, H, headDim);
      let a = attention(turn(q!, heads), turn(key!, kvHeads), value!, batch.starts, heads, kvHeads, headDim);
      if (layer.attnSubNorm !== undefined) a = norm(a, layer.attnSubNorm);
      const [o] = bitLinears(a, heads * headDim, [layer.o]);
      x = x.map((v, i) => v + o![i]!);
      const [gate, up] = bitLinears(norm(x, layer.postAttentionNorm), hiddenSize, [layer.gate, layer.up]);
      let m: Float64Array = gate!.map((g, i) => GATES[config.hiddenAct](g) * up![i]!);
      if (layer.ffnSubNorm !== undefined) m = norm(m, layer.ffnSubNorm);
      const [down] = bitLinears(m, intermediateSize, [layer.down]);
      x = x.map((v, i) => v + down![i]!);
    }
    recording = false;
    const head = of(plan.head ?? plan.embedding);
    return crossEntropy(
      product(norm(x, plan.finalNorm), head, config.vocabSize, hiddenSize),
      batch.targets,
      config.vocabSize,
    );
  };
}

test.each(['bitnet', 'onebitllm', 'llama'] satisfies ModelFamily[])(
  'the gradient of a whole %s model, with quantizers frozen',
  (family) => {
    const network = new Network(
      tinyConfig(family, {
        vocab_size: 20,
        hidden_size: 16,
        intermediate_size: 24,
        num_attention_heads: 2,
        num_key_value_heads: 1,
      }),
      k,
    );
    const { plan } = network;
    const latents = randomLatents(plan, 9);
    const n = new Numbers(10);
    const batch = makeBatch([6, 4].map((length) => nextTokenSequence(n.integers(length, 0, 19))));
    const gradients = new Float32Array(plan.length);
    network.quantize(latents);
    const { loss } = network.lossAndGradients(latents, batch, gradients);
    const frozen = frozenModel(plan, network, latents, batch);
    expect(frozen(doubles(latents))).toBeCloseTo(loss, 5);
    for (const parameter of plan.all) {
      // Some elements of each tensor: one difference costs two passes.
      const some = Array.from({ length: Math.min(12, parameter.length) }, () =>
        Math.floor(n.next() * parameter.length),
      );
      const expected = differences(
        doubles(latents),
        frozen,
        some.map((i) => parameter.offset + i),
      );
      const pick = (values: ArrayLike<number>) => some.map((i) => values[parameter.offset + i]!);
      const [actual, wanted] = [pick(gradients), pick(expected)];
      const size = Math.max(...wanted.map(Math.abs), 1e-3);
      actual.forEach((value, i) => {
        expect(Math.abs(value - wanted[i]!) / size, `${parameter.name}[${some[i]}]`).toBeLessThan(2e-3);
      });
    }
  },
);
