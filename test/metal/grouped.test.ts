// Operations of group-scaled programs in the grid emulator: whatever the shape, the bits of the js backend.

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { NonFiniteError } from '../../src/engine/backend.ts';
import { jsBackend } from '../../src/engine/js/backend.ts';
import { MetalUnsupportedError } from '../../src/engine/metal/addon.ts';
import { HELD_SCORES } from '../../src/engine/metal/encode.ts';
import { checkProgram, planProgram } from '../../src/engine/metal/plan.ts';
import { readKernelText } from '../../src/engine/metal/shaders.ts';
import type { BufferId, Program } from '../../src/engine/program.ts';
import { FAKE_MISSING, figures, loadOnFake, SCHEDULES, withSchedule, withSettings } from './fake-device.ts';
import { feed, ProgramBuilder, runBoth, someTokens } from './tiny-programs.ts';

const skip = FAKE_MISSING === undefined ? '' : ` (SKIPPED: ${FAKE_MISSING})`;
const bits = (values: Float32Array) => new Uint32Array(values.buffer, values.byteOffset, values.length);

/** Both backends, the same bits (a NaN of any pattern counts as one, -0 does not count as 0). */
async function expectSame(program: Program, steps: readonly (readonly number[])[], what: unknown = '') {
  for (const { expected, actual } of await runBoth(loadOnFake, program, steps)) {
    const wanted = bits(expected.logits);
    const found = bits(actual.logits);
    expect(found.length).toBe(wanted.length);
    const at = wanted.findIndex((word, i) => word !== found[i]);
    expect([what, at, actual.logits[at]]).toEqual([what, -1, undefined]);
    // A result of zeros would compare equal to anything that does nothing.
    expect(expected.logits.some((v) => v !== 0)).toBe(true);
  }
}

/** x -> int16 codes -> products of the given matrices -> their sum. */
function products(
  p: ProgramBuilder,
  x: BufferId,
  columns: number,
  matrices: readonly { rows: number; group: number; scaleType: 'f16' | 'f32' }[],
): Program {
  const codes = p.buffer('codes', columns, 'i16', 'tokens', matrices[0]!.group);
  const scale = p.buffer('scale', 1);
  p.ops.push({ op: 'quantize16', x, codes, scale, label: 'here' });
  const outs = matrices.map(({ rows }, i) => p.buffer(`out ${i}`, rows));
  matrices.forEach(({ rows, group, scaleType }, i) => {
    const weight = p.weight(p.grouped(`w${i}`, rows, columns, group, scaleType));
    p.ops.push({ op: 'groupedMatmul', codes, scale, weight, out: outs[i]! });
  });
  outs.slice(1).forEach((y) => {
    p.ops.push({ op: 'add', x: outs[0]!, y });
  });
  return p.finish(outs[0]!);
}

/** Columns and a group that divides them: of 32 to 256, small multiples of 4, or a whole row of any length. */
const shapes = fc.oneof(
  fc.record({ group: fc.constantFrom(32, 64, 128, 256), groups: fc.integer({ min: 1, max: 6 }) }),
  fc.record({ group: fc.constantFrom(4, 12, 20, 36), groups: fc.integer({ min: 1, max: 70 }) }),
  fc.record({ group: fc.integer({ min: 1, max: 900 }), groups: fc.constant(1) }),
  fc.record({ group: fc.constantFrom(260, 300, 512), groups: fc.integer({ min: 2, max: 3 }) }),
);

describe.skipIf(FAKE_MISSING !== undefined)(`group-scaled operations in the grid emulator${skip}`, () => {
  test('quantize16 and groupedMatmul: any shape, group, kind of scale, number of rows', {
    timeout: 240_000,
  }, async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.record({
          seed: fc.integer({ min: 1, max: 1e6 }),
          shape: shapes,
          rows: fc.integer({ min: 1, max: 150 }),
          scaleTypes: fc.array(fc.constantFrom('f16' as const, 'f32' as const), { minLength: 1, maxLength: 4 }),
          tokens: fc.constantFrom(1, 2, 3, 4, 5, 8, 9, 31, 33, 40),
          schedule: fc.constantFrom(...SCHEDULES),
        }),
        async ({ seed, shape: { group, groups }, rows, scaleTypes, tokens, schedule }) => {
          const columns = group * groups;
          const p = new ProgramBuilder(seed);
          const matrices = scaleTypes.map((scaleType) => ({ rows, group, scaleType }));
          const program = products(p, p.data(columns), columns, matrices);
          await withSchedule(schedule, () => expectSame(program, [someTokens(tokens, rows, seed)]));
        },
      ),
      { numRuns: 50, seed: 11 },
    );
  });

  test('matrices of different heights, and of different groups, side by side', async () => {
    const p = new ProgramBuilder(2);
    const x = p.data(256);
    const codes = p.buffer('codes', 256, 'i16', 'tokens', 64);
    const scale = p.buffer('scale', 1);
    p.ops.push({ op: 'quantize16', x, codes, scale, label: 'here' });
    // The first product's buffer takes the sum of those of its height.
    let out: BufferId | undefined;
    for (const [i, [rows, group]] of (
      [
        [65, 64],
        [1, 64],
        [200, 64],
        [65, 128],
      ] as const
    ).entries()) {
      const to = p.buffer(`out ${i}`, rows);
      const weight = p.weight(p.grouped(`w${i}`, rows, 256, group, i % 2 === 0 ? 'f16' : 'f32'));
      p.ops.push({ op: 'groupedMatmul', codes, scale, weight, out: to });
      if (out === undefined) out = to;
      else if (rows === 65) p.ops.push({ op: 'add', x: out, y: to });
    }
    await expectSame(p.finish(out!), [someTokens(3, 40, 1), [1], someTokens(20, 40, 2)]);
    for (const at of [1, 2]) {
      const q = new ProgramBuilder(3);
      const y = q.data(64);
      const matrices = [40, 130, 70].map((rows) => ({ rows, group: 32, scaleType: 'f16' as const }));
      const program = products(q, y, 64, matrices);
      // The program without its sums, whose rows differ in length: one matrix after the other is the result.
      const ops = program.ops.filter(({ op }) => op !== 'add' && op !== 'selectOutputs');
      const width = matrices[at]!.rows;
      const buffers = program.buffers.map((b, id) => (id === program.logits ? { ...b, width } : b));
      const from = program.buffers.findIndex(({ name }) => name === `out ${at}`);
      const select = { op: 'selectOutputs', x: from, out: program.logits } as const;
      await expectSame({ ...program, buffers, ops: [...ops, select], vocabSize: width }, [someTokens(5, 40, 1), [3]]);
    }
  });

  test('the widest sums: 32768 columns in one group in which everything adds up', { timeout: 120_000 }, async () => {
    const columns = 32768;
    for (const group of [32768, 256]) {
      for (const tokens of [[0], [0, 1], [0, 1, 1, 0, 1], [1, 0, 1, 0, 1, 0, 1, 0, 1]]) {
        const p = new ProgramBuilder(1);
        const ones = new Float32Array(4 * columns).fill(1);
        ones.fill(-1, columns, 2 * columns);
        const x = p.buffer('data', columns);
        const bytes = new Uint8Array(ones.buffer);
        const table = p.weight({ kind: 'dense', name: 'data', rows: 4, columns, dtype: 'f32', bytes });
        p.ops.push({ op: 'embed', table, out: x });
        const program = products(p, x, columns, [{ rows: 4, group, scaleType: 'f32' }]);
        // Codes +2, scales 1.
        const weights = program.weights.map((w) =>
          w.kind !== 'grouped'
            ? w
            : {
                ...w,
                bytes: new Uint8Array(w.bytes.length).fill(0xff),
                scales: new Uint8Array(new Float32Array(w.scales.length / 4).fill(1).buffer),
              },
        );
        for (const { expected, actual } of await runBoth(loadOnFake, { ...program, weights }, [tokens])) {
          expect(bits(actual.logits)).toEqual(bits(expected.logits));
          // The sums are exact; 1 / 32639 is not.
          expect(Math.abs(actual.logits[0]!) / (2 * columns)).toBeCloseTo(1, 6);
        }
      }
    }
  });

  test('quantize16: zeros, subnormals, powers of two, halfway cases', async () => {
    const width = 36;
    const rows = [
      new Array<number>(width).fill(0),
      Array.from({ length: width }, (_, i) => i * 1e-42),
      Array.from({ length: width }, (_, i) => (i - 18) * 1e-37),
      Array.from({ length: width }, (_, i) => 2 ** (i - 20)),
      // The largest is 32639, so that s = 1 and halves stay halves.
      Array.from({ length: width }, (_, i) => (i === 7 ? -32639 : i - 17.5)),
      Array.from({ length: width }, (_, i) => (i === 35 ? 3e38 : i * 1e34)),
    ];
    const p = new ProgramBuilder(5);
    const x = p.buffer('data', width);
    const floats = Float32Array.from(rows.flat());
    const bytes = new Uint8Array(floats.buffer);
    p.ops.push({
      op: 'embed',
      table: p.weight({ kind: 'dense', name: 'data', rows: rows.length, columns: width, dtype: 'f32', bytes }),
      out: x,
    });
    await expectSame(products(p, x, width, [{ rows: 40, group: 12, scaleType: 'f32' }]), [[0, 1, 2, 3, 4, 5]]);
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
    const program = products(p, x, width, [{ rows: 30, group: 20, scaleType: 'f16' }]);
    using executable = loadOnFake(program);
    const sequence = executable.createSequence();
    const before = await feed(executable, sequence, [1, 2]);
    for (const bad of [3, 4]) {
      const failed = feed(executable, sequence, [1, bad, 2]);
      await expect(failed).rejects.toThrow(NonFiniteError);
      await expect(failed).rejects.toThrow('tiny, here');
    }
    const again = executable.createSequence();
    expect((await feed(executable, again, [1, 2])).logits).toEqual(before.logits);
  });

  test.each(['f16', 'f32'] as const)('embedGrouped, %s scales: equal, padding and all', async (scaleType) => {
    for (const [columns, group] of [
      [1, 1],
      [37, 37],
      [64, 32],
      [300, 300],
      [260, 20],
      [2560, 128],
    ] as const) {
      const p = new ProgramBuilder(columns);
      const x = p.buffer('x', columns);
      const table = p.weight(p.grouped('table', 100, columns, group, scaleType));
      p.ops.push({ op: 'embedGrouped', table, out: x });
      const steps = [Array.from({ length: Math.min(50, columns) }, (_, i) => (columns < 100 ? i : 2 * i)), [0]];
      await expectSame(p.finish(x), steps, columns);
      // The elements past the width must not reach a mean or a maximum.
      const q = new ProgramBuilder(columns);
      const y = q.buffer('x', columns);
      q.ops.push({ op: 'embedGrouped', table: q.weight(q.grouped('table', 100, columns, group, scaleType)), out: y });
      q.ops.push({ op: 'rmsNorm', x: y, weight: q.weight(q.vector('norm', columns)), eps: 1e-6, out: y });
      await expectSame(products(q, y, columns, [{ rows: 90, group, scaleType }]), [steps[0]!.slice(0, 20)], columns);
    }
  });

  test('rmsNorm in the reference’s order, in place too, up to the widest row', async () => {
    for (const [width, eps] of [
      [5, 1e-5],
      [64, 1e-6],
      [300, 0.1],
      [2560, 1e-6],
      [4100, 1e-6],
      [9000, 1e-6],
    ] as const) {
      for (const inPlace of [true, false]) {
        const p = new ProgramBuilder(width);
        const x = p.data(width);
        const out = inPlace ? x : p.buffer('normed', width);
        p.ops.push({ op: 'rmsNorm', x, weight: p.weight(p.vector('norm', width)), eps: Math.fround(eps), out });
        const group = width % 4 === 0 ? 4 : width;
        const program = products(p, out, width, [{ rows: 3, group, scaleType: 'f16' }]);
        const logits = p.buffer('row', width, 'f32', 'outputs');
        const seen = { op: 'selectOutputs', x: out, out: logits } as const;
        const alone = program.ops.filter(({ op }) => op === 'embed' || op === 'rmsNorm');
        await expectSame(
          { ...program, ops: [...alone, seen], logits, vocabSize: width },
          [someTokens(2, width, 2)],
          width,
        );
        await expectSame(program, [someTokens(2, 3, 2)], width);
      }
    }
  });

  test.each(['relu2', 'silu'] as const)('gatedActivation, %s: in every chain', async (fn) => {
    for (const form of ['alone', 'quantized', 'normed', 'normed and quantized', 'kept', 'in place'] as const) {
      for (const width of [20, 148, 704]) {
        const p = new ProgramBuilder(width);
        const gate = p.data(width, 'f32', 30);
        const up = p.data(width);
        const out = form === 'in place' ? gate : p.buffer('gated', width);
        p.ops.push({ op: 'gatedActivation', fn, gate, up, out });
        let row = out;
        if (form.includes('normed')) {
          row = p.buffer('normed', width);
          p.ops.push({ op: 'rmsNorm', x: out, weight: p.weight(p.vector('norm', width)), eps: 1e-5, out: row });
        }
        // Every form but these two is read as a row itself, so that nothing but the gate is between.
        const quantized = form.includes('quantized') || form === 'kept';
        let program: Program;
        if (quantized) {
          program = products(p, row, width, [{ rows: width, group: width, scaleType: 'f16' }]);
          if (form === 'kept') {
            // Read again after the product.
            const sum = program.buffers.findIndex(({ name }) => name === 'out 0');
            const ops = [...program.ops];
            ops.splice(-1, 0, { op: 'add', x: sum, y: out });
            program = { ...program, ops };
          }
        } else {
          const other = p.buffer('other', 5);
          const codes = p.buffer('codes', width, 'i16', 'tokens', width);
          const scale = p.buffer('scale', 1);
          program = p.finish(row);
          // After the result was selected, so that the program counts as a group-scaled one.
          const weight = p.weight(p.grouped('w', 5, width, width));
          p.ops.push({ op: 'quantize16', x: up, codes, scale, label: '' });
          p.ops.push({ op: 'groupedMatmul', codes, scale, weight, out: other });
        }
        await expectSame(program, [someTokens(5, 20, 4)], [form, width]);
      }
    }
  });

  test('sums: kept, normed, quantized, and a norm in place of the sum', async () => {
    const width = 60;
    for (const form of ['kept', 'in place', 'quantized at once'] as const) {
      const p = new ProgramBuilder(9);
      const x = p.data(width);
      const y = p.data(width);
      const normed = form === 'in place' ? x : p.buffer('normed', width);
      p.ops.push({ op: 'add', x, y });
      if (form !== 'quantized at once') {
        p.ops.push({ op: 'rmsNorm', x, weight: p.weight(p.vector('norm', width)), eps: 1e-5, out: normed });
      }
      const from = form === 'quantized at once' ? x : normed;
      const program = products(p, from, width, [{ rows: width, group: 12, scaleType: 'f32' }]);
      const out = program.buffers.findIndex(({ name }) => name === 'out 0');
      const ops = [...program.ops];
      ops.splice(-1, 0, { op: 'add', x: out, y: normed }, { op: 'add', x: out, y: x });
      await expectSame({ ...program, ops }, [someTokens(4, 40, 4), [1]], form);
    }
  });

  test('rmsNormHeads: of q and k together, alone, and to another buffer', async () => {
    for (const [heads, kvHeads, headDim] of [
      [4, 2, 16],
      [3, 1, 18],
      [20, 4, 128],
      [1, 1, 6],
    ] as const) {
      for (const inPlace of [true, false]) {
        const p = new ProgramBuilder(headDim);
        p.kv = { layers: 1, kvHeads, headDim };
        const q = p.data(heads * headDim);
        const k = p.data(kvHeads * headDim);
        const v = p.data(kvHeads * headDim);
        const to = inPlace ? q : p.buffer('normed q', heads * headDim);
        const toK = inPlace ? k : p.buffer('normed k', kvHeads * headDim);
        const out = p.buffer('attended', heads * headDim);
        const weight = () => p.weight(p.vector('norm', headDim));
        const norm = { op: 'rmsNormHeads', eps: Math.fround(1e-6), headDim } as const;
        p.ops.push({ ...norm, x: q, weight: weight(), heads, out: to });
        p.ops.push({ ...norm, x: k, weight: weight(), heads: kvHeads, out: toK });
        p.ops.push({ op: 'rope', x: to, heads, headDim });
        p.ops.push({ op: 'rope', x: toK, heads: kvHeads, headDim });
        p.ops.push({ op: 'kvAppend', layer: 0, k: toK, v });
        const scale = Math.fround(headDim ** -0.5);
        p.ops.push({ op: 'attention', layer: 0, q: to, out, heads, kvHeads, headDim, scale });
        const program = products(p, out, heads * headDim, [{ rows: 33, group: heads * headDim, scaleType: 'f16' }]);
        await expectSame(program, [someTokens(5, 33, 1), [2], [1, 1]], [heads, headDim, inPlace]);
      }
    }
    // The second reads what the first writes: one after the other.
    const p = new ProgramBuilder(1);
    const x = p.data(32);
    const norm = { op: 'rmsNormHeads', x, eps: 0.5, heads: 2, headDim: 16, out: x } as const;
    p.ops.push({ ...norm, weight: p.weight(p.vector('norm', 16)) });
    p.ops.push({ ...norm, weight: p.weight(p.vector('norm', 16)) });
    const program = products(p, x, 32, [{ rows: 10, group: 32, scaleType: 'f32' }]);
    expect(planProgram(program, { traced: false }).runs.filter(({ run }) => run === 'heads').length).toBe(2);
    await expectSame(program, [[1, 2]]);
  });

  function attentionProgram(heads: number, kvHeads: number, headDim: number, context: number): Program {
    const p = new ProgramBuilder(heads * headDim);
    p.kv = { layers: 2, kvHeads, headDim };
    p.contextLength = context;
    const q = p.data(heads * headDim, 'f32', 4);
    const k = p.data(kvHeads * headDim, 'f32', 4);
    const v = p.data(kvHeads * headDim);
    const out = p.buffer('attended', heads * headDim);
    const other = p.buffer('attended', heads * headDim);
    const scale = Math.fround(headDim ** -0.5);
    p.ops.push({ op: 'rope', x: q, heads, headDim });
    p.ops.push({ op: 'rope', x: k, heads: kvHeads, headDim });
    p.ops.push({ op: 'kvAppend', layer: 0, k, v });
    p.ops.push({ op: 'kvAppend', layer: 1, k: v, v: k });
    p.ops.push({ op: 'attention', layer: 0, q, out, heads, kvHeads, headDim, scale });
    p.ops.push({ op: 'attention', layer: 1, q, out: other, heads, kvHeads, headDim, scale });
    p.ops.push({ op: 'add', x: out, y: other });
    // A product on the side makes the program a group-scaled one.
    const codes = p.buffer('codes', heads * headDim, 'i16', 'tokens', heads * headDim);
    const factor = p.buffer('scale', 1);
    p.ops.push({ op: 'quantize16', x: out, codes, scale: factor, label: '' });
    return p.finish(out);
  }

  test.each([
    [4, 2, 2],
    [3, 1, 18],
    [2, 2, 74],
    [5, 1, 24],
    [6, 3, 64],
    [4, 1, 128],
    [1, 1, 256],
  ])('attention in the reference’s order: %i heads, %i kv heads of %i', async (heads, kvHeads, headDim) => {
    const program = attentionProgram(heads, kvHeads, headDim, 64);
    const tokens = (n: number) => someTokens(n, heads * headDim, n);
    for (const schedule of [1, 2]) {
      await withSchedule(schedule, () => expectSame(program, [tokens(33), tokens(1), tokens(2), [0]]));
    }
  });

  test('attention over more positions than scores are held: the same bits', async () => {
    const program = attentionProgram(2, 1, 12, 150);
    const all = someTokens(150, 24, 9);
    using reference = await jsBackend.load(program, {});
    const expected = await feed(reference, reference.createSequence(), all);
    for (const heldScores of [64, 128]) {
      for (const schedule of SCHEDULES) {
        using executable = loadOnFake(program, { heldScores });
        const actual = await withSchedule(schedule, () => feed(executable, executable.createSequence(), all));
        expect(bits(actual.logits)).toEqual(bits(expected.logits));
      }
    }
  });

  test.each(['f32', 'f16', 'bf16'] as const)('a dense head, %s, in the reference’s order', async (dtype) => {
    for (const [columns, rows, tokens] of [
      [64, 50, 1],
      [100, 33, 3],
      [520, 47, 6],
      [5, 3, 1],
    ] as const) {
      const p = new ProgramBuilder(columns);
      const x = p.data(columns);
      const codes = p.buffer('codes', columns, 'i16', 'tokens', columns);
      p.ops.push({ op: 'quantize16', x, codes, scale: p.buffer('scale', 1), label: '' });
      const last = p.buffer('last', columns, 'f32', 'outputs');
      p.ops.push({ op: 'selectOutputs', x, out: last });
      const out = p.buffer('logits', rows, 'f32', 'outputs');
      p.ops.push({ op: 'denseMatmul', x: last, weight: p.weight(p.dense('head', rows, columns, dtype)), out });
      await expectSame(p.finish(out), [someTokens(tokens, rows, 3)], columns);
    }
  });

  test('pipelines of 256 threads: the same bits', async () => {
    await withSettings({ FAKE_METAL_MAX_THREADS: '256' }, async () => {
      const p = new ProgramBuilder(6);
      const x = p.data(2400);
      p.ops.push({ op: 'rmsNorm', x, weight: p.weight(p.vector('norm', 2400)), eps: 1e-6, out: x });
      const program = products(p, x, 2400, [{ rows: 70, group: 32, scaleType: 'f16' }]);
      await expectSame(program, [someTokens(4, 40, 1), [1]]);
    });
  });

  test('no threadgroup too many, and every code read once for up to four tokens', async () => {
    const p = new ProgramBuilder(8);
    const matrix = { rows: 192, group: 128, scaleType: 'f16' } as const;
    const program = products(p, p.data(512), 512, [matrix, matrix]);
    const codes = 2 * 192 * (512 / 4);
    const scales = 2 * 192 * (512 / 128) * 2;
    for (const tokens of [1, 2, 4]) {
      using executable = loadOnFake(program);
      const sequence = executable.createSequence();
      await feed(executable, sequence, [0]);
      const before = figures();
      await feed(executable, sequence, someTokens(tokens, 40, 1));
      const after = figures();
      expect(after.idleGroups - before.idleGroups).toBe(0);
      const embedded = tokens * 512 * 4;
      // A half is read as the word it is in, and again for every token.
      expect(after.weightBytes - before.weightBytes - embedded).toBe(codes + 2 * tokens * scales);
    }
  });
});

test('what lies between two products is one run; a Qwen3 layer is 11', () => {
  const p = new ProgramBuilder(1);
  p.kv = { layers: 1, kvHeads: 2, headDim: 16 };
  const hidden = 64;
  const x = p.data(hidden);
  const normed = p.buffer('normed', hidden);
  const codes = p.buffer('codes', hidden, 'i16', 'tokens', 32);
  const ffnCodes = p.buffer('codes', 96, 'i16', 'tokens', 32);
  const scale = p.buffer('scale', 1);
  const [q, k, v] = [p.buffer('q', 64), p.buffer('k', 32), p.buffer('v', 32)];
  const [gate, up, attended, update] = [
    p.buffer('gate', 96),
    p.buffer('up', 96),
    p.buffer('attended', 64),
    p.buffer('update', hidden),
  ];
  const product = (from: BufferId, rows: number, columns: number, out: BufferId) =>
    p.ops.push({ op: 'groupedMatmul', codes: from, scale, weight: p.weight(p.grouped('w', rows, columns, 32)), out });
  const norm = (out: BufferId) =>
    p.ops.push({ op: 'rmsNorm', x, weight: p.weight(p.vector('norm', hidden)), eps: 1e-6, out });
  for (let layer = 0; layer < 2; layer += 1) {
    norm(normed);
    p.ops.push({ op: 'quantize16', x: normed, codes, scale, label: '' });
    product(codes, 64, 64, q);
    product(codes, 32, 64, k);
    product(codes, 32, 64, v);
    for (const [of, heads] of [
      [q, 4],
      [k, 2],
    ] as const) {
      const weight = p.weight(p.vector('head norm', 16));
      p.ops.push({ op: 'rmsNormHeads', x: of, weight, eps: 1e-6, heads, headDim: 16, out: of });
    }
    p.ops.push({ op: 'rope', x: q, heads: 4, headDim: 16 });
    p.ops.push({ op: 'rope', x: k, heads: 2, headDim: 16 });
    p.ops.push({ op: 'kvAppend', layer: 0, k, v });
    p.ops.push({ op: 'attention', layer: 0, q, out: attended, heads: 4, kvHeads: 2, headDim: 16, scale: 0.25 });
    p.ops.push({ op: 'quantize16', x: attended, codes, scale, label: '' });
    product(codes, hidden, 64, update);
    p.ops.push({ op: 'add', x, y: update });
    norm(normed);
    p.ops.push({ op: 'quantize16', x: normed, codes, scale, label: '' });
    product(codes, 96, 64, gate);
    product(codes, 96, 64, up);
    p.ops.push({ op: 'gatedActivation', fn: 'silu', gate, up, out: gate });
    p.ops.push({ op: 'quantize16', x: gate, codes: ffnCodes, scale, label: '' });
    product(ffnCodes, hidden, 96, update);
    p.ops.push({ op: 'add', x, y: update });
  }
  const { runs } = planProgram(p.finish(x), { traced: false });
  const names = runs.map((run) =>
    run.run === 'rows' ? `${run.source} ${run.norm ? 'norm ' : ''}${run.out ?? ''}` : run.run,
  );
  const rest = ['grouped', 'heads', 'rope', 'attention', 'x ', 'grouped', 'sum norm ', 'grouped', 'silu ', 'grouped'];
  expect(names).toEqual(['embed', 'x norm ', ...rest, 'sum norm ', ...rest, 'select']);
  expect(runs.flatMap((run) => (run.run === 'grouped' ? [run.matrices.length] : []))).toEqual([3, 1, 2, 1, 3, 1, 2, 1]);
});

test('threadgroup memory has room for the scores that the host lets it hold', () => {
  expect(readKernelText()).toContain(`THREADGROUP_ARRAY(float, scores, ${HELD_SCORES});`);
  expect(HELD_SCORES % 64).toBe(0);
});

test('programs outside the limits are refused by name', () => {
  const p = new ProgramBuilder(1);
  const program = products(p, p.data(36), 36, [{ rows: 4, group: 12, scaleType: 'f16' }]);
  const changed = (change: object): Program => ({
    ...program,
    weights: program.weights.map((w) => (w.kind === 'grouped' ? { ...w, ...change } : w)) as Program['weights'],
  });
  expect(() => checkProgram(program)).not.toThrow();
  expect(() => checkProgram(changed({ group: 18 }))).toThrow(MetalUnsupportedError);
  expect(() => checkProgram(changed({ group: 18 }))).toThrow(/groups of 18 columns/);
  expect(() => checkProgram(changed({ columns: 32772 }))).toThrow(/32772 columns/);
});
