// The native kernels give the bits of the readable ones, on every instruction set that runs here and any thread count.

import { expect, test } from 'vitest';
import { loadAddon } from '../../src/native/load.ts';
import { makeBatch, nextTokenSequence } from '../../src/train/batch.ts';
import { JS_KERNELS, type TrainKernels } from '../../src/train/kernels.ts';
import { loadTrainKernels } from '../../src/train/native-kernels.ts';
import { Network } from '../../src/train/network.ts';
import { DEFAULT_OPTIMIZER, optimizerStep, zeroOptimizerState } from '../../src/train/optimizer.ts';
import { Numbers, randomLatents, tinyConfig } from './tiny.ts';

const loaded = await loadAddon<{ isas(): string[] }>('train');
const isas = 'addon' in loaded ? loaded.addon.isas() : [];

const NONE = 'reason' in loaded ? loaded.reason : 'built';
const variants = isas.flatMap((isa) => [1, 2, 5].map((threads) => ({ isa, threads })));

test.runIf(isas.length === 0)(`skipped: no native kernels (${NONE})`, () => {
  expect(loaded).toHaveProperty('reason');
});

const same = (actual: ArrayLike<number>, expected: ArrayLike<number>, what: string) => {
  const bits = (values: ArrayLike<number>) => new Int32Array(Float32Array.from(values).buffer);
  const a = bits(actual);
  const b = bits(expected);
  const bad = a.findIndex((word, i) => word !== b[i]);
  expect(bad < 0 ? 'same bits' : `${what}[${bad}]: ${actual[bad]} is not ${expected[bad]}`).toBe('same bits');
};

/** Runs `call` with both kernel sets on copies of the same arrays and compares all of them afterwards. */
function compare(
  native: TrainKernels,
  name: string,
  arrays: Record<string, Float32Array | Int8Array>,
  call: (kernels: TrainKernels, arrays: Record<string, never>) => unknown,
): void {
  const copy = () => Object.fromEntries(Object.entries(arrays).map(([key, value]) => [key, value.slice()]));
  const readable = copy();
  const fast = copy();
  const a = call(JS_KERNELS, readable as Record<string, never>);
  const b = call(native, fast as Record<string, never>);
  expect(b).toEqual(a);
  for (const key of Object.keys(arrays)) same(fast[key]!, readable[key]!, `${name} ${key}`);
}

const SHAPES = [
  { T: 1, R: 1, C: 2 },
  { T: 7, R: 5, C: 15 },
  { T: 13, R: 50, C: 33 },
  { T: 70, R: 67, C: 130 },
  { T: 301, R: 49, C: 48 },
  { T: 5, R: 8, C: 2100 },
];

test.each(variants)('$isa, $threads threads: matrix kernels', async ({ isa, threads }) => {
  const native = await loadTrainKernels({ kernels: 'native', isa, threads });
  expect(native).toMatchObject({ name: 'native', isa, threads });
  for (const { T, R, C } of SHAPES) {
    const n = new Numbers(T * 1000 + R + C);
    const codes = n.integers(T * C, -127, 127);
    const trits = n.integers(R * C, -1, 1);
    const scale = n.floats(T, 30).map((x) => Math.abs(x) + 1);
    const dy = n.floats(T * R, 0.02);
    const x = n.floats(T * C);
    const w = n.floats(R * C);
    const dw = n.floats(R * C);
    const dx = n.floats(T * C);
    const out = new Float32Array(T * R);
    compare(native, 'bitLinearForward', { codes, scale, trits, out }, (k, a) =>
      k.bitLinearForward(a.codes!, a.scale!, a.trits!, 0.37, T, R, C, a.out!),
    );
    compare(native, 'bitLinearBackwardInput', { dy, trits, dx }, (k, a) =>
      k.bitLinearBackwardInput(a.dy!, a.trits!, 0.37, T, R, C, a.dx!),
    );
    compare(native, 'bitLinearBackwardWeight', { dy, codes, scale, dw }, (k, a) =>
      k.bitLinearBackwardWeight(a.dy!, a.codes!, a.scale!, T, R, C, a.dw!),
    );
    compare(native, 'denseForward', { x, w, out }, (k, a) => k.denseForward(a.x!, a.w!, T, R, C, a.out!));
    compare(native, 'denseBackwardInput', { dy, w, dx }, (k, a) => k.denseBackwardInput(a.dy!, a.w!, T, R, C, a.dx!));
    compare(native, 'denseBackwardWeight', { dy, x, dw }, (k, a) => k.denseBackwardWeight(a.dy!, a.x!, T, R, C, a.dw!));
    const quantized = new Int8Array(T * C);
    const scales = new Float32Array(T);
    compare(native, 'quantizeRows', { x, quantized, scales }, (k, a) =>
      k.quantizeRows(a.x!, T, C, a.quantized!, a.scales!),
    );
    compare(native, 'quantizeMatrices', { w, trits }, (k, a) =>
      k.quantizeMatrices([{ name: 'w', w: a.w!, trits: a.trits! }]),
    );
    const r = new Float32Array(T);
    const normed = new Float32Array(T * C);
    const weight = n.floats(C);
    const dWeight = n.floats(C);
    compare(native, 'rmsNormForward', { x, weight, r, normed }, (k, a) =>
      k.rmsNormForward(a.x!, a.weight!, 1e-5, T, C, a.r!, a.normed!),
    );
    const rs = scale;
    const dOut = n.floats(T * C);
    compare(native, 'rmsNormBackward', { x, weight, rs, dOut, dx, dWeight }, (k, a) =>
      k.rmsNormBackward(a.x!, a.weight!, a.rs!, a.dOut!, T, C, a.dx!, a.dWeight!),
    );
    for (const fn of ['relu2', 'silu'] as const) {
      const gate = n.floats(T * C, 3);
      const up = n.floats(T * C);
      const dGate = new Float32Array(T * C);
      const dUp = new Float32Array(T * C);
      compare(native, `${fn} forward`, { gate, up, dGate }, (k, a) =>
        k.gatedActivationForward(fn, a.gate!, a.up!, T * C, a.dGate!),
      );
      compare(native, `${fn} backward`, { gate, up, dOut, dGate, dUp }, (k, a) =>
        k.gatedActivationBackward(fn, a.gate!, a.up!, a.dOut!, T * C, a.dGate!, a.dUp!),
      );
    }
    const logits = n.floats(T * C, 8);
    const targets = Int32Array.from({ length: T }, (_, t) => (t % 3 === 2 ? -1 : t % C));
    const sums = new Float32Array(T);
    const margins = new Float32Array(T);
    for (const gradScale of [0, 0.25]) {
      compare(native, 'crossEntropy', { logits, sums, margins }, (k, a) =>
        k.crossEntropyInPlace(a.logits!, targets, gradScale, T, C, a.sums!, a.margins!),
      );
    }
    const m = n.floats(R * C, 0.01);
    const v = n.floats(R * C, 0.01).map((value) => value * value);
    const g = n.floats(R * C, 0.01);
    const constants = {
      beta1: 0.9,
      beta2: 0.95,
      eps: 1e-8,
      keep: 0.999,
      stepSize: 0.01,
      secondScale: 3,
      gradScale: 0.7,
    };
    compare(native, 'adamWUpdate', { w, g, m, v }, (k, a) => k.adamWUpdate(a.w!, a.g!, a.m!, a.v!, constants));
    compare(native, 'sgdUpdate', { w, g }, (k, a) => k.sgdUpdate(a.w!, a.g!, { lr: 0.1, keep: 0.99, gradScale: 0.7 }));
    compare(native, 'sumSquares', { w }, (k, a) => k.sumSquares(a.w!));
    compare(native, 'addInPlace', { dw, w }, (k, a) => k.addInPlace(a.dw!, a.w!, R * C));
  }
});

test.each(variants)('$isa, $threads threads: attention and RoPE', async ({ isa, threads }) => {
  const native = await loadTrainKernels({ kernels: 'native', isa, threads });
  for (const { heads, kvHeads, headDim, lengths } of [
    { heads: 4, kvHeads: 2, headDim: 16, lengths: [1, 37, 5] },
    { heads: 3, kvHeads: 1, headDim: 12, lengths: [20] },
    { heads: 2, kvHeads: 2, headDim: 84, lengths: [33, 18] },
  ]) {
    const n = new Numbers(heads * headDim);
    const T = lengths.reduce((sum, length) => sum + length, 0);
    const starts = Int32Array.from([0, ...lengths].map((_, i) => lengths.slice(0, i).reduce((s, x) => s + x, 0)));
    const shape = { heads, kvHeads, headDim, scale: Math.fround(headDim ** -0.5) };
    const q = n.floats(T * heads * headDim, 2);
    const k = n.floats(T * kvHeads * headDim, 2);
    const v = n.floats(T * kvHeads * headDim);
    const out = new Float32Array(q.length);
    compare(native, 'attentionForward', { q, k, v, out }, (kernels, a) =>
      kernels.attentionForward(a.q!, a.k!, a.v!, starts, shape, a.out!),
    );
    JS_KERNELS.attentionForward(q, k, v, starts, shape, out);
    const dOut = n.floats(q.length);
    const [dq, dk, dv] = [n.floats(q.length), n.floats(k.length), n.floats(v.length)];
    compare(native, 'attentionBackward', { q, k, v, out, dOut, dq, dk, dv }, (kernels, a) =>
      kernels.attentionBackward(a.q!, a.k!, a.v!, a.out!, a.dOut!, starts, shape, a.dq!, a.dk!, a.dv!),
    );
    const positions = Int32Array.from({ length: T }, (_, t) => t % 40);
    const cos = n.floats(20 * headDim);
    const sin = n.floats(20 * headDim);
    for (const direction of ['ropeForward', 'ropeBackward'] as const) {
      compare(native, direction, { q }, (kernels, a) =>
        kernels[direction](a.q!, positions, cos, sin, T, heads, headDim),
      );
    }
  }
});

test.each(variants)('$isa, $threads threads: three steps of a model', async ({ isa, threads }) => {
  const native = await loadTrainKernels({ kernels: 'native', isa, threads });
  const config = tinyConfig('bitnet');
  const run = (kernels: TrainKernels) => {
    const network = new Network(config, kernels);
    const latents = randomLatents(network.plan, 5);
    const state = zeroOptimizerState(network.plan);
    const gradients = new Float32Array(network.plan.length);
    const n = new Numbers(8);
    const batch = makeBatch(
      [30, 9, 64].map((length) => nextTokenSequence(n.integers(length, 0, config.vocabSize - 1))),
    );
    const losses = [1, 2, 3].map(() => {
      network.quantize(latents);
      const { loss } = network.lossAndGradients(latents, batch, gradients);
      optimizerStep(
        kernels,
        network.plan,
        DEFAULT_OPTIMIZER,
        { lr: 0.01, weightDecay: 0.1 },
        latents,
        gradients,
        state,
      );
      return loss;
    });
    return { losses, latents, gradients, ...state };
  };
  const fast = run(native);
  const readable = run(JS_KERNELS);
  expect(fast.losses).toEqual(readable.losses);
  for (const key of ['gradients', 'latents', 'm', 'v'] as const) same(fast[key], readable[key], key);
});

test('NaN is reported by both kernel sets alike', async () => {
  if (isas.length === 0) return;
  const native = await loadTrainKernels({ kernels: 'native' });
  const x = new Float32Array(64).fill(1);
  x[37] = Number.NaN;
  for (const kernels of [JS_KERNELS, native]) {
    expect(kernels.quantizeRows(x, 4, 16, new Int8Array(64), new Float32Array(4))).toBe(2);
    expect(() => kernels.quantizeMatrices([{ name: 'q_proj', w: x, trits: new Int8Array(64) }])).toThrow(/q_proj/);
  }
  // The addon refuses lengths that do not fit instead of reading past them.
  expect(() => native.addInPlace(new Float32Array(3), new Float32Array(4), 4)).toThrow(/3 elements, needs 4/);
});
