// Operations of hybrid and mixture models in the grid emulator: whatever the shape, the bits of the js backend.

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { type Executable, NonFiniteError, type SequenceId } from '../../src/engine/backend.ts';
import { KvCacheFullError } from '../../src/engine/gpu/kv-blocks.ts';
import { hybridSelfTestProgram } from '../../src/engine/gpu/self-test-programs.ts';
import { jsBackend } from '../../src/engine/js/backend.ts';
import { MetalError, MetalUnsupportedError } from '../../src/engine/metal/addon.ts';
import { sharedAttention } from '../../src/engine/metal/encode.ts';
import type { MetalOptions } from '../../src/engine/metal/executable.ts';
import { checkProgram, isHybrid, planProgram } from '../../src/engine/metal/plan.ts';
import type { BufferId, Op, Program } from '../../src/engine/program.ts';
import { FAKE_MISSING, figures, loadOnFake, SCHEDULES, withSchedule, withSettings } from './fake-device.ts';
import { feed, ProgramBuilder, randomFloats, relativeError, someTokens } from './tiny-programs.ts';

const skip = FAKE_MISSING === undefined ? '' : ` (SKIPPED: ${FAKE_MISSING})`;
const bits = (values: Float32Array) => new Uint32Array(values.buffer, values.byteOffset, values.length);
const f32 = Math.fround;

function sameBits(expected: Float32Array, actual: Float32Array, what: unknown): void {
  const [wanted, found] = [bits(expected), bits(actual)];
  expect(found.length).toBe(wanted.length);
  const at = wanted.findIndex((word, i) => word !== found[i]);
  expect([what, at, actual[at], expected[at]]).toEqual([what, -1, undefined, undefined]);
  // A result of zeros would compare equal to anything that does nothing.
  expect(expected.some((v) => v !== 0)).toBe(true);
}

/** One step of some sequences, all rows wanted. */
async function together(executable: Executable, parts: readonly (readonly [SequenceId, readonly number[]])[]) {
  const tokens = parts.flatMap(([, ids]) => ids);
  const { logits } = await executable.step({
    tokens: Int32Array.from(tokens),
    sequences: Int32Array.from(parts.flatMap(([sequence, ids]) => ids.map(() => sequence))),
    positions: Int32Array.from(
      parts.flatMap(([sequence, ids]) => ids.map((_, i) => executable.sequenceLength(sequence) + i)),
    ),
    outputRows: Int32Array.from(tokens, (_, i) => i),
  });
  return logits;
}

/**
 * Both backends on one sequence in pieces, then on three at once that interleave with it. `cuts`: rows of each piece.
 */
async function expectSame(
  program: Program,
  what: unknown = '',
  cuts: readonly number[] = [7, 1, 2, 1],
  options: MetalOptions = {},
): Promise<void> {
  using reference = await jsBackend.load(program, {});
  using executable = loadOnFake(program, options);
  const both = [reference, executable];
  const same = async (parts: readonly (readonly [SequenceId, readonly number[]])[]) => {
    const expected = await together(reference, parts);
    sameBits(expected, await together(executable, parts), [what, ...parts]);
  };
  const most = Math.min(program.vocabSize, 40);
  const tokens = (count: number, seed: number) => someTokens(count, most, seed);
  for (const each of both) for (let i = 0; i < 4; i += 1) expect(each.createSequence()).toBe(i);
  for (const [i, cut] of cuts.entries()) await same([[0, tokens(cut, i)]]);
  await same([
    [1, tokens(3, 20)],
    [2, tokens(1, 21)],
    [3, tokens(5, 22)],
  ]);
  await same([
    [3, tokens(1, 30)],
    [0, tokens(2, 31)],
    [2, tokens(4, 32)],
  ]);
}

/** Makes the program a group-scaled one with a product of x that nothing reads. */
function besideProduct(p: ProgramBuilder, x: BufferId): void {
  const { width, rows } = p.buffers[x]!;
  const codes = p.buffer('codes', width, 'i16', rows, width);
  const scale = p.buffer('scale', 1, 'f32', rows);
  const out = p.buffer('beside', 3, 'f32', rows);
  p.ops.push({ op: 'quantize16', x, codes, scale, label: 'beside' });
  p.ops.push({ op: 'groupedMatmul', codes, scale, weight: p.weight(p.grouped('beside', 3, width, width)), out });
}

/** x -> int16 codes -> a product; its result. */
function product(p: ProgramBuilder, x: BufferId, rows: number): BufferId {
  const { width, rows: counted } = p.buffers[x]!;
  const codes = p.buffer('codes', width, 'i16', counted, width);
  const scale = p.buffer('scale', 1, 'f32', counted);
  const out = p.buffer('product', rows, 'f32', counted);
  p.ops.push({ op: 'quantize16', x, codes, scale, label: 'here' });
  p.ops.push({ op: 'groupedMatmul', codes, scale, weight: p.weight(p.grouped('w', rows, width, width)), out });
  return out;
}

const runsOf = (program: Program) =>
  planProgram(program, { traced: false }).runs.map((run) =>
    run.run === 'rows'
      ? `${run.source === 'experts' ? 'mix' : run.source}${run.norm ? ' norm' : ''}${run.rotate ? ' rotate' : ''}`
      : run.run,
  );

describe.skipIf(FAKE_MISSING !== undefined)(`operations of hybrid programs in the grid emulator${skip}`, () => {
  const forms = ['alone', 'quantized', 'summed', 'normed', 'gated', 'read again', 'in place'] as const;

  test('hadamard: any block, row and direction, alone and in every chain', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.record({
          seed: fc.integer({ min: 1, max: 1e6 }),
          log: fc.integer({ min: 1, max: 8 }),
          blocks: fc.integer({ min: 1, max: 5 }),
          forward: fc.boolean(),
          form: fc.constantFrom(...forms),
          schedule: fc.constantFrom(...SCHEDULES),
        }),
        async ({ seed, log, blocks, forward, form, schedule }) => {
          const width = 2 ** log * blocks;
          const p = new ProgramBuilder(seed);
          let x = p.data(width);
          const y = p.data(width);
          if (form === 'summed') p.ops.push({ op: 'add', x, y });
          if (form === 'normed') {
            const normed = p.buffer('normed', width);
            p.ops.push({ op: 'rmsNorm', x, weight: p.weight(p.vector('norm', width)), eps: f32(1e-6), out: normed });
            x = normed;
          }
          if (form === 'gated') p.ops.push({ op: 'gatedActivation', fn: 'silu', gate: x, up: y, out: x });
          const out = form === 'in place' ? x : p.buffer('rotated', width);
          const direction = forward ? 'forward' : 'inverse';
          const signs = p.weight(p.signs(width));
          p.ops.push({ op: 'hadamard', x, signs, block: 2 ** log, direction, keyHeads: 0, headDim: 0, out });
          let result = out;
          if (form === 'alone') {
            besideProduct(p, y);
          } else {
            result = product(p, out, width);
            if (form === 'read again') p.ops.push({ op: 'add', x: result, y: out });
            if (form === 'normed') p.ops.push({ op: 'add', x: result, y: x });
          }
          const program = p.finish(result);
          const joined = runsOf(program).some((run) => run.includes('rotate'));
          expect([form, joined]).toEqual([form, forward && form !== 'alone' && form !== 'read again']);
          await withSchedule(schedule, () => expectSame(program, [seed, width, form, direction], [3, 1]));
        },
      ),
      { numRuns: 45, seed: 3 },
    );
  });

  test('hadamard over more than a tile, the largest block, pipelines of 256 threads', async () => {
    for (const [width, block, threads] of [
      [8192, 4096, 1024],
      [8192, 1024, 256],
      [5120, 1024, 1024],
      [4100, 4, 1024],
    ] as const) {
      for (const direction of ['forward', 'inverse'] as const) {
        const p = new ProgramBuilder(width);
        const x = p.data(width);
        const out = p.buffer('rotated', width);
        const signs = p.weight(p.signs(width));
        p.ops.push({ op: 'hadamard', x, signs, block, direction, keyHeads: 0, headDim: 0, out });
        const program = p.finish(product(p, out, 5));
        // What it rotated, as it is.
        const alone = p.buffer('logits', width, 'f32', 'outputs');
        const ops = program.ops.filter(({ op }) => op === 'embed' || op === 'hadamard');
        const select: Op = { op: 'selectOutputs', x: out, out: alone };
        await withSettings({ FAKE_METAL_MAX_THREADS: String(threads) }, async () => {
          await expectSame(program, [width, block], [2]);
          const seen = { ...program, ops: [...ops, select], logits: alone, vocabSize: width };
          await expectSame(seen, [width, block, 'seen'], [1]);
        });
      }
    }
  });

  test('hadamard that moves heads: to grouped order, in a chain where it may', async () => {
    for (const [keyHeads, repeats, headDim, block, form] of [
      [2, 3, 8, 16, 'quantized'],
      [4, 2, 4, 32, 'gated'],
      [3, 1, 12, 4, 'summed'],
      [2, 2, 6, 8, 'quantized'],
      [2, 2, 8, 16, 'normed'],
      [2, 2, 8, 16, 'alone'],
      [1, 4, 4, 8, 'kept'],
    ] as const) {
      const width = keyHeads * repeats * headDim;
      const p = new ProgramBuilder(width);
      let x = p.data(width);
      const y = p.data(width);
      if (form === 'summed') p.ops.push({ op: 'add', x, y });
      if (form === 'normed') {
        const normed = p.buffer('normed', width);
        p.ops.push({ op: 'rmsNorm', x, weight: p.weight(p.vector('norm', width)), eps: f32(1e-6), out: normed });
        x = normed;
      }
      if (form === 'gated' || form === 'kept') {
        p.ops.push({ op: 'gatedActivation', fn: 'silu', gate: x, up: y, out: x });
      }
      const out = p.buffer('rotated', width);
      const signs = p.weight(p.signs(width));
      p.ops.push({ op: 'hadamard', x, signs, block, direction: 'forward', keyHeads, headDim, out });
      let result = out;
      if (form === 'alone') besideProduct(p, y);
      else result = product(p, out, width);
      // The row before it moved.
      if (form === 'kept' || form === 'summed') p.ops.push({ op: 'add', x: result, y: x });
      const program = p.finish(result);
      const joined = runsOf(program).filter((run) => run.includes('rotate'));
      const wanted = { quantized: 'x rotate', gated: 'silu rotate', kept: 'silu rotate', summed: 'sum rotate' };
      if (headDim % 4 !== 0 || form === 'alone') expect(joined).toEqual([]);
      else expect(joined).toEqual([form === 'normed' ? 'x rotate' : wanted[form]]);
      for (const schedule of SCHEDULES) await withSchedule(schedule, () => expectSame(program, [width, form], [3, 1]));
    }
  });

  test('splitHeads and l2NormHeads: ranges together, apart and one over the other', async () => {
    for (const [heads, headDim] of [
      [1, 2],
      [3, 10],
      [5, 16],
      [2, 100],
    ] as const) {
      const p = new ProgramBuilder(headDim);
      const x = p.data(2 * heads * headDim);
      const [first, second] = [p.buffer('first', heads * headDim), p.buffer('second', heads * headDim)];
      p.ops.push({ op: 'splitHeads', x, first, second, heads, headDim });
      p.ops.push({ op: 'gatedActivation', fn: 'sigmoid', gate: second, up: first, out: first });
      await expectSame(p.finish(first), [heads, headDim]);
    }
    for (const [ranges, runs] of [
      [
        [
          [0, 2],
          [20, 3],
        ],
        1,
      ],
      [
        [
          [30, 1],
          [0, 3],
        ],
        1,
      ],
      [
        [
          [10, 3],
          [20, 2],
        ],
        2,
      ],
      [
        [
          [0, 1],
          [10, 1],
          [20, 1],
        ],
        2,
      ],
      [[[10, 2]], 1],
    ] as const) {
      const p = new ProgramBuilder(7);
      const x = p.data(53);
      for (const [i, [offset, heads]] of ranges.entries()) {
        const scale = f32(0.3 + i);
        p.ops.push({ op: 'l2NormHeads', x, offset, heads, headDim: 10, eps: f32(1e-6), scale });
      }
      const program = p.finish(x);
      expect(runsOf(program).filter((run) => run === 'lengths').length).toBe(runs);
      for (const schedule of [1, 2]) await withSchedule(schedule, () => expectSame(program, ranges));
    }
    const p = new ProgramBuilder(2);
    const x = p.data(40);
    p.ops.push({ op: 'l2NormHeads', x, offset: 0, heads: 1, headDim: 40, eps: 1, scale: 2 });
    await expectSame(p.finish(x));
  });

  test('gates: sigmoid and clampedSilu, beyond the limit and far out, alone and in chains', async () => {
    for (const fn of ['sigmoid', 'clampedSilu'] as const) {
      for (const form of ['alone', 'quantized', 'normed', 'plain'] as const) {
        for (const width of [5, 148]) {
          const p = new ProgramBuilder(width);
          const gate = p.data(width, 'f32', 120);
          const up = p.data(width, 'f32', 9);
          const out = form === 'normed' ? gate : p.buffer('out', width);
          p.ops.push({ op: 'gatedActivation', fn, limit: fn === 'sigmoid' ? undefined : 7, gate, up, out });
          let result = out;
          if (form === 'normed') {
            result = p.buffer('normed', width);
            p.ops.push({ op: 'rmsNorm', x: out, weight: p.weight(p.vector('norm', width)), eps: 1, out: result });
          }
          if (form === 'quantized') result = product(p, out, width);
          else if (form !== 'plain') besideProduct(p, up);
          const program = p.finish(result);
          if (form === 'plain') expect(runsOf(program)).toContain(fn);
          await expectSame(program, [fn, form, width], [5, 1]);
        }
      }
    }
    // A NaN stays one on either side of the limit, and an unlimited gate is silu.
    const p = new ProgramBuilder(1);
    const [gate, up] = [p.data(40), p.data(40)];
    const floats = new Float32Array((p.weights[1] as { bytes: Uint8Array }).bytes.buffer);
    floats[3] = Number.NaN;
    const out = p.buffer('out', 40);
    p.ops.push({ op: 'gatedActivation', fn: 'clampedSilu', gate, up, out });
    const program = p.finish(out);
    using reference = await jsBackend.load(program, {});
    using executable = loadOnFake(program);
    for (const each of [reference, executable]) each.createSequence();
    const [expected, actual] = [await together(reference, [[0, [0, 1]]]), await together(executable, [[0, [0, 1]]])];
    expect(actual).toEqual(expected);
    expect(Number.isNaN(actual[3]!)).toBe(true);
  });

  test('causalConv: taps, channels, and every way to cut a sequence', async () => {
    for (const [channels, taps] of [
      [5, 4],
      [70, 4],
      [33, 1],
      [40, 2],
      [17, 7],
    ] as const) {
      const p = new ProgramBuilder(channels);
      const x = p.data(channels, 'f32', 3);
      const out = p.buffer('out', channels);
      const weight = p.weight({ kind: 'vector', name: 'conv', values: p.floats(taps * channels) });
      const state = p.state((taps - 1) * channels);
      p.ops.push({ op: 'causalConv', state, x, weight, taps, out });
      const program = p.finish(out);
      for (const cuts of [[7, 1, 2, 1], [1, 1, 1, 1, 1, 1], [2, 9], [12]]) {
        await withSchedule(cuts.length % 4, () => expectSame(program, [channels, taps, cuts], cuts));
      }
      // Cut into command buffers within a sequence.
      await expectSame(program, [channels, taps, 'parts'], [7, 1, 5], { maxRows: 3 });
    }
  });

  function deltaProgram(keyHeads: number, valueHeads: number, headDim: number, order: 'tiled' | 'grouped'): Program {
    const p = new ProgramBuilder(headDim);
    const x = p.data((2 * keyHeads + valueHeads) * headDim);
    const [beta, alpha] = [p.data(valueHeads, 'f32', 3), p.data(valueHeads, 'f32', 30)];
    const lengths = { op: 'l2NormHeads', x, heads: keyHeads, headDim, eps: f32(1e-6) } as const;
    p.ops.push({ ...lengths, offset: 0, scale: f32(headDim ** -0.5) });
    p.ops.push({ ...lengths, offset: keyHeads * headDim, scale: 1 });
    const values = p.floats(valueHeads).map((v) => -0.6 + 0.5 * v);
    const out = p.buffer('out', valueHeads * headDim);
    // Another state before it: the places of both count.
    p.state(3);
    p.ops.push({
      op: 'gatedDelta',
      state: p.state(valueHeads * headDim * headDim),
      x,
      beta,
      alpha,
      decay: p.weight({ kind: 'vector', name: 'decay', values }),
      bias: p.weight({ kind: 'vector', name: 'bias', values: p.floats(valueHeads) }),
      keyHeads,
      valueHeads,
      headDim,
      order,
      out,
    });
    return p.finish(out);
  }

  test.each([
    [1, 1, 4, 'tiled'],
    [2, 4, 10, 'tiled'],
    [2, 4, 10, 'grouped'],
    [1, 3, 33, 'grouped'],
    [2, 2, 64, 'tiled'],
    [2, 6, 32, 'tiled'],
    [3, 6, 12, 'grouped'],
  ] as const)('gatedDelta: %i key heads, %i value heads of %i, %s', async (keyHeads, valueHeads, headDim, order) => {
    const shape = [keyHeads, valueHeads, headDim, order];
    const program = deltaProgram(keyHeads, valueHeads, headDim, order);
    for (const schedule of SCHEDULES) await withSchedule(schedule, () => expectSame(program, shape));
    await expectSame(program, [shape, 'parts'], [7, 1, 5], { maxRows: 3 });
  });

  /** Router logits of the data, `choices` of `experts`, products of both kinds of rows, their sum. */
  function mixture(
    seed: number,
    {
      experts,
      choices,
      width,
      inner,
      rows,
      group,
      ties,
      tail,
    }: {
      experts: number;
      choices: number;
      width: number;
      inner: number;
      rows: number;
      group: number;
      ties: boolean;
      tail: 'none' | 'norm' | 'product';
    },
  ): Program {
    const p = new ProgramBuilder(seed);
    p.choices = choices;
    const x = p.data(width);
    const logits = p.data(experts, 'f32', 3);
    if (ties) {
      const table = p.weights.at(-1) as { bytes: Uint8Array };
      const floats = new Float32Array(table.bytes.buffer);
      floats.forEach((v, i) => {
        // -0 and 0 are a tie as well.
        floats[i] = Math.round(v) === 0 ? (i % 2 === 0 ? 0 : -0) : Math.round(v);
      });
    }
    const chosen = p.buffer('chosen', choices, 'i32');
    const shares = p.buffer('shares', choices);
    const least = ties ? 0.5 : f32(1e-9);
    p.ops.push({ op: 'routeExperts', x: logits, experts: chosen, weights: shares, least, label: 'router' });
    const codes = p.buffer('codes', width, 'i16', 'tokens', group);
    const scale = p.buffer('scale', 1);
    p.ops.push({ op: 'quantize16', x, codes, scale, label: 'here' });
    const [gate, up, third] = ['gate', 'up', 'third'].map((name) => p.buffer(name, inner, 'f32', 'choices'));
    for (const [i, out] of [gate!, up!, third!].entries()) {
      const weight = p.weight(p.experts(`w${i}`, experts, inner, width, group, i === 1 ? 'f32' : 'f16'));
      p.ops.push({ op: 'expertMatmul', codes, scale, weight, experts: chosen, out });
    }
    p.ops.push({ op: 'gatedActivation', fn: 'clampedSilu', limit: 0.5, gate: gate!, up: up!, out: gate! });
    p.ops.push({ op: 'add', x: gate!, y: third! });
    const innerCodes = p.buffer('inner codes', inner, 'i16', 'choices', inner);
    const innerScale = p.buffer('inner scale', 1, 'f32', 'choices');
    p.ops.push({ op: 'quantize16', x: gate!, codes: innerCodes, scale: innerScale, label: 'inside' });
    const y = p.buffer('y', rows, 'f32', 'choices');
    const weight = p.weight(p.experts('down', experts, rows, inner, inner));
    p.ops.push({ op: 'expertMatmul', codes: innerCodes, scale: innerScale, weight, experts: chosen, out: y });
    const residual = p.data(rows);
    p.ops.push({ op: 'addExperts', x: residual, y, weights: shares });
    if (tail === 'none') return p.finish(residual);
    const normed = p.buffer('normed', rows);
    p.ops.push({ op: 'rmsNorm', x: residual, weight: p.weight(p.vector('norm', rows)), eps: f32(1e-6), out: normed });
    if (tail === 'norm') return p.finish(normed);
    const result = product(p, normed, rows);
    p.ops.push({ op: 'add', x: result, y: residual });
    return p.finish(result);
  }

  test('routeExperts, expertMatmul and addExperts: any number of experts, ties and chains', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.record({
          seed: fc.integer({ min: 1, max: 1e6 }),
          experts: fc.integer({ min: 1, max: 70 }),
          share: fc.double({ min: 0, max: 1, noNaN: true }),
          groups: fc.integer({ min: 1, max: 3 }),
          group: fc.constantFrom(4, 20, 32),
          inner: fc.integer({ min: 1, max: 80 }),
          rows: fc.integer({ min: 2, max: 70 }),
          ties: fc.boolean(),
          tail: fc.constantFrom('none' as const, 'norm' as const, 'product' as const),
          schedule: fc.constantFrom(...SCHEDULES),
        }),
        async ({ seed, experts, share, groups, group, inner, rows, ties, tail, schedule }) => {
          const choices = Math.min(experts, 1 + Math.floor(share * 8));
          const width = groups * group;
          const program = mixture(seed, { experts, choices, width, inner, rows, group, ties, tail });
          const names = runsOf(program);
          expect(names.filter((run) => run === 'experts').length).toBe(2);
          expect(names).toContain(tail === 'none' ? 'mix' : 'mix norm');
          await withSchedule(schedule, () => expectSame(program, [seed, experts, choices], [5, 1]));
        },
      ),
      { numRuns: 20, seed: 5 },
    );
  });

  test('no threadgroup too many, and of the experts only those that were chosen are read', async () => {
    const program = mixture(1, {
      experts: 16,
      choices: 2,
      width: 64,
      inner: 64,
      rows: 64,
      group: 64,
      ties: false,
      tail: 'none',
    });
    using executable = loadOnFake(program);
    const sequence = executable.createSequence();
    await feed(executable, sequence, [0]);
    const before = figures();
    await feed(executable, sequence, [1]);
    const after = figures();
    expect(after.idleGroups - before.idleGroups).toBe(0);
    // Four matrices of 64 x 64 for each choice; three have half scales, read as the words they are in.
    const matrices = 4 * (64 * 16 + 64 * 4);
    expect(after.weightBytes - before.weightBytes - (64 + 16 + 64) * 4).toBe(2 * matrices);
  });

  test('router logits that are not finite fail the step with the label', async () => {
    const shape = {
      experts: 9,
      choices: 3,
      width: 32,
      inner: 8,
      rows: 20,
      group: 32,
      ties: false,
      tail: 'none',
    } as const;
    const program = mixture(2, shape);
    const table = program.weights.find(({ kind, name }, i) => kind === 'dense' && name === 'data' && i === 1)!;
    const floats = new Float32Array((table as { bytes: Uint8Array }).bytes.buffer);
    floats[3 * 9 + 8] = Number.NaN;
    floats[4 * 9] = -Infinity;
    using executable = loadOnFake(program);
    const sequence = executable.createSequence();
    const before = await feed(executable, sequence, [1, 2]);
    for (const bad of [3, 4]) {
      const failed = feed(executable, sequence, [1, bad, 2]);
      await expect(failed).rejects.toThrow(NonFiniteError);
      await expect(failed).rejects.toThrow('tiny, router');
      expect(executable.sequenceLength(sequence)).toBe(2);
    }
    expect((await feed(executable, executable.createSequence(), [1, 2])).logits).toEqual(before.logits);
  });

  function attentionProgram(
    [heads, kvHeads, headDim]: readonly [number, number, number],
    rotaryDim: number,
    windows: readonly number[] | undefined,
    { context, exact, joined }: { context: number; exact: boolean; joined: boolean },
  ): Program {
    const p = new ProgramBuilder(heads * headDim);
    p.kv = { layers: 2, kvHeads, headDim, windows };
    p.contextLength = context;
    p.rotaryDim = rotaryDim;
    const q = p.data(heads * headDim, 'f32', 3);
    const k = p.data(kvHeads * headDim, 'f32', 3);
    const v = p.data(kvHeads * headDim);
    const [out, other] = [p.buffer('attended', heads * headDim), p.buffer('attended', heads * headDim)];
    p.ops.push({ op: 'rope', x: q, heads, headDim });
    p.ops.push({ op: 'rope', x: k, heads: kvHeads, headDim });
    // Apart, k is rotated by a run of its own and stored by another.
    if (!joined) p.ops.push({ op: 'kvAppend', layer: 1, k: v, v: k });
    p.ops.push({ op: 'kvAppend', layer: 0, k, v });
    if (joined) p.ops.push({ op: 'kvAppend', layer: 1, k: v, v: k });
    const shape = { q, heads, kvHeads, headDim, scale: f32(headDim ** -0.5) };
    p.ops.push({ op: 'attention', layer: 0, ...shape, out });
    p.ops.push({ op: 'attention', layer: 1, ...shape, out: other });
    p.ops.push({ op: 'add', x: out, y: other });
    if (exact) besideProduct(p, out);
    return p.finish(out);
  }

  test.each([
    [[1, 1, 4], 4, [1, 0]],
    [[2, 1, 6], 2, [5, 64]],
    [[3, 1, 18], 12, [63, 65]],
    [[2, 2, 10], 6, undefined],
    [[2, 1, 130], 64, [30, 128]],
  ] as const)('attention, %j, %i elements turn, windows %j', async (heads, rotaryDim, windows) => {
    for (const [joined, schedule] of [
      [true, 1],
      [false, 2],
    ] as const) {
      const options = { context: 200, exact: true, joined };
      const program = attentionProgram(heads, rotaryDim, windows, options);
      await withSchedule(schedule, () => expectSame(program, [heads, windows, joined], [60, 3, 1, 1, 66, 1]));
      await withSchedule(schedule, () => expectSame(program, 'held', [130, 1], { heldScores: 64, shareFrom: 1 }));
    }
  });

  test('exact attention from position 256 on: more threads for many rows, few rows shared out; the same bits', async () => {
    for (const [heads, windows] of [
      [
        [2, 1, 2],
        [700, 0],
      ],
      [
        [1, 1, 130],
        [0, 300],
      ],
    ] as const) {
      const program = attentionProgram(heads, 2, windows, { context: 800, exact: true, joined: true });
      using reference = await jsBackend.load(program, {});
      using executable = loadOnFake(program);
      const [a, b] = [reference.createSequence(), executable.createSequence()];
      const exact = (position: number) =>
        executable.dispatchesAt(position).flatMap(({ kernel }) => (kernel.startsWith('attention') ? [kernel] : []));
      expect(exact(255)).toEqual(['attention_exact', 'attention_exact']);
      const three = ['attention_exact_scores', 'attention_exact_blocks', 'attention_exact_join'];
      expect(exact(256)).toEqual([...three, ...three]);
      for (const [i, count] of [250, 40, 1, 3, 230, 1, 4].entries()) {
        const tokens = someTokens(count, program.vocabSize, i);
        const rows = { outputRows: tokens.map((_, row) => row).slice(-4) };
        const expected = await feed(reference, a, tokens, rows);
        const actual = await withSchedule(i % 4, () => feed(executable, b, tokens, rows));
        sameBits(expected.logits, actual.logits, [heads, windows, count]);
      }
      // Another sequence in the step, of other length.
      const [c, d] = [reference.createSequence(), executable.createSequence()];
      const parts = (of: SequenceId, other: SequenceId) => [[other, [1, 0]] as const, [of, [1]] as const];
      sameBits(await together(reference, parts(a, c)), await together(executable, parts(b, d)), 'two sequences');
    }
  });

  test('attention with windows in a program with one scale a matrix: within tolerance, over splits', async () => {
    for (const windows of [[20, 0], [300, 256], undefined] as const) {
      const program = attentionProgram([2, 1, 6], 4, windows, { context: 600, exact: false, joined: true });
      using reference = await jsBackend.load(program, {});
      using executable = loadOnFake(program);
      const [a, b] = [reference.createSequence(), executable.createSequence()];
      for (const [count, seed] of [
        [255, 1],
        [3, 2],
        [280, 3],
        [1, 4],
      ] as const) {
        const tokens = someTokens(count, 12, seed);
        const rows = {
          outputRows: Array.from({ length: Math.min(count, 24) }, (_, i) => count - 24 + i).filter((i) => i >= 0),
        };
        const expected = await feed(reference, a, tokens, rows);
        const actual = await feed(executable, b, tokens, rows);
        expect(relativeError(expected.logits, actual.logits)).toBeLessThan(3e-6);
      }
    }
  });
});

describe.skipIf(FAKE_MISSING !== undefined)('sequences with recurrent states on the fake device', () => {
  const program = hybridSelfTestProgram();

  test('forks, cuts and beginning again follow the js backend', async () => {
    using reference = await jsBackend.load(program, {});
    using executable = loadOnFake(program);
    const same = async (parts: readonly (readonly [SequenceId, readonly number[]])[]) =>
      sameBits(await together(reference, parts), await together(executable, parts), parts);
    const each = <T>(work: (e: Executable) => T) => {
      const [expected, actual] = [work(reference), work(executable)];
      expect(actual).toEqual(expected);
      return actual;
    };
    const [a, b] = [each((e) => e.createSequence()), each((e) => e.createSequence())];
    expect(each((e) => e.rewindLimit(a))).toBe(0);
    await same([
      [a, [5, 6, 7, 8]],
      [b, [9]],
    ]);
    expect(each((e) => e.rewindLimit(a))).toBe(4);
    const refused = (work: (e: Executable) => unknown, message: string | RegExp) => {
      for (const e of [reference, executable]) {
        expect(() => work(e)).toThrow(RangeError);
        expect(() => work(e)).toThrow(message);
      }
    };
    refused((e) => e.truncate(a, 3), 'truncate to 3 of 4: what is needed there exists from 4 on');
    refused((e) => e.fork(a, 1), 'fork at 1 of 4: what is needed there exists from 4 on');
    refused((e) => e.truncate(a, 5), 'truncate to 5 of 4');
    each((e) => e.truncate(a, 4));
    const c = each((e) => e.fork(a, 4));
    const d = each((e) => e.fork(a, 0));
    expect(each((e) => [e.sequenceLength(c), e.sequenceLength(d), e.rewindLimit(d)])).toEqual([4, 0, 0]);
    // The copy and its origin part ways.
    await same([
      [a, [1, 2]],
      [c, [3]],
      [d, [5, 6]],
    ]);
    await same([
      [c, [1]],
      [a, [3]],
    ]);
    // From nothing again, in memory that others used.
    each((e) => e.truncate(c, 0));
    each((e) => e.freeSequence(a));
    const f = each((e) => e.createSequence());
    await same([
      [c, [7]],
      [f, [7, 7, 7]],
      [b, [1]],
    ]);
    sameBits(
      await together(executable, [[each((e) => e.fork(d, 2)), [4]]]),
      await together(executable, [[d, [4]]]),
      'a fork is its origin',
    );
  });

  test('a failed step leaves the sequences of recurrent states empty, the others as they were', async () => {
    using reference = await jsBackend.load(program, {});
    using executable = loadOnFake(program, { maxRows: 8 });
    const [a, b] = [executable.createSequence(), executable.createSequence()];
    for (let i = 0; i < 2; i += 1) reference.createSequence();
    const first = await together(executable, [
      [a, [1, 2]],
      [b, [3]],
    ]);
    sameBits(
      await together(reference, [
        [a, [1, 2]],
        [b, [3]],
      ]),
      first,
      'before',
    );
    await withSettings({ FAKE_METAL_FAIL: '1' }, async () => {
      await expect(feed(executable, a, someTokens(20, 96, 1))).rejects.toThrow(MetalError);
    });
    expect([executable.sequenceLength(a), executable.rewindLimit(a)]).toEqual([0, 0]);
    expect([executable.sequenceLength(b), executable.rewindLimit(b)]).toEqual([1, 1]);
    reference.truncate(a, 0);
    const parts = [
      [b, [4]],
      [a, [1, 2, 9]],
    ] as const;
    sameBits(await together(reference, parts), await together(executable, parts), 'after');
    // Refused before it ran: nothing happened.
    const before = executable.sequenceLength(a);
    await expect(feed(executable, a, [96])).rejects.toThrow('outside the vocabulary');
    expect(executable.sequenceLength(a)).toBe(before);
  });

  test('states that do not fit are refused before anything ran, and the sequences survive', async () => {
    const p = new ProgramBuilder(4);
    const x = p.data(40);
    const out = p.buffer('out', 40);
    const weight = p.weight({ kind: 'vector', name: 'conv', values: p.floats(160) });
    p.ops.push({ op: 'causalConv', state: p.state(120), x, weight, taps: 4, out });
    // No attention: the states are all there is.
    p.kv = { layers: 0, kvHeads: 1, headDim: 4 };
    const small = p.finish(out);
    // Sixteen slots of 480 bytes are as large as the table of data.
    await withSettings({ FAKE_METAL_BUFFER_LIMIT: String(16 * 480) }, async () => {
      using executable = loadOnFake(small);
      const sequences = Array.from({ length: 17 }, () => executable.createSequence());
      for (const sequence of sequences.slice(0, 6)) await feed(executable, sequence, [1]);
      const all = sequences.map((sequence) => [sequence, [2]] as const);
      await expect(together(executable, all)).rejects.toThrow(KvCacheFullError);
      await expect(together(executable, all)).rejects.toThrow('recurrent states of at most 16 sequences fit');
      expect(sequences.map((sequence) => executable.sequenceLength(sequence))).toEqual([
        ...new Array<number>(6).fill(1),
        ...new Array<number>(11).fill(0),
      ]);
      // What the refused step took is free again.
      await together(executable, all.slice(6, 16));
      using reference = await jsBackend.load(small, {});
      reference.createSequence();
      await feed(reference, 0, [1]);
      const [expected, actual] = [await feed(reference, 0, [3]), await feed(executable, sequences[0]!, [3])];
      sameBits(expected.logits, actual.logits, 'goes on where it was');
    });
  });

  test('a long step in parts, sequences ending and beginning in them: the same bits', async () => {
    using whole = loadOnFake(program);
    using cut = loadOnFake(program, { maxRows: 4 });
    for (const each of [whole, cut]) for (let i = 0; i < 3; i += 1) each.createSequence();
    const random = randomFloats(3);
    for (let i = 0; i < 3; i += 1) {
      const parts = [0, 1, 2].map((s) => [s, someTokens(1 + Math.floor(4 + 4 * random()), 96, 3 * i + s)] as const);
      sameBits(await together(whole, parts), await together(cut, parts), parts);
    }
  });
});

test('rows are shared out while what that takes is bounded', () => {
  const p = new ProgramBuilder(1);
  p.kv = { layers: 1, kvHeads: 4, headDim: 256 };
  const x = p.data(4);
  p.ops.push({ op: 'attention', layer: 0, q: x, out: x, heads: 24, kvHeads: 4, headDim: 256, scale: 1 });
  const program = p.finish(x);
  const shape = { tokens: 1, outputs: 1, sequences: 0, splits: 1024, traced: false, top: 0 };
  const floats = 1024 * 24 * 4;
  expect(sharedAttention(program, shape)).toEqual({ parts: floats * 4 * 256, scores: floats * 256, stats: floats * 8 });
  expect(sharedAttention(program, { ...shape, tokens: 2 })).toBeUndefined();
  expect(sharedAttention(program, { ...shape, tokens: 5, splits: 2 })).toBeUndefined();
  expect(sharedAttention(program, { ...shape, splits: 1 })).toBeUndefined();
});

test('what each kind of program needs is known', () => {
  const p = new ProgramBuilder(1);
  const x = p.data(8);
  const plain = p.finish(x);
  expect(isHybrid(plain)).toBe(false);
  expect(isHybrid(hybridSelfTestProgram())).toBe(true);
  expect(isHybrid({ ...plain, kv: { ...plain.kv, windows: [0] } })).toBe(false);
  expect(isHybrid({ ...plain, kv: { ...plain.kv, windows: [9] } })).toBe(true);
  expect(isHybrid({ ...plain, choices: 2 })).toBe(true);
  expect(isHybrid({ ...plain, rope: { ...plain.rope, rotaryDim: 2 } })).toBe(true);
  expect(isHybrid({ ...plain, recurrent: [{ name: 'r', width: 1 }] })).toBe(true);
  for (const fn of ['sigmoid', 'clampedSilu'] as const) {
    expect(isHybrid({ ...plain, ops: [...plain.ops, { op: 'gatedActivation', fn, gate: x, up: x, out: x }] })).toBe(
      true,
    );
  }
});

test('what has no kernel is refused by name', () => {
  const p = new ProgramBuilder(1);
  p.choices = 3;
  const x = p.data(24);
  const program = p.finish(x);
  const rotation = { op: 'hadamard', x, signs: 0, direction: 'forward', keyHeads: 0, headDim: 0, out: x } as const;
  const refused = (op: object, message: RegExp) => {
    const check = () => checkProgram({ ...program, ops: [...program.ops, op as Op] });
    expect(check).toThrow(MetalUnsupportedError);
    expect(check).toThrow(message);
  };
  expect(() => checkProgram({ ...program, ops: [...program.ops, { ...rotation, block: 8 }] })).not.toThrow();
  for (const block of [1, 12, 16, 0]) refused({ ...rotation, block }, /blocks of \d+ in rows of 24/);
  const wide = { ...program, buffers: program.buffers.map((buffer) => ({ ...buffer, width: 16384 })) };
  const large: Op = { ...rotation, block: 8192 };
  expect(() => checkProgram({ ...wide, ops: [large] })).toThrow(/blocks of 8192 .* powers of two up to 4096/);
  const moved = { ...rotation, block: 8, keyHeads: 2, headDim: 4 };
  refused(moved, /heads move/);
  refused({ ...moved, out: 99, direction: 'inverse' }, /heads move/);
  refused({ ...moved, out: 99, headDim: 5 }, /heads move/);
  refused({ op: 'fourier', x }, /there is no Metal kernel for fourier/);
  refused({ op: 'gatedActivation', fn: 'gelu', gate: x, up: x, out: x }, /there is no Metal kernel for gelu/);
  refused({ op: 'gatedActivation', fn: 'clampedSilu', limit: 0.1, gate: x, up: x, out: x }, /limit 0.1 is no float32/);
  const lengths = { op: 'l2NormHeads', x, offset: 0, heads: 1, headDim: 4, eps: 1, scale: 1 };
  refused({ ...lengths, eps: 1e-6 }, /eps 0.000001 is no float32/);
  refused({ ...lengths, scale: 0.1 }, /scale 0.1 is no float32/);
  const route = { op: 'routeExperts', x, experts: 0, weights: 0, least: 1, label: '' };
  refused({ ...route, least: 1e-9 }, /least 1e-9 is no float32/);
  const few = { ...program, choices: 25, ops: [route as Op] };
  expect(() => checkProgram(few)).toThrow(/25 choices of 24 experts/);
  refused({ op: 'rope', x, heads: 12, headDim: 2 }, /4 elements turn of heads of 2/);
});

test('a rotated layer with the delta rule is 14 runs, one with attention 12', () => {
  const names = runsOf(hybridSelfTestProgram());
  const delta = ['grouped', 'dense', 'dense', 'conv', 'lengths', 'delta', 'heads', 'silu rotate', 'grouped'];
  const feedForward = ['sum norm rotate', 'grouped', 'silu rotate', 'grouped'];
  expect(names.slice(0, 16)).toEqual(['embed', 'hadamard', 'x norm rotate', ...delta, ...feedForward]);
  const attention = ['grouped', 'split', 'heads', 'rope', 'attention', 'sigmoid', 'grouped'];
  expect(names.slice(16, 24)).toEqual(['sum norm rotate', ...attention]);
  const experts = ['sum norm', 'dense', 'route', 'x', 'experts', 'clampedSilu rotate', 'experts'];
  expect(names.slice(24, 32)).toEqual([...experts, 'mix norm rotate']);
});
