// Hybrid and mixture models through the kernels' own text on the emulator, against the js backend, bit for bit: golden cases,
// random programs at awkward sizes, edits of sequences, failed steps, planted faults.

import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, test } from 'vitest';
import { type Executable, NonFiniteError, type SequenceId } from '../../src/engine/backend.ts';
import { CudaExecutable } from '../../src/engine/cuda/executable.ts';
import { hybridSelfTestProgram, selfTestProgram } from '../../src/engine/gpu/self-test-programs.ts';
import { jsBackend } from '../../src/engine/js/backend.ts';
import type { Program } from '../../src/engine/program.ts';
import { stateBytes } from '../../src/engine/state-bytes.ts';
import { openModel } from '../../src/model/open-model.ts';
import { hybridProgram } from '../generate/hybrid-program.ts';
import { HYBRID_SHAPES, type HybridShape, randomHybrid } from '../kernels/hybrid-program.ts';
import { randomEdits } from '../kernels/random-edits.ts';
import { FAKE_MISSING, fakeGpu, loadOnFake, newGpu, SCHEDULES, withSettings } from './fake-driver.ts';
import { driverWithFaults, type FaultName, withFault } from './planted-faults.ts';

const golden = join(import.meta.dirname, '../golden/hybrid');
const cases = readdirSync(golden).filter((name) => /_s\d+$/.test(name));

type Rows = readonly (readonly [sequence: number, tokens: readonly number[]])[];

/** Steps of several sequences, all rows' logits and counts as bits. */
async function run(executable: Executable, steps: readonly Rows[]): Promise<Uint32Array[]> {
  const ids = new Map<number, SequenceId>();
  const idOf = (sequence: number) => {
    if (!ids.has(sequence)) ids.set(sequence, executable.createSequence());
    return ids.get(sequence)!;
  };
  const all: Uint32Array[] = [];
  for (const rows of steps) {
    const tokens = rows.flatMap(([, list]) => list);
    const { logits, tritCounts } = await executable.step({
      tokens: Int32Array.from(tokens),
      sequences: Int32Array.from(rows.flatMap(([s, list]) => list.map(() => idOf(s)))),
      positions: Int32Array.from(
        rows.flatMap(([s, list]) => list.map((_, k) => executable.sequenceLength(idOf(s)) + k)),
      ),
      outputRows: Int32Array.from(tokens.keys()),
      trace: all.length % 4 === 0,
    });
    all.push(new Uint32Array(logits.buffer, logits.byteOffset, logits.length), Uint32Array.from(tritCounts));
  }
  for (const id of ids.values()) executable.freeSequence(id);
  return all;
}

const someTokens = (n: number, vocab: number, seed: number) =>
  Array.from({ length: n }, (_, i) => (i * 37 + seed * 11 + 5) % vocab);

/** A prompt, tokens, a prompt behind them, and batches in which sequences begin and go on. */
const stepsFor = (vocab: number): Rows[] => [
  [[0, someTokens(13, vocab, 1)]],
  [[0, [3]]],
  [[0, [7]]],
  [
    [1, someTokens(2, vocab, 2)],
    [0, someTokens(5, vocab, 3)],
    [2, [1]],
  ],
  [
    [0, [1]],
    [1, [2]],
    [2, [3]],
  ],
  [[1, someTokens(35, vocab, 4)]],
  [[1, [9]]],
];

describe.skipIf(FAKE_MISSING !== undefined)('hybrid models on the emulator', () => {
  test('the cases are there', () => expect(cases.length).toBe(6));

  test.each(cases.map((name, i) => [name, SCHEDULES[i % SCHEDULES.length]!] as const))(
    '%s, schedule %i',
    { timeout: 300_000 },
    async (name, schedule) => {
      const options = { name, head: 'full' } as const;
      const { program } = await openModel({ kind: 'gguf', path: join(golden, name, 'model.gguf') }, options);
      const { input_ids: ids } = JSON.parse(readFileSync(join(golden, name, 'expected.json'), 'utf8')) as {
        input_ids: number[];
      };
      const whole: Rows[] = [[[0, ids]], [[0, [ids[0]!]]]];
      using js = await jsBackend.load(program, {});
      const [wanted, , next] = await run(js, whole);
      await withSettings({ FAKE_CUDA_SCHEDULE: String(schedule) }, async () => {
        using cuda = loadOnFake(program, { phases: schedule === 1 });
        const [found, , foundNext] = await run(cuda, whole);
        expect(found).toEqual(wanted);
        expect(foundNext).toEqual(next);
        // In pieces: few tokens, one, many.
        const cuts = [3, 4, ids.length - 1, ids.length];
        const pieces = cuts.map((to, i): Rows => [[0, ids.slice(i === 0 ? 0 : cuts[i - 1], to)]]);
        const parts = (await run(cuda, pieces)).filter((_, i) => i % 2 === 0);
        expect(Uint32Array.from(parts.flatMap((part) => [...part]))).toEqual(wanted);
      });
    },
  );
});

const SHAPES: Readonly<Record<string, HybridShape>> = {
  ...HYBRID_SHAPES,
  /** Heads of 128, as published models have them: four lanes a column. Rotations of more than a vector, heads that move. */
  quarters: {
    ...HYBRID_SHAPES.rotated!,
    hidden: 64,
    layers: ['delta', 'delta'],
    delta: { keyHeads: 2, valueHeads: 4, headDim: 128, order: 'tiled', taps: 4 },
    rotation: 256,
    ffn: 96,
    group: (columns) => (columns % 32 === 0 ? 32 : columns),
  },
  /** Experts on the tensor cores, in tiles and below; more groups than warps; a router that few tokens' blocks share. */
  experts: {
    ...HYBRID_SHAPES.windows!,
    hidden: 640,
    layers: [{ window: 9 }, 'full'],
    heads: 2,
    kvHeads: 1,
    headDim: 8,
    rotaryDim: 4,
    vocab: 21,
    experts: { count: 5, choices: 2 },
    ffn: 160,
    group: (columns) => (columns === 640 ? 32 : columns),
  },
};

describe.skipIf(FAKE_MISSING !== undefined).each(Object.entries(SHAPES))('random %s', (name, shape) => {
  // The experts take as long as all the others; in one launch they run below, as golden cases and with planted faults.
  test.each(name === 'experts' ? [2] : [0, 2])('schedule %i', { timeout: 300_000 }, async (schedule) => {
    const program = randomHybrid(shape, 77 + schedule);
    const steps = stepsFor(shape.vocab);
    using js = await jsBackend.load(program, {});
    const wanted = await run(js, steps);
    await withSettings({ FAKE_CUDA_SCHEDULE: String(schedule), FAKE_CUDA_SMS: '3' }, async () => {
      // Parts of a step hand their states on.
      using cuda = loadOnFake(program, schedule === 0 ? { maxRows: 17 } : { phases: true });
      const found = await run(cuda, steps);
      found.forEach((part, i) => {
        expect(part, `step ${i >> 1}`).toEqual(wanted[i]);
      });
    });
  });
});

/** As `program`, with a number of the state's decay that is none. */
function broken(program: Program): Program {
  const delta = program.ops.find((op) => op.op === 'gatedDelta')!;
  const weights = program.weights.map((weight, i) =>
    weight.kind === 'vector' && i === delta.decay ? { ...weight, values: weight.values.map(() => Number.NaN) } : weight,
  );
  return { ...program, weights };
}

const stepOf = (executable: Executable, sequence: SequenceId, tokens: readonly number[]) => ({
  tokens: Int32Array.from(tokens),
  sequences: new Int32Array(tokens.length).fill(sequence),
  positions: Int32Array.from(tokens, (_, i) => executable.sequenceLength(sequence) + i),
  outputRows: Int32Array.of(tokens.length - 1),
});

describe.skipIf(FAKE_MISSING !== undefined)('sequences with recurrent states', () => {
  test.each([
    { window: 0, count: 60, longest: 12 },
    { window: 16, count: 60, longest: 24 },
  ])('$count random edits, window $window', { timeout: 300_000 }, async ({ window, count, longest }) => {
    const load = async (program: Program) => loadOnFake(program, { maxRows: 5 });
    await withSettings({ FAKE_CUDA_SMS: '2' }, async () => {
      const done = await randomEdits(hybridProgram({ window }), load, { count, longest, seed: 5 + window });
      expect(Math.min(done.steps, done.forks, done.refused)).toBeGreaterThan(3);
    });
  });

  test('a failed step empties them, and what comes after begins anew', async () => {
    const program = randomHybrid(HYBRID_SHAPES.recurrent!, 5);
    using js = await jsBackend.load(broken(program), {});
    using cuda = loadOnFake(broken(program));
    const messages: string[] = [];
    for (const executable of [js, cuda]) {
      const sequence = executable.createSequence();
      const error = await executable.step(stepOf(executable, sequence, [1, 2, 3])).then(
        () => undefined,
        (cause: unknown) => cause,
      );
      expect(error).toBeInstanceOf(NonFiniteError);
      expect(executable.sequenceLength(sequence)).toBe(0);
      messages.push((error as Error).message);
    }
    expect(messages[1]).toBe(messages[0]);
  });

  test('only the sequences of the failed step, which then give what a new one gives', async () => {
    const program = randomHybrid(HYBRID_SHAPES.recurrent!, 5);
    using cuda = loadOnFake(program);
    const [one, two, fresh] = [cuda.createSequence(), cuda.createSequence(), cuda.createSequence()];
    await cuda.step(stepOf(cuda, one, [1, 2, 3]));
    await cuda.step(stepOf(cuda, two, [4, 5]));
    expect([cuda.rewindLimit(one), cuda.rewindLimit(two)]).toEqual([3, 2]);
    cuda.truncate(one, 0);
    expect(cuda.sequenceLength(two)).toBe(2);
    // The slot that comes back is not cleared.
    const again = await cuda.step(stepOf(cuda, one, [7, 8, 9]));
    const wanted = await cuda.step(stepOf(cuda, fresh, [7, 8, 9]));
    expect(again.logits).toEqual(wanted.logits);
    expect(() => cuda.truncate(two, 1)).toThrow(/exists from 2 on/);
    expect(() => cuda.fork(two, 1)).toThrow(/exists from 2 on/);
  });

  test('their memory is told as it is taken, with both copies of a convolution', async () => {
    const program = hybridProgram();
    const gpu = fakeGpu();
    using cuda = new CudaExecutable(gpu, program);
    // Two layers: 3 rows of 32 floats, rounded up to 512 bytes, twice; 2 heads of 8 keys, for 32 columns each.
    const bytes = 2 * (2 * 512 + 2 * 8 * 32 * 4);
    expect(cuda.info.recurrentBytes).toBe(bytes);
    expect(stateBytes(program, cuda.info.recurrentBytes)).toBe(bytes);
    expect(stateBytes(hybridProgram({ window: 16 }), bytes)).toBe(bytes + 2 * 4 * 16 * 8);
    const sequence = cuda.createSequence();
    await cuda.step(stepOf(cuda, sequence, [1, 2, 3]));
    const before = gpu.memoryLeft();
    cuda.fork(sequence, 3);
    expect(before - gpu.memoryLeft()).toBe(bytes);
  });

  test('a program without any tells nothing', () => {
    using cuda = loadOnFake(selfTestProgram());
    expect(cuda.info.recurrentBytes).toBeUndefined();
  });

  test('no memory for another state: words, and the others go on', async () => {
    const program = randomHybrid(HYBRID_SHAPES.recurrent!, 5);
    const gpu = fakeGpu();
    using cuda = new CudaExecutable(gpu, program);
    const [one, two] = [cuda.createSequence(), cuda.createSequence()];
    await cuda.step(stepOf(cuda, one, [1, 2, 3]));
    await withSettings({ FAKE_CUDA_FAIL: 'cuMemAlloc' }, async () => {
      expect(() => cuda.fork(one, 3)).toThrow(/no memory for recurrent states of more than 1 sequences/);
      await expect(cuda.step(stepOf(cuda, two, [1]))).rejects.toThrow(/no memory for recurrent states/);
    });
    expect(cuda.sequenceLength(one)).toBe(3);
    await cuda.step(stepOf(cuda, one, [1]));
    await cuda.step(stepOf(cuda, two, [1]));
    expect(gpu.lost).toBeUndefined();
  });
});

/** Faults of kernels/cuda/hybrid.cuh, and a program whose steps have to show them. */
const FAULTS: readonly (readonly [program: 'hybrid' | 'quarters' | 'experts', fault: FaultName])[] = [
  ['quarters', 'sums that stay where they are'],
  ['quarters', 'gates of the row before'],
  ['hybrid', 'an output of the old state'],
  ['hybrid', 'a copy that is read as it is written'],
  ['hybrid', 'states where they were'],
  ['hybrid', 'heads in the other order'],
  ['hybrid', 'signs behind the rotation'],
  ['experts', 'the last of equals'],
  ['experts', 'shares of the chosen alone'],
  ['experts', 'a choice of a tile too few'],
  ['experts', 'one scale for two rows'],
  ['experts', 'the low plane alone'],
];

describe.skipIf(FAKE_MISSING !== undefined)('planted faults', () => {
  const programs = {
    hybrid: hybridSelfTestProgram(),
    quarters: randomHybrid(SHAPES.quarters!, 3),
    experts: tied(randomHybrid(SHAPES.experts!, 3)),
  };
  const steps: Rows[] = [[[0, someTokens(20, 21, 1)]], [[0, [3]]], [[0, [5]]]];

  const wanted = new Map<string, Uint32Array[]>();
  beforeAll(async () => {
    for (const [name, program] of Object.entries(programs)) {
      using js = await jsBackend.load(program, {});
      wanted.set(name, await run(js, steps));
    }
  }, 300_000);

  test.each(['hybrid', 'quarters', 'experts'] as const)('with none, the steps are right (%s)', async (name) => {
    using cuda = new CudaExecutable(await newGpu(driverWithFaults()), programs[name]);
    expect(await run(cuda, steps)).toEqual(wanted.get(name));
  });

  // A card for each: a fault may lose it.
  test.each(FAULTS)('%s: %s', { timeout: 300_000 }, async (name, fault) => {
    using cuda = new CudaExecutable(await newGpu(driverWithFaults()), programs[name]);
    const found = await withFault(fault, () => run(cuda, steps)).catch(() => undefined);
    expect(found).not.toEqual(wanted.get(name));
  });
});

/** Every row of the router as its first: all experts are as good as one another. */
function tied(program: Program): Program {
  const routed = program.ops.find((op) => op.op === 'routeExperts')!;
  const router = program.ops.find((op) => op.op === 'denseMatmul' && op.out === routed.x);
  const weights = program.weights.map((weight, i) => {
    if (router?.op !== 'denseMatmul' || i !== router.weight || weight.kind !== 'dense') return weight;
    const bytes = weight.bytes.slice();
    const row = bytes.length / weight.rows;
    for (let r = 1; r < weight.rows; r += 1) bytes.copyWithin(r * row, 0, row);
    return { ...weight, bytes };
  });
  return { ...program, weights };
}
