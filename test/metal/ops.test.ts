// Every operation of the recorded program: the very kernel text in the grid emulator, through the real planner and the
// real addon, against the js backend. Integer arithmetic must be equal; float operations within TOLERANCES, because a
// GPU sums in an order of its own.

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { NonFiniteError } from '../../src/engine/backend.ts';
import { jsBackend } from '../../src/engine/js/backend.ts';
import type { Program } from '../../src/engine/program.ts';
import { emptyTop, topLogits } from '../../src/engine/top-logits.ts';
import { FAKE_MISSING, figures, loadOnFake, SCHEDULES, withSchedule } from './fake-device.ts';
import { feed, ProgramBuilder, relativeError, runBoth, someTokens } from './tiny-programs.ts';

/** Largest difference, as a share of the largest value of the result. */
const TOLERANCES = {
  /** Other order of the sum of squares: a few roundings of 2^-24. */
  rmsNorm: 5e-7,
  /** Other order of a dot product of some hundred elements. */
  dense: 2e-6,
  /** exp of the platform (up to 4 units in the last place on Metal), other orders. */
  attention: 3e-6,
  silu: 1e-6,
} as const;

const onFake = (program: Program) => loadOnFake(program);
const compare = (program: Program, steps: readonly (readonly number[])[], options = {}) =>
  runBoth(onFake, program, steps, options);

describe.skipIf(FAKE_MISSING !== undefined)('operations in the grid emulator', () => {
  test.each(['f32', 'f16', 'bf16'] as const)('embed and selectOutputs, %s: equal', async (dtype) => {
    for (const width of [1, 16, 37, 130]) {
      const p = new ProgramBuilder(width);
      const program = p.finish(p.data(width, dtype));
      for (const { expected, actual } of await compare(program, [someTokens(7, width, 1), [0]])) {
        expect(actual.logits).toEqual(expected.logits);
      }
    }
  });

  test('add, and add joined with selectOutputs: equal', async () => {
    const p = new ProgramBuilder(3);
    const x = p.data(70);
    const y = p.data(70);
    p.ops.push({ op: 'add', x, y });
    p.ops.push({ op: 'add', x, y });
    for (const { expected, actual } of await compare(p.finish(x), [someTokens(5, 70, 1)])) {
      expect(actual.logits).toEqual(expected.logits);
    }
  });

  test('rmsNorm: within tolerance, in place too', async () => {
    for (const [width, eps] of [
      [5, 1e-5],
      [64, 1e-6],
      [300, 0.1],
      [2560, 1e-5],
    ] as const) {
      const p = new ProgramBuilder(width);
      const x = p.data(width);
      p.ops.push({ op: 'rmsNorm', x, weight: p.weight(p.vector('norm', width)), eps: Math.fround(eps), out: x });
      for (const { expected, actual } of await compare(p.finish(x), [someTokens(3, width, 2)])) {
        expect(relativeError(expected.logits, actual.logits)).toBeLessThan(TOLERANCES.rmsNorm);
      }
    }
  });

  /** embed -> quantize -> 1 to 3 ternary products -> their sum. Only exact operations. */
  function ternaryProgram(seed: number, columns: number, rows: number, matrices: number): Program {
    const p = new ProgramBuilder(seed);
    const x = p.data(columns);
    const codes = p.buffer('codes', columns, 'i8');
    const scale = p.buffer('scale', 1);
    p.ops.push({ op: 'quantize', x, codes, scale, label: 'here' });
    const outs = Array.from({ length: matrices }, (_, i) => p.buffer(`out ${i}`, rows));
    outs.forEach((out, i) => {
      p.ops.push({ op: 'ternaryMatmul', codes, scale, weight: p.weight(p.ternary(`w${i}`, rows, columns)), out });
    });
    outs.slice(1).forEach((y) => {
      p.ops.push({ op: 'add', x: outs[0]!, y });
    });
    return p.finish(outs[0]!);
  }

  test('quantize and ternaryMatmul: equal for any shape and number of rows', { timeout: 120_000 }, async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.record({
          seed: fc.integer({ min: 1, max: 1e6 }),
          columns: fc.integer({ min: 1, max: 600 }),
          rows: fc.integer({ min: 1, max: 150 }),
          matrices: fc.integer({ min: 1, max: 4 }),
          tokens: fc.constantFrom(1, 2, 3, 4, 5, 8, 9, 31, 33, 40),
          schedule: fc.constantFrom(...SCHEDULES),
        }),
        async ({ seed, columns, rows, matrices, tokens, schedule }) => {
          const program = ternaryProgram(seed, columns, rows, matrices);
          const steps = [someTokens(tokens, rows, seed)];
          for (const { expected, actual } of await withSchedule(schedule, () => compare(program, steps))) {
            expect(actual.logits).toEqual(expected.logits);
          }
        },
      ),
      { numRuns: 40, seed: 6 },
    );
  });

  test('ternaryMatmul at the shapes of 2B-4T, one token and 40: equal', async () => {
    for (const [columns, rows, matrices] of [
      [2560, 640, 3],
      [6912, 160, 1],
    ] as const) {
      const program = ternaryProgram(rows, columns, rows, matrices);
      for (const { expected, actual } of await compare(program, [[3], someTokens(12, rows, 5)])) {
        expect(actual.logits).toEqual(expected.logits);
      }
    }
  });

  test('every kernel that the tuner may choose: equal', async () => {
    const { CANDIDATES, shapeKey } = await import('../../src/engine/metal/tuning.ts');
    const program = ternaryProgram(11, 1100, 70, 3);
    using reference = await jsBackend.load(program, {});
    const expected = await feed(reference, reference.createSequence(), [7]);
    for (const choice of CANDIDATES) {
      const tuning = new Map([[shapeKey(3 * 18, 69), choice]]);
      using executable = loadOnFake(program, { tuning });
      const { kernel } = executable.dispatchesAt(0).find((d) => d.kernel.startsWith('ternary'))!;
      expect(kernel).toBe(choice.kernel);
      const actual = await feed(executable, executable.createSequence(), [7]);
      expect(actual.logits).toEqual(expected.logits);
    }
  });

  test('the widest sums stay exact: 32768 columns in which everything adds up', async () => {
    const columns = 32768;
    for (const tokens of [[0], [0, 1], [1, 0, 1, 0, 1, 0, 1, 0, 1]]) {
      const p = new ProgramBuilder(1);
      const ones = new Float32Array(4 * columns).fill(1);
      ones.fill(-1, columns, 2 * columns);
      const x = p.buffer('data', columns);
      const bytes = new Uint8Array(ones.buffer);
      p.ops.push({
        op: 'embed',
        table: p.weight({ kind: 'dense', name: 'data', rows: 4, columns, dtype: 'f32', bytes }),
        out: x,
      });
      const codes = p.buffer('codes', columns, 'i8');
      const scale = p.buffer('scale', 1);
      const out = p.buffer('out', 4);
      p.ops.push({ op: 'quantize', x, codes, scale, label: 'here' });
      // All trits +1, all codes +-127: the sum of codes 2 times activations comes closest to 2^24.
      const plus = new Uint8Array(columns).fill(0b10101010);
      const weight = p.weight({
        kind: 'ternary',
        name: 'w',
        rows: 4,
        columns,
        layout: 'rowquad',
        bytes: plus,
        scale: 1,
      });
      p.ops.push({ op: 'ternaryMatmul', codes, scale, weight, out });
      for (const { expected, actual } of await compare(p.finish(out), [tokens])) {
        expect(actual.logits).toEqual(expected.logits);
        expect(Math.abs(actual.logits[0]!)).toBe(columns);
      }
    }
  });

  test('int8Matmul: equal', async () => {
    for (const [columns, rows, tokens] of [
      [64, 50, 1],
      [100, 33, 3],
      [2560, 41, 6],
      [515, 1, 1],
    ] as const) {
      const p = new ProgramBuilder(columns);
      const x = p.data(columns);
      const last = p.buffer('last', columns, 'f32', 'outputs');
      p.ops.push({ op: 'selectOutputs', x, out: last });
      const codes = p.buffer('codes', columns, 'i8', 'outputs');
      const scale = p.buffer('scale', 1, 'f32', 'outputs');
      p.ops.push({ op: 'quantize', x: last, codes, scale, label: 'head' });
      const out = p.buffer('logits', rows, 'f32', 'outputs');
      p.ops.push({ op: 'int8Matmul', codes, scale, weight: p.weight(p.int8('head', rows, columns)), out });
      for (const { expected, actual } of await compare(p.finish(out), [someTokens(tokens, rows, 3)])) {
        expect(actual.logits).toEqual(expected.logits);
      }
    }
  });

  test.each(['f32', 'f16', 'bf16'] as const)('denseMatmul, %s: within tolerance', async (dtype) => {
    for (const [columns, rows, tokens] of [
      [64, 50, 1],
      [100, 33, 3],
      [520, 47, 6],
      [5, 3, 1],
    ] as const) {
      const p = new ProgramBuilder(columns);
      const x = p.data(columns);
      const last = p.buffer('last', columns, 'f32', 'outputs');
      p.ops.push({ op: 'selectOutputs', x, out: last });
      const out = p.buffer('logits', rows, 'f32', 'outputs');
      p.ops.push({ op: 'denseMatmul', x: last, weight: p.weight(p.dense('head', rows, columns, dtype)), out });
      for (const { expected, actual } of await compare(p.finish(out), [someTokens(tokens, rows, 3)])) {
        expect(relativeError(expected.logits, actual.logits)).toBeLessThan(TOLERANCES.dense);
      }
    }
  });

  test.each(['relu2', 'silu'] as const)('gatedActivation, %s, alone and fused', async (fn) => {
    for (const form of ['alone', 'quantized', 'normed', 'normed and quantized'] as const) {
      for (const width of [20, 148, 700]) {
        const p = new ProgramBuilder(width);
        const gate = p.data(width, 'f32', 4);
        const up = p.data(width);
        p.ops.push({ op: 'gatedActivation', fn, gate, up, out: gate });
        let result = gate;
        if (form.includes('normed')) {
          p.ops.push({ op: 'rmsNorm', x: gate, weight: p.weight(p.vector('norm', width)), eps: 1e-5, out: gate });
        }
        if (form.includes('quantized')) {
          const codes = p.buffer('codes', width, 'i8');
          const scale = p.buffer('scale', 1);
          p.ops.push({ op: 'quantize', x: gate, codes, scale, label: 'here' });
          result = p.buffer('out', 50);
          p.ops.push({ op: 'ternaryMatmul', codes, scale, weight: p.weight(p.ternary('w', 50, width)), out: result });
        }
        for (const { expected, actual } of await compare(p.finish(result), [someTokens(5, 20, 4)])) {
          const error = relativeError(expected.logits, actual.logits);
          if (fn === 'relu2' && !form.includes('normed')) expect(error).toBe(0);
          else expect(error).toBeLessThan(form.includes('normed') ? 2 * TOLERANCES.rmsNorm : TOLERANCES.silu);
        }
      }
    }
  });

  test('a buffer that a fused run hides is stored when something else reads it', async () => {
    const p = new ProgramBuilder(9);
    const x = p.data(60);
    const y = p.data(60);
    const normed = p.buffer('normed', 60);
    const codes = p.buffer('codes', 60, 'i8');
    const scale = p.buffer('scale', 1);
    const out = p.buffer('out', 60);
    p.ops.push({ op: 'add', x, y });
    p.ops.push({ op: 'rmsNorm', x, weight: p.weight(p.vector('norm', 60)), eps: 1e-5, out: normed });
    p.ops.push({ op: 'quantize', x: normed, codes, scale, label: 'here' });
    p.ops.push({ op: 'ternaryMatmul', codes, scale, weight: p.weight(p.ternary('w', 60, 60)), out });
    p.ops.push({ op: 'add', x: out, y: normed });
    p.ops.push({ op: 'add', x: out, y: x });
    for (const { expected, actual } of await compare(p.finish(out), [someTokens(4, 40, 4)])) {
      expect(relativeError(expected.logits, actual.logits)).toBeLessThan(2 * TOLERANCES.rmsNorm);
    }
  });

  function attentionProgram(seed: number, heads: number, kvHeads: number, headDim: number, context: number): Program {
    const p = new ProgramBuilder(seed);
    p.kv = { layers: 2, kvHeads, headDim };
    p.contextLength = context;
    const q = p.data(heads * headDim, 'f32', 2);
    const k = p.data(kvHeads * headDim, 'f32', 2);
    const v = p.data(kvHeads * headDim);
    const out = p.buffer('attended', heads * headDim);
    const scale = Math.fround(headDim ** -0.5);
    p.ops.push({ op: 'rope', x: q, heads, headDim });
    p.ops.push({ op: 'rope', x: k, heads: kvHeads, headDim });
    p.ops.push({ op: 'kvAppend', layer: 0, k, v });
    p.ops.push({ op: 'kvAppend', layer: 1, k: v, v: k });
    p.ops.push({ op: 'attention', layer: 0, q, out, heads, kvHeads, headDim, scale });
    const other = p.buffer('attended', heads * headDim);
    p.ops.push({ op: 'attention', layer: 1, q, out: other, heads, kvHeads, headDim, scale });
    p.ops.push({ op: 'add', x: out, y: other });
    return p.finish(out);
  }

  test.each([
    [4, 4, 4],
    [4, 2, 2],
    [3, 1, 18],
    [2, 2, 74],
    [1, 1, 134],
    [4, 2, 12],
    [8, 2, 16],
    [5, 1, 24],
    [20, 5, 8],
    [6, 3, 64],
    [4, 1, 128],
    [2, 1, 132],
    [1, 1, 256],
  ])('rope, kvAppend and attention: %i heads, %i kv heads of %i', async (heads, kvHeads, headDim) => {
    const program = attentionProgram(heads * headDim, heads, kvHeads, headDim, 64);
    const tokens = (n: number) => someTokens(n, heads * headDim, n);
    for (const schedule of [1, 2]) {
      const results = await withSchedule(schedule, () => compare(program, [tokens(33), tokens(1), tokens(2), [0]]));
      for (const { expected, actual } of results) {
        expect(relativeError(expected.logits, actual.logits)).toBeLessThan(TOLERANCES.attention);
      }
    }
  });

  test('a long context: splits and their merge, and the same bits whatever else is in the step', async () => {
    const program = attentionProgram(1, 2, 1, 10, 400);
    const all = someTokens(300, 20, 9);
    const [whole] = await compare(program, [all]);
    expect(relativeError(whole!.expected.logits, whole!.actual.logits)).toBeLessThan(TOLERANCES.attention);
    using executable = loadOnFake(program);
    const sequence = executable.createSequence();
    let at = 0;
    for (const size of [250, 10, 1, 39]) {
      const { logits } = await feed(executable, sequence, all.slice(at, at + size));
      expect(logits).toEqual(whole!.actual.logits.slice(at * 20, (at + size) * 20));
      at += size;
    }
  });

  test('rope of a buffer alone: equal', async () => {
    const p = new ProgramBuilder(2);
    p.kv = { layers: 1, kvHeads: 3, headDim: 16 };
    const x = p.data(48);
    p.ops.push({ op: 'rope', x, heads: 3, headDim: 16 });
    for (const { expected, actual } of await compare(p.finish(x), [someTokens(20, 40, 1), [1]])) {
      expect(actual.logits).toEqual(expected.logits);
    }
  });

  test('countTrits: equal', async () => {
    for (const width of [3, 64, 250]) {
      const p = new ProgramBuilder(width);
      const x = p.data(width);
      const y = p.data(width);
      p.ops.push({ op: 'countTrits', x, index: 0 });
      p.ops.push({ op: 'countTrits', x: y, index: 1 });
      const program = p.finish(x, 2);
      for (const { expected, actual } of await compare(program, [someTokens(6, width, 1)], { trace: true })) {
        expect(actual.tritCounts).toEqual(expected.tritCounts);
        expect(actual.tritCounts.length).toBe(36);
      }
    }
  });

  test('the largest logits and the sums of weights: the reference’s bits, with the logits and without', async () => {
    for (const [width, count] of [
      [1, 1],
      [40, 40],
      [4096, 2],
      [5000, 1],
      [9000, 64],
    ] as const) {
      const p = new ProgramBuilder(width);
      // Coarse values, so that ties are common.
      const program = p.finish(p.data(width, 'f16'));
      using executable = loadOnFake(program);
      const tokens = someTokens(3, Math.min(40, width), 5);
      const sequence = executable.createSequence();
      const step = {
        tokens: Int32Array.from(tokens),
        sequences: new Int32Array(3).fill(sequence),
        positions: Int32Array.of(0, 1, 2),
        outputRows: Int32Array.of(0, 2),
        top: count,
      };
      const { logits, top } = await executable.step(step);
      expect(logits.length).toBe(2 * width);
      expect(top).toEqual(topLogits(logits, 2, count));
      executable.truncate(sequence, 0);
      expect(await executable.step({ ...step, withoutLogits: true })).toMatchObject({
        logits: new Float32Array(0),
        top,
      });
      executable.truncate(sequence, 0);
      expect((await executable.step({ ...step, top: 0 })).top).toEqual(emptyTop(0, 0));
    }
  });

  test('the largest of logits that are no numbers, and of many that weigh next to nothing', async () => {
    const width = 5000;
    const p = new ProgramBuilder(8);
    const x = p.buffer('x', width);
    const table = p.dense('data', 8, width, 'f32');
    const rows = Array.from({ length: 8 }, (_, i) => new Float32Array(table.bytes.buffer, 4 * i * width, width));
    rows[1]!.fill(Number.NEGATIVE_INFINITY);
    rows[2]![4999] = Number.NaN;
    rows[3]![7] = Number.POSITIVE_INFINITY;
    rows[4]!.fill(Number.NEGATIVE_INFINITY, 1);
    // Weights around half of 2^-32, where the rounding shows: e^-22.87 and on both sides.
    rows[5]!.forEach((_, i, row) => {
      row[i] = i === 2500 ? 3 : 3 - 22 - i / 4000;
    });
    rows[6]!.fill(Number.NaN);
    rows[7]!.fill(-80);
    p.ops.push({ op: 'embed', table: p.weight(table), out: x });
    using executable = loadOnFake(p.finish(x));
    const tokens = Int32Array.of(0, 1, 2, 3, 4, 5, 6, 7);
    const { logits, top } = await executable.step({
      tokens,
      sequences: new Int32Array(8).fill(executable.createSequence()),
      positions: tokens,
      outputRows: tokens,
      top: 3,
    });
    const wanted = topLogits(logits, 8, 3);
    expect(top).toEqual(wanted);
    expect([...top.mass].map(Number.isNaN)).toEqual([false, true, true, true, false, false, true, false]);
    expect([top.mass[4], top.mass[7]]).toEqual([1, width]);
  });

  test('NaN and infinity fail the step with the label; the next step is as if nothing had happened', async () => {
    const p = new ProgramBuilder(4);
    const width = 20;
    const x = p.buffer('data', width);
    const table = p.dense('data', 20, width, 'f32');
    const floats = new Float32Array(table.bytes.buffer);
    floats[3 * width + 19] = Number.NaN;
    floats[4 * width] = -Infinity;
    p.ops.push({ op: 'embed', table: p.weight(table), out: x });
    p.ops.push({ op: 'rmsNorm', x, weight: p.weight(p.vector('norm', width)), eps: 1e-5, out: x });
    const codes = p.buffer('codes', width, 'i8');
    const scale = p.buffer('scale', 1);
    p.ops.push({ op: 'quantize', x, codes, scale, label: 'layer 0, input of q_proj' });
    const out = p.buffer('out', width);
    p.ops.push({ op: 'ternaryMatmul', codes, scale, weight: p.weight(p.ternary('w', width, width)), out });
    const program = p.finish(out);
    using executable = loadOnFake(program);
    const sequence = executable.createSequence();
    const before = await feed(executable, sequence, [1, 2]);
    for (const bad of [3, 4]) {
      const failed = feed(executable, sequence, [1, bad, 2]);
      await expect(failed).rejects.toThrow(NonFiniteError);
      await expect(failed).rejects.toThrow('tiny, layer 0, input of q_proj');
      expect(executable.sequenceLength(sequence)).toBe(2);
    }
    const again = executable.createSequence();
    expect((await feed(executable, again, [1, 2])).logits).toEqual(before.logits);
  });

  test('one command buffer per step', async () => {
    const p = new ProgramBuilder(4);
    const program = p.finish(p.data(20));
    using executable = loadOnFake(program);
    const sequence = executable.createSequence();
    for (const tokens of [[1], [2], someTokens(30, 20, 1)]) {
      const before = figures().commandBuffers;
      await feed(executable, sequence, tokens);
      expect(figures().commandBuffers - before).toBe(1);
    }
  });
});
