// The reference operations against single operations computed by other people's code.

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import * as ops from '../../src/engine/js/ops.ts';
import type { Checkpoint } from '../../src/formats/checkpoint.ts';
import { openCheckpoint } from '../../src/formats/open-checkpoint.ts';
import { ropeTables } from '../../src/model/rope.ts';
import { toFloat32 } from '../../src/quant/to-float32.ts';

const folder = join(import.meta.dirname, '../golden/ops');

type Case = {
  name: string;
  eps: number;
  fn: string;
  theta: number;
  head_dim: number;
  heads: number;
  kv_heads: number;
  queries: number;
  keys: number;
  positions: number[];
};

async function load(op: string) {
  const { cases } = JSON.parse(readFileSync(join(folder, `${op}.json`), 'utf8')) as { cases: Case[] };
  const file = await openCheckpoint(join(folder, `${op}.safetensors`));
  const floats = async (name: string) => Float32Array.from(toFloat32(await file.read(name)));
  return { cases, file, floats, shape: (name: string) => file.info(name).shape };
}

const scaleOf = (values: Float32Array) => values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);

describe('rmsNorm', async () => {
  const { cases, floats, shape } = await load('rms_norm');
  // The bf16 case rounds twice on the way, which no step of our engine does.
  test.each(cases.filter(({ name }) => name !== 'bf16'))('$name', async ({ name, eps }) => {
    const x = await floats(`${name}.x`);
    const y = await floats(`${name}.y`);
    const columns = shape(`${name}.x`).at(-1)!;
    const out = new Float32Array(x.length);
    ops.rmsNorm(x, await floats(`${name}.w`), eps, x.length / columns, columns, out);
    for (let at = 0; at < x.length; at += columns) {
      const limit = 2e-6 * scaleOf(y.subarray(at, at + columns));
      for (let i = at; i < at + columns; i += 1) expect(Math.abs(out[i]! - y[i]!)).toBeLessThanOrEqual(limit);
    }
  });
});

describe('gated activations, with up = 1', async () => {
  const { cases, floats } = await load('activation');
  test.each(cases)('$name', async ({ name, fn }) => {
    const x = await floats(`${name}.x`);
    const y = await floats(`${name}.y`);
    const out = new Float32Array(x.length);
    const up = new Float32Array(x.length).fill(1);
    (fn === 'relu2' ? ops.relu2Gate : ops.siluGate)(x, up, x.length, out);
    y.forEach((wanted, i) => {
      if (!Number.isFinite(wanted)) expect(out[i]).toBe(wanted);
      // Results below the smallest normal float may be flushed.
      else expect(Math.abs(out[i]! - wanted)).toBeLessThanOrEqual(2e-6 * Math.abs(wanted) + 1e-37);
    });
  });
});

describe('rope', async () => {
  const { cases, floats, shape } = await load('rope');
  test.each(cases)('$name', async ({ name, theta, head_dim: D, positions }) => {
    const { cos, sin } = ropeTables(theta, D, Math.max(...positions) + 1);
    const exact = { cos: await floats(`${name}.cos_exact`), sin: await floats(`${name}.sin_exact`) };
    positions.forEach((position, row) => {
      for (let j = 0; j < D / 2; j += 1) {
        const limit = 2e-6 + 1.3e-7 * position;
        expect(Math.abs(cos[(position * D) / 2 + j]! - exact.cos[row * D + j]!)).toBeLessThanOrEqual(limit);
        expect(Math.abs(sin[(position * D) / 2 + j]! - exact.sin[row * D + j]!)).toBeLessThanOrEqual(limit);
      }
    });
    for (const which of ['q', 'k']) {
      const [, heads, T] = shape(`${name}.${which}`) as [number, number, number];
      const input = await floats(`${name}.${which}`);
      const wanted = await floats(`${name}.${which}_out`);
      // The reference is head-major, the engine row-major.
      const x = new Float32Array(input.length);
      const at = (t: number, h: number) => (t * heads + h) * D;
      for (let h = 0; h < heads; h += 1) {
        for (let t = 0; t < T; t += 1) x.set(input.subarray((h * T + t) * D, (h * T + t + 1) * D), at(t, h));
      }
      ops.rope(x, Int32Array.from(positions), cos, sin, T, heads, D);
      for (let h = 0; h < heads; h += 1) {
        for (let t = 0; t < T; t += 1) {
          const limit = 8 * (2e-6 + 1.3e-7 * positions[t]!);
          for (let i = 0; i < D; i += 1) {
            expect(Math.abs(x[at(t, h) + i]! - wanted[(h * T + t) * D + i]!)).toBeLessThanOrEqual(limit);
          }
        }
      }
    }
  });
});

describe('attention', async () => {
  const { cases, floats } = await load('attention');
  test.each(cases)('$name', async ({ name, heads, kv_heads: kvHeads, head_dim: D, queries, keys }) => {
    const perPosition = (from: Float32Array, count: number, n: number) => {
      const to = new Float32Array(from.length);
      for (let h = 0; h < count; h += 1) {
        for (let t = 0; t < n; t += 1) to.set(from.subarray((h * n + t) * D, (h * n + t + 1) * D), (t * count + h) * D);
      }
      return to;
    };
    const q = perPosition(await floats(`${name}.q`), heads, queries);
    const k = perPosition(await floats(`${name}.k`), kvHeads, keys);
    const v = perPosition(await floats(`${name}.v`), kvHeads, keys);
    const out = new Float32Array(queries * heads * D);
    const scale = Math.fround(D ** -0.5);
    for (let i = 0; i < queries; i += 1) {
      const at = i * heads * D;
      const count = keys - queries + i + 1;
      const [scores, block] = [new Float32Array(keys), new Float32Array(D)];
      ops.attentionRow(q, at, k, v, 0, count, heads, kvHeads, D, scale, scores, block, out, at);
    }
    const wanted = await floats(`${name}.y`);
    const limit = name === 'sharp' ? 1e-3 : 1e-5;
    wanted.forEach((value, i) => {
      expect(Math.abs(out[i]! - value)).toBeLessThanOrEqual(limit);
    });
  });
});

describe('ternaryMatmul after quantizeRows', async () => {
  const { cases, file, floats, shape } = await load('bit_linear');
  test.each(cases)('$name: the multiplied and the divided variant', async ({ name }) => {
    const x = await floats(`${name}.x`);
    const [R, C] = shape(`${name}.w`) as [number, number];
    const T = x.length / C;
    const codes = new Int8Array(x.length);
    const scale = new Float32Array(T);
    expect(ops.quantizeRows(x, T, C, codes, scale)).toBe(-1);
    const packed = (await (file as Checkpoint).read(`${name}.packed`)).bytes;
    const variants = [
      ['y_mul', (await floats(`${name}.scale_mul`))[0]!],
      ['y_div', Math.fround(1 / (await floats(`${name}.scale_div`))[0]!)],
    ] as const;
    for (const [wantedName, weightScale] of variants) {
      const out = new Float32Array(T * R);
      ops.ternaryMatmul(packed, weightScale, codes, scale, T, R, C, out);
      const wanted = await floats(`${name}.${wantedName}`);
      for (let t = 0; t < T; t += 1) {
        const limit = 1e-5 * scaleOf(wanted.subarray(t * R, (t + 1) * R));
        for (let i = t * R; i < (t + 1) * R; i += 1) {
          expect(Math.abs(out[i]! - wanted[i]!)).toBeLessThanOrEqual(limit);
        }
      }
    }
  });
});

describe('quantizeRows', async () => {
  const { cases, floats, file, shape } = await load('act_quant');
  const finite = (cases as (Case & { outputs: string[]; fragile: number[] })[]).filter(({ outputs }) =>
    outputs.includes('q'),
  );
  test.each(finite)('$name: codes exactly', async ({ name, fragile }) => {
    const x = await floats(`${name}.x`);
    const C = shape(`${name}.x`).at(-1)!;
    const codes = new Int8Array(x.length);
    const scale = new Float32Array(x.length / C);
    expect(ops.quantizeRows(x, x.length / C, C, codes, scale)).toBe(-1);
    const { bytes } = await file.read(`${name}.q`);
    const wanted = new Int8Array(bytes.buffer, bytes.byteOffset, bytes.length);
    wanted.forEach((code, i) => {
      if (fragile.includes(i)) expect(Math.abs(codes[i]! - code)).toBeLessThanOrEqual(1);
      else expect(codes[i]).toBe(code);
    });
  });

  test.each(['nonfinite_nan', 'nonfinite_inf'])('%s: names the row', async (name) => {
    const x = await floats(`${name}.x`);
    const C = shape(`${name}.x`).at(-1)!;
    const row = Math.floor(x.findIndex((value) => !Number.isFinite(value)) / C);
    expect(ops.quantizeRows(x, x.length / C, C, new Int8Array(x.length), new Float32Array(x.length / C))).toBe(row);
  });
});
