// Steps of one row as a card with much shared memory does them: attention split among the blocks of a kv head, weights through
// rings. Against the js backend, with grids that leave a kv head one block, several, and more than it has tiles and heads.

import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { randomModel } from '../../src/bench/random-model.ts';
import type { Executable, SequenceId } from '../../src/engine/backend.ts';
import { selfTests } from '../../src/engine/cuda/backend.ts';
import { oneRowKernel } from '../../src/engine/cuda/encode.ts';
import { CudaExecutable } from '../../src/engine/cuda/executable.ts';
import type { Gpu } from '../../src/engine/cuda/gpu.ts';
import { bitsOf, runSelfTest, selfTestDifference } from '../../src/engine/gpu/self-test.ts';
import { EVEN, EVEN_INT8, groupedSelfTestProgram, selfTestProgram } from '../../src/engine/gpu/self-test-programs.ts';
import { jsBackend } from '../../src/engine/js/backend.ts';
import type { Program } from '../../src/engine/program.ts';
import { buildDriver, FAKE_MISSING, newGpu, withSettings } from './fake-driver.ts';
import { driverWithFaults, type FaultName, withFault } from './planted-faults.ts';

const shape = { layers: 1, heads: 4, kvHeads: 2, vocab: 150, tied: true } as const;
const bitnet = randomModel(
  { ...shape, family: 'bitnet', hidden: 132, ffn: 4200, headDim: 48, ropeTheta: 500_000 },
  'int8',
  600,
);
const bonsai = randomModel(
  { ...shape, family: 'qwen3', hidden: 256, ffn: 8448, headDim: 128, ropeTheta: 1e6 },
  'full',
  600,
);

const someTokens = (n: number, seed: number) => Array.from({ length: n }, (_, i) => (i * 37 + seed * 11 + 5) % 150);

async function logitsOf(e: Executable, sequence: SequenceId, tokens: readonly number[], all = true) {
  const from = e.sequenceLength(sequence);
  const { logits } = await e.step({
    tokens: Int32Array.from(tokens),
    sequences: Int32Array.from(tokens, () => sequence),
    positions: Int32Array.from(tokens, (_, i) => from + i),
    outputRows: all ? Int32Array.from(tokens, (_, i) => i) : new Int32Array(0),
  });
  return new Uint32Array(logits.buffer, 0, logits.length);
}

/** Tokens one by one behind prompts: on js once, then on every grid. */
const PROMPTS = [1, 62, 66, 130] as const;
async function walk(e: Executable): Promise<Uint32Array[]> {
  const sequence = e.createSequence();
  const found: Uint32Array[] = [];
  for (const [i, n] of PROMPTS.entries()) {
    await logitsOf(e, sequence, someTokens(n, i), false);
    for (const token of [i, 7 * i + 1]) found.push(await logitsOf(e, sequence, [token]));
  }
  e.truncate(sequence, 64);
  found.push(await logitsOf(e, sequence, [3]));
  return found;
}

/** Shared memory that a block can have: 9.0, 8.0, 8.6 and 8.9 and 12.0, and the least that is taken. */
const LARGE = 232_448;
const SHARED = { '8.0': 166_912, '8.6': 101_376, least: 98_304 } as const;

/** A card of so many multiprocessors, with the shared memory of a large one unless told otherwise. */
const cardOf = (sms: number, library = buildDriver(), shared: number = LARGE) =>
  withSettings({ FAKE_CUDA_SMS: String(sms), FAKE_CUDA_SHARED: String(shared) }, () => newGpu(library));

describe.skipIf(FAKE_MISSING !== undefined)('one row on a card with much shared memory', () => {
  const gpus = new Map<number, Gpu>();
  const GRIDS = [3, 7, 24] as const;
  const wanted = new Map<Program, Uint32Array[]>();
  beforeAll(async () => {
    for (const sms of GRIDS) gpus.set(sms, await cardOf(sms));
    for (const program of [bitnet, bonsai]) {
      using js = await jsBackend.load(program, {});
      wanted.set(program, await walk(js));
    }
  }, 300_000);
  afterAll(() => gpus.clear());

  // Group-scaled products are slow here, and nothing of them depends on the number of blocks that the ternary ones do not show.
  for (const [name, program, grids] of [
    ['ternary', bitnet, GRIDS],
    ['group-scaled', bonsai, [7]],
  ] as const) {
    test.each(grids)(`${name}: contexts of many tiles on %i blocks`, { timeout: 300_000 }, async (sms) => {
      await withSettings({ FAKE_CUDA_SCHEDULE: String(sms % 3) }, async () => {
        // On one card inputs of up to two blocks of the cache come with the launch, and longer ones are copied.
        const some = sms === 7 ? { inlineBytes: 120 } : {};
        using cuda = new CudaExecutable(gpus.get(sms)!, program, some);
        const kinds = cuda.instructionsOf(1, 1, 300).map(({ op }) => op);
        expect(kinds).toContain('attendSplit');
        expect(await walk(cuda)).toEqual(wanted.get(program));
      });
    });
  }

  // The driver here refuses a block more than its card has, and memory behind it is a page that nobody may touch. Cards before 9.0
  // copy 16 bytes a thread, and what was asked for comes as late as it may.
  test.each([
    ['8.0', '80', true],
    ['8.6', '86', false],
    ['least', '90', false],
  ] as const)('the memory of %s decides how attention is done', { timeout: 300_000 }, (card, capability, split) =>
    withSettings({ FAKE_CUDA_CAPABILITY: capability, FAKE_CUDA_SCHEDULE: '1' }, async () => {
      const gpu = await cardOf(7, buildDriver(), SHARED[card]);
      expect(gpu.sharedBytes.one).toBe(SHARED[card]);
      for (const program of [bitnet, bonsai]) {
        using cuda = new CudaExecutable(gpu, program);
        const kinds = cuda.instructionsOf(1, 1, 300).map(({ op }) => op);
        expect(kinds.includes('attendSplit')).toBe(split);
      }
      // Heads of 128, the widest that are split: two tiles of a cache, then a token.
      using js = await jsBackend.load(bonsai, {});
      using cuda = new CudaExecutable(gpu, bonsai);
      const [wanted, found] = await Promise.all(
        [js, cuda].map(async (e) => {
          const sequence = e.createSequence();
          await logitsOf(e, sequence, someTokens(66, 3), false);
          return logitsOf(e, sequence, [5]);
        }),
      );
      expect(found).toEqual(wanted);
    }),
  );

  test.each([
    ['bitnet_one', selfTestProgram(9, EVEN_INT8)],
    ['bitnet_one_any', selfTestProgram(9, EVEN)],
    ['bitnet_one_grouped', groupedSelfTestProgram(7, EVEN)],
  ])('the self-test takes this way, too: %s', { timeout: 300_000 }, async (kernel, program) => {
    const gpu = gpus.get(7)!;
    using cuda = new CudaExecutable(gpu, program);
    const list = cuda.instructionsOf(1, 1, 14);
    expect(oneRowKernel(list)).toBe(kernel);
    expect(list.map(({ op }) => op)).toContain('attendSplit');
    expect(await selfTestDifference(async () => new CudaExecutable(gpu, program), program)).toBeUndefined();
  });

  // Before a norm is known, a few elements are found that may be the row's largest; rows whose are too many, or out of the ordinary, are
  // looked through behind it.
  const inNorms = (value: (i: number) => number): Program => ({
    ...bitnet,
    weights: bitnet.weights.map((w) => (w.kind === 'vector' ? { ...w, values: w.values.map((_, i) => value(i)) } : w)),
  });
  /** Rows of the table: a size by column, signs as they come. */
  const inRows = (size: (column: number) => 0.5 | 1 | 3): Program => ({
    ...bitnet,
    weights: bitnet.weights.map((w) => {
      if (w.kind !== 'dense' || w.dtype === 'f32') return w;
      const bytes = w.bytes.slice();
      const high = { f16: { 0.5: 0x38, 1: 0x3c, 3: 0x42 }, bf16: { 0.5: 0x3f, 1: 0x3f, 3: 0x40 } }[w.dtype];
      const low = { f16: { 0.5: 0, 1: 0, 3: 0 }, bf16: { 0.5: 0, 1: 0x80, 3: 0x40 } }[w.dtype];
      for (let i = 0; i < w.rows * w.columns; i += 1) {
        const value = size(i % w.columns);
        bytes[2 * i] = low[value];
        bytes[2 * i + 1] = high[value] | ((i * 7) % 3 === 0 ? 0x80 : 0);
      }
      return { ...w, bytes };
    }),
  });
  test.each<[string, Program]>([
    ['any', inNorms((i) => Math.fround(Math.sin(i + 1)))],
    ['all alike', inRows(() => 1)],
    ['three alike', inRows((i) => (i === 5 || i === 70 || i === 131 ? 3 : 0.5))],
    ['a weight above the others', inNorms((i) => (i === 7 ? 2 ** 21 : 1))],
    ['nothing', inNorms(() => 0)],
    ['very small', inNorms(() => 2 ** -60)],
    ['subnormal', inNorms(() => 2 ** -140)],
    ['very large', inNorms((i) => (i % 2 === 0 ? 2 ** 100 : 2 ** -100))],
  ])(
    'the largest of a row, whose norm is by weights or elements that are: %s',
    { timeout: 300_000 },
    async (_, program) => {
      const found = await Promise.all(
        [await jsBackend.load(program, {}), new CudaExecutable(gpus.get(24)!, program)].map(async (e) => {
          using of = e;
          const sequence = of.createSequence();
          const logits: unknown[] = [];
          for (const token of [3, 8])
            logits.push(await logitsOf(of, sequence, [token]).catch((error: Error) => error.message));
          return logits;
        }),
      );
      expect(found[1]).toEqual(found[0]);
    },
  );

  test('self-tests take group-scaled panels in every way', () => {
    const found = new Set<string>();
    for (const { program, options = {} } of selfTests()) {
      using cuda = new CudaExecutable(gpus.get(24)!, program, options);
      const grid = Math.min(24, options.blocks ?? 24);
      for (const {
        op,
        fused,
        cut = 0,
        group,
        groups = 0,
        chunk = 0,
        splits = 0,
        width,
        matrices,
      } of cuda.instructionsOf(1, 1, 14)) {
        if (op !== 'grouped' || fused !== 1) continue;
        expect(groups * group!).toBe(width);
        const panels = Math.max(...matrices!.map(({ tiles }) => tiles));
        const pieces = Math.ceil((panels << cut) / grid) * Math.ceil(groups / chunk);
        found.add(`cut ${cut}, ${group === 128 ? 'groups of 128' : 'others'}`);
        if (pieces > splits) found.add('more pieces than places');
        if (groups > 16) found.add('more groups than warps');
        for (const { half } of matrices!) found.add(half === 1 ? 'f16' : 'f32');
      }
    }
    const cuts = [0, 1, 2].flatMap((cut) => [`cut ${cut}, groups of 128`, `cut ${cut}, others`]);
    expect([...found].sort()).toEqual([...cuts, 'f16', 'f32', 'more groups than warps', 'more pieces than places']);
  });

  test('a group-scaled product takes its weights in as many pieces as there is room for', {
    timeout: 300_000,
  }, async () => {
    const gpu = await cardOf(2, buildDriver(), SHARED['8.6']);
    using cuda = new CudaExecutable(gpu, bonsai);
    const products = cuda.instructionsOf(1, 1, 14).filter(({ op }) => op === 'grouped');
    expect(products.map(({ fused }) => fused)).toEqual(products.map(() => 1));
    // Of 66 groups, in a row of which no whole panel has room.
    const down = products.find(({ groups }) => groups === 66)!;
    expect(down.chunk).toBeLessThan(66);
    expect(down.splits).toBeGreaterThan(1);
  });

  test('the kernels with faults are right while none is turned on', { timeout: 300_000 }, async () => {
    const gpu = await cardOf(24, driverWithFaults());
    using cuda = new CudaExecutable(gpu, bitnet);
    expect(await walk(cuda)).toEqual(wanted.get(bitnet));
    using grouped = new CudaExecutable(gpu, bonsai, { blocks: 3 });
    expect(await walk(grouped)).toEqual(wanted.get(bonsai));
  });

  // Of few blocks each has many pieces. What was asked for comes as late as it may.
  test.each<[FaultName, string]>([
    ['a first piece that nobody waits for', '90'],
    ['later pieces that nobody waits for', '90'],
    ['copies of pieces that nobody waits for', '80'],
    ['groups from the last', '90'],
  ])('a planted fault in group-scaled products is found: %s', { timeout: 300_000 }, (name, capability) =>
    withSettings({ FAKE_CUDA_CAPABILITY: capability, FAKE_CUDA_SCHEDULE: '1' }, async () => {
      const gpu = await cardOf(3, driverWithFaults());
      using cuda = new CudaExecutable(gpu, bonsai);
      const found = await withFault(name, () => walk(cuda)).catch((error: unknown) => error);
      expect(found).not.toEqual(wanted.get(bonsai));
    }),
  );

  test.each<FaultName>([
    'only its own largest score',
    'tiles from the highest',
    'weights that nobody waits for',
    'the largest before the norm',
    'scores of the first warp alone',
  ])('a planted fault is found: %s', { timeout: 300_000 }, async (name) => {
    await withSettings({ FAKE_CUDA_SCHEDULE: '1' }, async () => {
      const gpu = await cardOf(24, driverWithFaults());
      using cuda = new CudaExecutable(gpu, bitnet);
      const found = await withFault(name, () => walk(cuda)).catch((error: unknown) => error);
      expect(found).not.toEqual(wanted.get(bitnet));
    });
  });
});

test('the bits that self-tests want are those of the reference', async () => {
  for (const { program, bits, steps } of selfTests()) {
    using js = await jsBackend.load(program, {});
    expect(bitsOf(await runSelfTest(js, steps))).toBe(bits);
  }
});
