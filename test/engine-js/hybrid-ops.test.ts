// Operations of hybrid and mixture models against single operations of other people's code
// (test/golden/hybrid/ORIGIN.json), and against float64 written out here on shapes that no golden file has.

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import * as hybrid from '../../src/engine/js/hybrid-ops.ts';
import { sigmoidF32, softplusF32 } from '../../src/engine/js/math.ts';
import * as ops from '../../src/engine/js/ops.ts';
import { openCheckpoint } from '../../src/formats/open-checkpoint.ts';
import { ropeTables } from '../../src/model/rope.ts';
import { toFloat32 } from '../../src/quant/to-float32.ts';
import { splitMix } from './random.ts';

const folder = join(import.meta.dirname, '../golden/hybrid/qwen35_ops');
const { cases } = JSON.parse(readFileSync(join(folder, 'ops.json'), 'utf8')) as {
  cases: {
    op: string;
    name: string;
    tolerance: number;
    block: number;
    positions: number[];
    rotary_dim: number;
    theta: number;
    eps: number;
    used: number;
    limit: number;
    key_heads: number;
    rep: number;
    head_dim: number;
  }[];
};
const file = await openCheckpoint(join(folder, 'ops.safetensors'));
const floats = async (name: string) => Float32Array.from(toFloat32(await file.read(name)));
const shapeOf = (name: string) => file.info(name).shape;
const casesOf = (op: string) => cases.filter((entry) => entry.op === op);

function expectNear(values: ArrayLike<number>, wanted: ArrayLike<number>, tolerance: number, what = ''): void {
  expect(values.length).toBe(wanted.length);
  for (let i = 0; i < wanted.length; i += 1) {
    const error = Math.abs(values[i]! - wanted[i]!);
    if (!(error <= tolerance)) expect.fail(`${what} element ${i}: ${values[i]}, wanted ${wanted[i]}`);
  }
}

/** (rows, columns) turned over. */
function transposed(x: Float32Array, rows: number, columns: number): Float32Array {
  return Float32Array.from(x, (_, i) => x[(i % rows) * columns + Math.floor(i / rows)]!);
}

test('every operation of the golden file is looked at below', () => {
  expect([...new Set(cases.map(({ op }) => op))].sort()).toEqual([
    'conv1d_silu',
    'delta_rule',
    'gates',
    'gdn_permute',
    'hadamard',
    'l2_norm',
    'maple_router',
    'maple_swiglu_clamp',
    'partial_rope',
    'rms_norm_gated',
    'rms_norm_zero_centred',
  ]);
});

describe('hadamard', () => {
  test.each(casesOf('hadamard'))('$name', async ({ name, block, tolerance }) => {
    const x = await floats(`hadamard.${name}.x`);
    const [T, C] = shapeOf(`hadamard.${name}.x`) as [number, number];
    const signs = await floats(`hadamard.${name}.signs`);
    const out = new Float32Array(x.length);
    hybrid.rotateForward(x, signs, block, undefined, T, C, out);
    expectNear(out, await floats(`hadamard.${name}.forward`), tolerance);
    hybrid.rotateBack(x, signs, block, T, C, out);
    expectNear(out, await floats(`hadamard.${name}.inverse`), tolerance);
  });

  test.each(casesOf('gdn_permute'))(
    'heads that move: $name',
    async ({ name, key_heads: keyHeads, head_dim: headDim }) => {
      const x = await floats(`gdn_permute.${name}.tiled`);
      const out = new Float32Array(x.length);
      // A block of one leaves the values as they are.
      hybrid.rotateForward(x, new Float32Array(x.length).fill(1), 1, { keyHeads, headDim }, 1, x.length, out);
      expectNear(out, await floats(`gdn_permute.${name}.grouped`), 0);
    },
  );

  test.each([
    [2, 6, undefined],
    [32, 96, undefined],
    [512, 1024, undefined],
    [16, 240, { keyHeads: 3, headDim: 16 }],
    [64, 384, { keyHeads: 2, headDim: 32 }],
  ] as const)('blocks of %i in %i, by the matrix itself', (block, C, move) => {
    const random = splitMix(block * 31 + C);
    const T = 3;
    const x = Float32Array.from({ length: T * C }, () => random() * 4 - 2);
    const signs = Float32Array.from({ length: C }, () => (random() < 0.5 ? -1 : 1));
    const bitsOf = (i: number) => i.toString(2).replaceAll('0', '').length;
    const entry = (i: number, j: number) => (bitsOf(i & j) % 2 === 0 ? 1 : -1) / Math.sqrt(block);
    const moved = Float64Array.from(x);
    if (move !== undefined) {
      const heads = C / move.headDim;
      const repeats = heads / move.keyHeads;
      for (let t = 0; t < T; t += 1) {
        for (let r = 0; r < repeats; r += 1) {
          for (let k = 0; k < move.keyHeads; k += 1) {
            for (let d = 0; d < move.headDim; d += 1) {
              const from = t * C + (r * move.keyHeads + k) * move.headDim + d;
              moved[t * C + (k * repeats + r) * move.headDim + d] = x[from]!;
            }
          }
        }
      }
    }
    const times = (values: Float64Array) =>
      values.map((_, at) => {
        const base = Math.floor(at / block) * block;
        let sum = 0;
        for (let j = 0; j < block; j += 1) sum += entry(at - base, j) * values[base + j]!;
        return sum;
      });
    const out = new Float32Array(T * C);
    hybrid.rotateForward(x, signs, block, move, T, C, out);
    expectNear(out, times(moved.map((value, i) => value * signs[i % C]!)), 1e-5);
    hybrid.rotateBack(x, signs, block, T, C, out);
    expectNear(
      out,
      times(Float64Array.from(x)).map((value, i) => value * signs[i % C]!),
      1e-5,
    );
  });
});

describe('convolution', () => {
  test.each(casesOf('conv1d_silu'))('$name', async ({ name, tolerance }) => {
    const of = (part: string) => floats(`conv1d_silu.${name}.${part}`);
    const [, C, T] = shapeOf(`conv1d_silu.${name}.x`) as [number, number, number];
    const taps = shapeOf(`conv1d_silu.${name}.weight`)[1]!;
    const weight = transposed(await of('weight'), C, taps);
    const state = new Float32Array((taps - 1) * C);
    const run = async (x: string, y: string, after: string) => {
      const rows = (await of(x)).length / C;
      const out = new Float32Array(rows * C);
      hybrid.causalConv(transposed(await of(x), C, rows), 0, rows, C, weight, taps, state, out);
      expectNear(out, transposed(await of(y), C, rows), tolerance);
      expectNear(state, transposed(await of(after), C, taps - 1), 0);
    };
    expect(T).toBeGreaterThan(taps);
    await run('x', 'y', 'state_after');
    await run('step_x', 'step_y', 'state_after_steps');
  });

  test.each([
    [2, 5, [1, 1, 3]],
    [3, 7, [4]],
    [7, 2, [1, 2, 1, 9]],
  ])('%i taps, %i channels, in pieces', (taps, C, pieces) => {
    const random = splitMix(taps * 97 + C);
    const T = pieces.reduce((a, b) => a + b, 0);
    const x = Float32Array.from({ length: T * C }, () => random() * 4 - 2);
    const weight = Float32Array.from({ length: taps * C }, () => random() - 0.5);
    const wanted = Float64Array.from(x, (_, i) => {
      const [t, c] = [Math.floor(i / C), i % C];
      let u = 0;
      for (let j = 0; j < taps; j += 1) {
        const at = t - (taps - 1) + j;
        if (at >= 0) u += weight[j * C + c]! * x[at * C + c]!;
      }
      return u / (1 + Math.exp(-u));
    });
    const state = new Float32Array((taps - 1) * C);
    const out = new Float32Array(T * C);
    let from = 0;
    for (const piece of pieces) {
      hybrid.causalConv(x, from, from + piece, C, weight, taps, state, out);
      from += piece;
    }
    expectNear(out, wanted, 2e-6);
    const last = Float32Array.from(state, (_, i) => (T * C - state.length + i < 0 ? 0 : x[T * C - state.length + i]!));
    expectNear(state, last, 0);
  });
});

type Delta = {
  readonly keyHeads: number;
  readonly valueHeads: number;
  readonly headDim: number;
  readonly order: 'tiled' | 'grouped';
};

/** The delta rule in double, from gates as they are. */
function deltaRule(
  q: (t: number, h: number, d: number) => number,
  k: (t: number, h: number, d: number) => number,
  v: (t: number, h: number, d: number) => number,
  g: (t: number, h: number) => number,
  beta: (t: number, h: number) => number,
  { keyHeads, valueHeads: H, headDim: D, order }: Delta,
  T: number,
  S: Float64Array,
): Float64Array {
  const out = new Float64Array(T * H * D);
  for (let t = 0; t < T; t += 1) {
    for (let h = 0; h < H; h += 1) {
      const key = order === 'tiled' ? h % keyHeads : Math.floor((h * keyHeads) / H);
      const at = (i: number, j: number) => (h * D + i) * D + j;
      for (let j = 0; j < D; j += 1) {
        let predicted = 0;
        for (let i = 0; i < D; i += 1) {
          S[at(i, j)]! *= Math.exp(g(t, h));
          predicted += S[at(i, j)]! * k(t, key, i);
        }
        const delta = beta(t, h) * (v(t, h, j) - predicted);
        let sum = 0;
        for (let i = 0; i < D; i += 1) {
          S[at(i, j)]! += k(t, key, i) * delta;
          sum += S[at(i, j)]! * q(t, key, i);
        }
        out[(t * H + h) * D + j] = sum;
      }
    }
  }
  return out;
}

describe('delta rule', () => {
  test.each(casesOf('delta_rule'))('$name', async ({ name, tolerance }) => {
    const of = (part: string) => floats(`delta_rule.${name}.${part}`);
    const [, T, H, D] = shapeOf(`delta_rule.${name}.q`) as [number, number, number, number];
    const [q, k, v, g, beta] = [await of('q'), await of('k'), await of('v'), await of('g'), await of('beta')];
    const width = 3 * H * D;
    const x = new Float32Array(T * width);
    for (let t = 0; t < T; t += 1) {
      [q, k, v].forEach((part, i) => {
        x.set(part.subarray(t * H * D, (t + 1) * H * D), t * width + i * H * D);
      });
    }
    hybrid.l2NormHeads(x, T, width, 0, H, D, 1e-6, D ** -0.5);
    hybrid.l2NormHeads(x, T, width, H * D, H, D, 1e-6, 1);
    // What the gates are made of: g = -softplus(alpha), beta = sigmoid of a logit.
    const alpha = g.map((value) => Math.log(Math.expm1(-value)));
    const logits = beta.map((value) => Math.log(value / (1 - value)));
    const [decay, bias] = [new Float32Array(H).fill(-1), new Float32Array(H)];
    const shape = { keyHeads: H, valueHeads: H, headDim: D, order: 'tiled' } as const;
    const carried = file.has(`delta_rule.${name}.state_before`);
    const state = carried ? await of('state_before') : new Float32Array(H * D * D);
    const out = new Float32Array(T * H * D);
    // In pieces: the sequential form knows no others.
    hybrid.gatedDelta(x, 0, 23, logits, alpha, decay, bias, shape, state, out);
    hybrid.gatedDelta(x, 23, T, logits, alpha, decay, bias, shape, state, out);
    expectNear(out, await of('out'), tolerance);
    expectNear(state, await of('state_after'), tolerance);
  });

  test.each<[Delta, number]>([
    [{ keyHeads: 2, valueHeads: 6, headDim: 8, order: 'tiled' }, 11],
    [{ keyHeads: 2, valueHeads: 6, headDim: 8, order: 'grouped' }, 11],
    [{ keyHeads: 3, valueHeads: 3, headDim: 5, order: 'grouped' }, 4],
    [{ keyHeads: 1, valueHeads: 4, headDim: 32, order: 'tiled' }, 70],
  ])('%j', (shape, T) => {
    const { keyHeads, valueHeads: H, headDim: D } = shape;
    const random = splitMix(T * 1000 + H * 10 + D);
    const width = (2 * keyHeads + H) * D;
    const x = Float32Array.from({ length: T * width }, () => random() - 0.5);
    const logits = Float32Array.from({ length: T * H }, () => random() * 6 - 3);
    const alpha = Float32Array.from({ length: T * H }, () => random() * 50 - 20);
    const decay = Float32Array.from({ length: H }, () => -random());
    const bias = Float32Array.from({ length: H }, () => random() - 0.5);
    const state = Float32Array.from({ length: H * D * D }, () => random() - 0.5);
    const at = (part: number) => (t: number, h: number, d: number) => x[t * width + part + h * D + d]!;
    const softplus = (y: number) => (y > 20 ? y : Math.log1p(Math.exp(y)));
    const wantedState = Float64Array.from(state);
    const wanted = deltaRule(
      at(0),
      at(keyHeads * D),
      at(2 * keyHeads * D),
      (t, h) => decay[h]! * softplus(alpha[t * H + h]! + bias[h]!),
      (t, h) => 1 / (1 + Math.exp(-logits[t * H + h]!)),
      shape,
      T,
      wantedState,
    );
    const out = new Float32Array(T * H * D);
    hybrid.gatedDelta(x, 0, T, logits, alpha, decay, bias, shape, state, out);
    expectNear(out, wanted, 2e-5);
    expectNear(state, wantedState, 2e-5);
  });
});

/** In the files, row 1 of these x was made tiny (for the length's eps) after y had been computed from it. */
const asComputed = (x: Float32Array, columns: number) =>
  x.map((value, i) => (Math.floor(i / columns) === 1 ? value * 1e4 : value));

describe('gates and norms', () => {
  test.each(casesOf('gates'))('gates $name', async ({ name, tolerance }) => {
    const of = (part: string) => floats(`gates.${name}.${part}`);
    const [a, bias, log, decay, b] = [
      await of('a'),
      await of('dt_bias'),
      await of('A_log'),
      await of('ssm_a'),
      await of('b'),
    ];
    expectNear(
      log.map((value) => -Math.exp(value)),
      decay,
      1e-6,
    );
    const H = decay.length;
    expectNear(
      a.map((value, i) => decay[i % H]! * softplusF32(Math.fround(value + bias[i % H]!))),
      await of('g'),
      2e-5,
    );
    expectNear(b.map(sigmoidF32), await of('beta'), tolerance);
  });

  test.each(casesOf('rms_norm_gated'))('gated norm $name', async ({ name, tolerance }) => {
    const of = (part: string) => floats(`rms_norm_gated.${name}.${part}`);
    const [x, z, weight] = [await of('x'), await of('z'), await of('weight')];
    const D = weight.length;
    const out = new Float32Array(x.length);
    ops.rmsNorm(asComputed(x, D), weight, 1e-6, x.length / D, D, out);
    ops.siluGate(z, out, x.length, out);
    expectNear(out, await of('y'), tolerance);
  });

  test.each(casesOf('rms_norm_zero_centred'))('norm weights of transformers $name', async ({ name, tolerance }) => {
    const of = (part: string) => floats(`rms_norm_zero_centred.${name}.${part}`);
    const [x, less, weight] = [await of('x'), await of('hf_weight'), await of('gguf_weight')];
    expectNear(
      less.map((value) => value + 1),
      weight,
      1e-7,
    );
    const out = new Float32Array(x.length);
    ops.rmsNorm(asComputed(x, weight.length), weight, 1e-6, x.length / weight.length, weight.length, out);
    expectNear(out, await of('y'), tolerance);
  });

  test.each(casesOf('l2_norm'))('length $name', async ({ name, tolerance, eps }) => {
    const x = await floats(`l2_norm.${name}.x`);
    const [T, D] = shapeOf(`l2_norm.${name}.x`) as [number, number];
    // Beside others, which stay.
    const wide = new Float32Array(T * (D + 5)).fill(3);
    for (let t = 0; t < T; t += 1) wide.set(x.subarray(t * D, (t + 1) * D), t * (D + 5) + 2);
    hybrid.l2NormHeads(wide, T, D + 5, 2, 1, D, eps, 1);
    const wanted = await floats(`l2_norm.${name}.y`);
    for (let t = 0; t < T; t += 1) {
      const at = t * (D + 5);
      expectNear(wide.subarray(at + 2, at + 2 + D), wanted.subarray(t * D, (t + 1) * D), tolerance);
      expect([...wide.subarray(at, at + 2), ...wide.subarray(at + 2 + D, at + 5 + D)]).toEqual([3, 3, 3, 3, 3]);
    }
  });
});

describe('partial rotary positions', () => {
  test.each(casesOf('partial_rope'))('$name', async ({ name, positions, rotary_dim: N, theta, tolerance }) => {
    const { cos, sin } = ropeTables(theta, N, Math.max(...positions) + 1);
    for (const part of ['q', 'k']) {
      const [, heads, T, D] = shapeOf(`partial_rope.${name}.${part}`) as [number, number, number, number];
      const byPosition = async (of: string) => {
        const x = await floats(`partial_rope.${name}.${of}`);
        return Float32Array.from(x, (_, i) => {
          const [t, h, d] = [Math.floor(i / (heads * D)), Math.floor(i / D) % heads, i % D];
          return x[(h * T + t) * D + d]!;
        });
      };
      const x = await byPosition(part);
      ops.rope(x, Int32Array.from(positions), cos, sin, T, heads, D, N);
      const wanted = await byPosition(`${part}_out`);
      for (let t = 0; t < T; t += 1) {
        const rows = (of: Float32Array) => of.subarray(t * heads * D, (t + 1) * heads * D);
        expectNear(rows(x), rows(wanted), positions[t]! > 1000 ? tolerance : 2e-5, `position ${positions[t]}`);
      }
    }
  });
});

describe('experts', () => {
  test.each(casesOf('maple_router'))('router $name', async ({ name, used, tolerance }) => {
    const logits = await floats(`maple_router.${name}.logits`);
    const [T, E] = shapeOf(`maple_router.${name}.logits`) as [number, number];
    const [experts, weights] = [new Int32Array(T * used), new Float32Array(T * used)];
    expect(hybrid.routeExperts(logits, T, E, used, 6.1035e-5, experts, weights)).toBe(-1);
    expectNear(experts, await floats(`maple_router.${name}.experts`), 0);
    expectNear(weights, await floats(`maple_router.${name}.weights`), tolerance);
  });

  test('of equal logits the lower index comes first, and no number fails', () => {
    const [experts, weights] = [new Int32Array(3), new Float32Array(3)];
    hybrid.routeExperts(Float32Array.of(1, 2, 1, 2, 1), 1, 5, 3, 0, experts, weights);
    expect([...experts]).toEqual([1, 3, 0]);
    expect(weights[0]).toBe(weights[1]);
    for (const bad of [Number.NaN, Infinity, -Infinity]) {
      expect(hybrid.routeExperts(Float32Array.of(0, 1, bad, 0), 2, 2, 1, 0, experts, weights)).toBe(1);
    }
  });

  test('shares that are nearly nothing are divided by the least', () => {
    const [experts, weights] = [new Int32Array(1), new Float32Array(1)];
    hybrid.routeExperts(new Float32Array(65_536), 1, 65_536, 1, 6.103515625e-5, experts, weights);
    expect(weights[0]).toBeCloseTo(0.25, 6);
  });

  test.each(casesOf('maple_swiglu_clamp'))('clamped gate $name', async ({ name, limit, tolerance }) => {
    const of = (part: string) => floats(`maple_swiglu_clamp.${name}.${part}`);
    const [gate, up] = [await of('gate'), await of('up')];
    const out = new Float32Array(gate.length);
    ops.clampedSiluGate(gate, up, limit, gate.length, out);
    expectNear(out, await of('y'), tolerance * 10);
  });
});
