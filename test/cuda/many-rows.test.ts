// Steps of several rows on the emulator, against the js backend: what their own kernels do with every number of rows and tiles, a
// token of each of many sequences, and launches that begin before the ones before them have ended.

import { describe, expect, test } from 'vitest';
import { randomModel } from '../../src/bench/random-model.ts';
import type { Executable, SequenceId } from '../../src/engine/backend.ts';
import { CudaExecutable } from '../../src/engine/cuda/executable.ts';
import { selfTestDifference } from '../../src/engine/gpu/self-test.ts';
import { PROMPT_STEPS, PROMPTS, selfTestProgram } from '../../src/engine/gpu/self-test-programs.ts';
import { jsBackend } from '../../src/engine/js/backend.ts';
import type { Program } from '../../src/engine/program.ts';
import { FAKE_MISSING, loadOnFake, newGpu, withSettings } from './fake-driver.ts';
import { driverWithFaults, type FaultName, withFault } from './planted-faults.ts';

const VOCAB = 160;
const small = {
  family: 'bitnet',
  hidden: 128,
  ffn: 320,
  layers: 1,
  heads: 4,
  kvHeads: 2,
  headDim: 32,
  vocab: VOCAB,
  ropeTheta: 500_000,
  tied: true,
} as const;
const bitnet = randomModel(small, 'int8', 600);

const someTokens = (n: number, seed: number) => Array.from({ length: n }, (_, i) => (i * 37 + seed * 11 + 5) % VOCAB);

/** Logits of the last row of each part, as bits. */
async function step(e: Executable, parts: readonly (readonly [SequenceId, readonly number[]])[]): Promise<Uint32Array> {
  const lasts: number[] = [];
  for (const [, tokens] of parts) lasts.push((lasts.at(-1) ?? -1) + tokens.length);
  const { logits } = await e.step({
    tokens: Int32Array.from(parts.flatMap(([, tokens]) => tokens)),
    sequences: Int32Array.from(parts.flatMap(([s, tokens]) => tokens.map(() => s))),
    positions: Int32Array.from(parts.flatMap(([s, tokens]) => tokens.map((_, i) => e.sequenceLength(s) + i))),
    outputRows: Int32Array.from(lasts),
  });
  return new Uint32Array(logits.buffer, 0, logits.length);
}

/** Sequences of these lengths; then two tokens of each, and once three of the first. */
async function batches(e: Executable, lengths: readonly number[]): Promise<Uint32Array[]> {
  const longest = Math.max(...lengths);
  const first = e.createSequence();
  if (longest > 0) await step(e, [[first, someTokens(longest, 1)]]);
  const sequences = lengths.map((length) => e.fork(first, length));
  const all: Uint32Array[] = [];
  for (const seed of [2, 3]) {
    all.push(
      await step(
        e,
        sequences.map((s, i) => [s, someTokens(1, seed + i)]),
      ),
    );
  }
  all.push(
    await step(
      e,
      sequences.map((s, i) => [s, someTokens(i === 0 ? 3 : 1, 4 + i)]),
    ),
  );
  for (const s of [first, ...sequences]) e.freeSequence(s);
  return all;
}

async function expectSame(
  program: Program,
  work: (e: Executable) => Promise<Uint32Array[]>,
  cuda = loadOnFake(program),
) {
  using js = await jsBackend.load(program, {});
  using executable = cuda;
  expect(await work(executable)).toEqual(await work(js));
}

const kindsOf = (e: CudaExecutable, tokens: number, positions: number, sequences: number) =>
  e.instructionsOf(tokens, 1, positions, sequences).map(({ op, fused = 0 }) => (fused ? `${op}+` : op));

describe.skipIf(FAKE_MISSING !== undefined)('several rows on the emulator', () => {
  test('a token of each of many sequences needs no instruction for positions', () => {
    using executable = loadOnFake(bitnet);
    const layer = ['rows', 'ternary', 'attendBatch+', 'rows', 'ternary', 'rows', 'ternary', 'rows', 'ternary'];
    expect(kindsOf(executable, 32, 300, 32)).toEqual(['embed', ...layer, 'select', 'int8+']);
    expect(kindsOf(executable, 32, 300, 31)).toContain('ready');
  });

  // Blocks of the cache: fewer than there are fours of warps, as many, more; a sequence's first token; the first of a block.
  const lengths = [0, 1, 63, 64, 130, 255, 256, 300, 511];
  test.each([
    ['heads of 32', small, lengths],
    ['heads of 64, normed', { ...small, family: 'qwen3' as const, hidden: 256, ffn: 384, headDim: 64 }, lengths],
    ['heads of 128', { ...small, hidden: 256, heads: 2, kvHeads: 1, headDim: 128 }, lengths],
    ['six heads of a kv head', { ...small, hidden: 256, heads: 6, kvHeads: 1 }, [0, 70, 254]],
  ])('batches of %s', { timeout: 300_000 }, (name, shape, lengths) => {
    const program = randomModel(shape, shape.family === 'qwen3' ? 'full' : 'int8', 600);
    using executable = loadOnFake(program);
    expect(kindsOf(executable, lengths.length, lengths.at(-1)! + 1, lengths.length)).toContain('attendBatch+');
    return withSettings({ FAKE_CUDA_SCHEDULE: String(name.length % 3) }, () =>
      expectSame(program, (e) => batches(e, lengths)),
    );
  });

  // A row has half of a block above, a whole one here, and a ring of six places.
  test('a batch that leaves blocks without a row, with the shared memory of 9.0', { timeout: 300_000 }, () =>
    withSettings({ FAKE_CUDA_SCHEDULE: '2', FAKE_CUDA_SMS: '20', FAKE_CUDA_SHARED: '232448' }, async () => {
      const program = randomModel({ ...small, hidden: 256, heads: 2, kvHeads: 1, headDim: 128 }, 'int8', 600);
      // And products of tiles, by warps in fours.
      await expectSame(
        program,
        async (e) => [...(await batches(e, lengths)), await step(e, [[e.createSequence(), someTokens(150, 7)]])],
        new CudaExecutable(await newGpu(), program),
      );
    }),
  );

  // Three multiprocessors: a row of each, two, four; products of one and of several tiles a block; the head of a batch.
  test.each([2, 3, 5, 9, 17, 33, 64, 65, 150])('%i rows', { timeout: 300_000 }, (rows) =>
    withSettings({ FAKE_CUDA_SCHEDULE: String(rows % 3) }, () =>
      expectSame(bitnet, async (e) => {
        const sequence = e.createSequence();
        const all = [await step(e, [[sequence, someTokens(rows, 1)]])];
        const others = Array.from({ length: rows }, () => e.fork(sequence, 1));
        all.push(
          await step(
            e,
            others.map((s, i) => [s, someTokens(1, i)]),
          ),
        );
        return all;
      }),
    ),
  );

  /** Memory of 9.0; copies and products as late as they may be. */
  const CARD_90 = { FAKE_CUDA_SHARED: '232448', FAKE_CUDA_SMS: '12' };
  const LATE = { ...CARD_90, FAKE_CUDA_SCHEDULE: '1' };
  // Products by warps in fours and pieces of keys as 9.0 has them; rows for every kind of tile, more than four for each multiprocessor.
  const wide = { ...small, hidden: 512, ffn: 768, heads: 4, kvHeads: 2, headDim: 128 } as const;
  test.each([
    [wide, 65, 3],
    [wide, 200, 12],
    [wide, 97, 5],
    // So few that a thread has half as many queries.
    [wide, 70, 12],
    [{ ...wide, headDim: 64, hidden: 256, ffn: 324 }, 66, 12],
    [{ ...wide, headDim: 64, hidden: 256, ffn: 324 }, 300, 4],
    [{ ...small, family: 'qwen3' as const, headDim: 64, hidden: 256, ffn: 384 }, 130, 3],
  ])('prompts as 9.0 has them: %o, %i rows, %i multiprocessors', { timeout: 300_000 }, (shape, rows, grid) =>
    withSettings({ ...CARD_90, FAKE_CUDA_SMS: String(grid), FAKE_CUDA_SCHEDULE: String(rows % 3) }, async () => {
      const program = randomModel(shape, 'family' in shape && shape.family === 'qwen3' ? 'full' : 'int8', 600);
      await expectSame(
        program,
        async (e) => {
          const sequence = e.createSequence();
          const all = [await step(e, [[sequence, someTokens(rows, 1)]])];
          all.push(
            await step(e, [
              [sequence, someTokens(90, 2)],
              [e.createSequence(), someTokens(70, 3)],
            ]),
          );
          return all;
        },
        new CudaExecutable(await newGpu(), program),
      );
    }),
  );

  test('of a prompt attention turns the queries, but not those with norms, nor heads of 32', () =>
    withSettings(CARD_90, async () => {
      for (const [shape, heads] of [
        [wide, 0],
        [small, 4],
        [{ ...wide, family: 'qwen3' }, 4],
      ] as const) {
        using cuda = new CudaExecutable(
          await newGpu(),
          randomModel(shape, shape.family === 'qwen3' ? 'full' : 'int8', 600),
        );
        const list = cuda.instructionsOf(200, 1, 200, 1);
        expect(list.find(({ op }) => op === 'ready')!.heads).toBe(heads);
        expect((list.find(({ op }) => op === 'attendRows')!.rotary ?? 0) > 0).toBe(heads === 0);
      }
    }));

  test('prompts take every kind of tile, as there are rows and multiprocessors', () =>
    withSettings(CARD_90, async () => {
      const program = randomModel(wide, 'int8', 600);
      using cuda = new CudaExecutable(await newGpu(), program);
      const kinds = [65, 97, 128, 200, 300, 512].flatMap((rows) =>
        cuda.instructionsOf(rows, 1, rows, 1).flatMap(({ op, cut }) => (op === 'ternary' ? [cut] : [])),
      );
      expect(new Set(kinds)).toEqual(new Set([0, 1, 2]));
    }));

  test.each<[FaultName, typeof small | typeof wide, number]>([
    ['half of the columns', small, 200],
    ['products that nobody waits for', small, 200],
    ['queries that are not turned', wide, 66],
  ])('a planted fault of prompts is found: %s', { timeout: 300_000 }, (name, shape, rows) =>
    withSettings(LATE, async () => {
      const program = randomModel(shape, 'int8', 600);
      using cuda = new CudaExecutable(await newGpu(driverWithFaults()), program);
      using js = await jsBackend.load(program, {});
      const prompt = (e: Executable) => step(e, [[e.createSequence(), someTokens(rows, 1)]]);
      const wanted = await prompt(js);
      expect(await prompt(cuda)).toEqual(wanted);
      expect(await withFault(name, () => prompt(cuda))).not.toEqual(wanted);
    }),
  );

  test.each<FaultName>(['keys that nobody waits for', 'scores before all are there'])(
    'a planted fault of prompts fails its launch: %s',
    { timeout: 300_000 },
    (name) =>
      withSettings(LATE, async () => {
        using cuda = new CudaExecutable(await newGpu(driverWithFaults()), bitnet);
        await expect(withFault(name, () => step(cuda, [[cuda.createSequence(), someTokens(200, 1)]]))).rejects.toThrow(
          /LAUNCH_FAILED/,
        );
      }),
  );

  test.each<FaultName>(['half of the columns', 'products that nobody waits for', 'a lane left out'])(
    'the self-test with long prompts finds a planted fault: %s',
    { timeout: 300_000 },
    (name) =>
      withSettings(LATE, async () => {
        const program = selfTestProgram(9, PROMPTS);
        const gpu = await newGpu(driverWithFaults());
        const load = async () => new CudaExecutable(gpu, program);
        expect(await selfTestDifference(load, program, PROMPT_STEPS)).toBeUndefined();
        const found = await withFault(name, () => selfTestDifference(load, program, PROMPT_STEPS));
        expect(found).toContain("are not the reference's, bit for bit");
      }),
  );

  test('a card whose kernels do not wait themselves', { timeout: 300_000 }, async () => {
    await withSettings({ FAKE_CUDA_CAPABILITY: '80', FAKE_CUDA_FAIL: 'cuLaunchKernelEx' }, async () => {
      await expectSame(
        bitnet,
        async (e) => [...(await batches(e, [5, 70])), await step(e, [[e.createSequence(), someTokens(150, 7)]])],
        new CudaExecutable(await newGpu(), bitnet),
      );
    });
  });

  test('the kernels with faults are right while none is turned on', { timeout: 300_000 }, () =>
    withFaults(async (cuda) => {
      using js = await jsBackend.load(bitnet, {});
      expect(await batches(cuda, lengths)).toEqual(await batches(js, lengths));
    }),
  );

  test.each<FaultName>([
    'rows that do not wait',
    'products that do not wait',
    'attention that does not wait',
    'a head that does not wait',
  ])('what reads too early is found: %s', { timeout: 300_000 }, (name) =>
    withFaults(async (cuda) => {
      await expect(withFault(name, () => batches(cuda, [5, 70]))).rejects.toThrow(/LAUNCH_FAILED/);
    }),
  );

  test.each<FaultName>([
    'the sums of the first block alone',
    'exponentials of the first four warps only',
    'the largest of the first four warps only',
  ])('a planted fault is found: %s', { timeout: 300_000 }, (name) =>
    withFaults(async (cuda) => {
      using js = await jsBackend.load(bitnet, {});
      expect(await withFault(name, () => batches(cuda, lengths))).not.toEqual(await batches(js, lengths));
    }),
  );
});

/** On a card of its own, since a fault may cost it. */
async function withFaults(work: (cuda: CudaExecutable) => Promise<void>): Promise<void> {
  using cuda = new CudaExecutable(await newGpu(driverWithFaults()), bitnet);
  await work(cuda);
}
