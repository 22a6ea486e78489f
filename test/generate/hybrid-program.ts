// A small random program with recurrent layers and one of full attention, in which everything a sequence holds matters.

import type { BufferSpec, DenseWeight, Op, Program, VectorWeight, Weight } from '../../src/engine/program.ts';
import { growingRope } from '../../src/model/rope.ts';
import { SplitMix64 } from '../../src/random/splitmix64.ts';

const [HIDDEN, VOCAB, CONTEXT] = [24, 61, 256];
const [KEY_HEADS, VALUE_HEADS, DIM, TAPS] = [1, 2, 8, 4];
const CHANNELS = (2 * KEY_HEADS + VALUE_HEADS) * DIM;

/** `window` of the attention layer; 0 for all positions. */
export function hybridProgram({ window = 0, seed = 11n } = {}): Program {
  const random = new SplitMix64(seed);
  const values = (length: number, spread: number, center = 0) =>
    Float32Array.from({ length }, () => center + spread * (random.nextFloat() - 0.5));
  const buffers: BufferSpec[] = [];
  const weights: Weight[] = [];
  const ops: Op[] = [];
  const buffer = (name: string, width: number, rows: BufferSpec['rows'] = 'tokens') =>
    buffers.push({ name, dtype: 'f32', rows, width }) - 1;
  const dense = (name: string, rows: number, columns: number): number => {
    const bytes = new Uint8Array(values(rows * columns, 1.2).buffer);
    const weight: DenseWeight = { kind: 'dense', name, rows, columns, dtype: 'f32', bytes };
    return weights.push(weight) - 1;
  };
  const vector = (name: string, all: Float32Array) =>
    weights.push({ kind: 'vector', name, values: all } satisfies VectorWeight) - 1;
  const norm = (name: string) => vector(name, values(HIDDEN, 0.5, 1));

  const x = buffer('x', HIDDEN);
  const normed = buffer('normed', HIDDEN);
  const mixed = buffer('mixed', CHANNELS);
  const convolved = buffer('convolved', CHANNELS);
  const [beta, alpha] = [buffer('beta', VALUE_HEADS), buffer('alpha', VALUE_HEADS)];
  const out = buffer('out', VALUE_HEADS * DIM);
  const update = buffer('update', HIDDEN);
  const [q, k, v] = [buffer('q', 2 * DIM), buffer('k', DIM), buffer('v', DIM)];
  const last = buffer('last', HIDDEN, 'outputs');
  const logits = buffer('logits', VOCAB, 'outputs');
  const table = dense('embedding', VOCAB, HIDDEN);
  ops.push({ op: 'embed', table, out: x });
  for (const layer of [0, 1]) {
    ops.push(
      { op: 'rmsNorm', x, weight: norm('norm'), eps: 1e-6, out: normed },
      { op: 'denseMatmul', x: normed, weight: dense('in', CHANNELS, HIDDEN), out: mixed },
      { op: 'denseMatmul', x: normed, weight: dense('beta', VALUE_HEADS, HIDDEN), out: beta },
      { op: 'denseMatmul', x: normed, weight: dense('alpha', VALUE_HEADS, HIDDEN), out: alpha },
      {
        op: 'causalConv',
        state: 2 * layer,
        x: mixed,
        weight: vector('conv', values(TAPS * CHANNELS, 2)),
        taps: TAPS,
        out: convolved,
      },
      { op: 'l2NormHeads', x: convolved, offset: 0, heads: 2 * KEY_HEADS, headDim: DIM, eps: 1e-6, scale: 1 },
      {
        op: 'gatedDelta',
        state: 2 * layer + 1,
        x: convolved,
        beta,
        alpha,
        decay: vector('decay', values(VALUE_HEADS, 0.02, -0.03)),
        bias: vector('bias', values(VALUE_HEADS, 1)),
        keyHeads: KEY_HEADS,
        valueHeads: VALUE_HEADS,
        headDim: DIM,
        order: 'tiled',
        out,
      },
      { op: 'denseMatmul', x: out, weight: dense('out', HIDDEN, VALUE_HEADS * DIM), out: update },
      { op: 'add', x, y: update },
    );
  }
  ops.push(
    { op: 'rmsNorm', x, weight: norm('norm'), eps: 1e-6, out: normed },
    { op: 'denseMatmul', x: normed, weight: dense('q', 2 * DIM, HIDDEN), out: q },
    { op: 'denseMatmul', x: normed, weight: dense('k', DIM, HIDDEN), out: k },
    { op: 'denseMatmul', x: normed, weight: dense('v', DIM, HIDDEN), out: v },
    { op: 'rope', x: q, heads: 2, headDim: DIM },
    { op: 'rope', x: k, heads: 1, headDim: DIM },
    { op: 'kvAppend', layer: 0, k, v },
    { op: 'attention', layer: 0, q, out, heads: 2, kvHeads: 1, headDim: DIM, scale: Math.fround(DIM ** -0.5) },
    { op: 'denseMatmul', x: out, weight: dense('o', HIDDEN, 2 * DIM), out: update },
    { op: 'add', x, y: update },
    { op: 'countTrits', x, index: 0 },
    { op: 'selectOutputs', x, out: last },
    { op: 'rmsNorm', x: last, weight: norm('norm'), eps: 1e-6, out: last },
    // Where it would give infinity or NaN, the step fails.
    { op: 'denseMatmul', x: last, weight: table, out: logits },
  );
  return {
    name: 'hybrid',
    buffers,
    weights,
    ops,
    kv: { layers: 1, kvHeads: 1, headDim: DIM, windows: [window] },
    rope: growingRope(10_000, DIM / 2, CONTEXT),
    recurrent: [0, 1].flatMap((layer) => [
      { name: `layer ${layer}, convolution`, width: (TAPS - 1) * CHANNELS },
      { name: `layer ${layer}, delta rule`, width: VALUE_HEADS * DIM * DIM },
    ]),
    contextLength: CONTEXT,
    vocabSize: VOCAB,
    logits,
    tracePoints: 1,
  };
}
