// Steps of every shape on the emulator, against the js backend: long contexts, many rows, batches, drafts, forks, traces, errors.

import { describe, expect, test } from 'vitest';
import { randomModel } from '../../src/bench/random-model.ts';
import { type Executable, NonFiniteError, type SequenceId } from '../../src/engine/backend.ts';
import { CudaError, CudaUnsupportedError } from '../../src/engine/cuda/addon.ts';
import { checkProgram } from '../../src/engine/cuda/encode.ts';
import { CudaExecutable } from '../../src/engine/cuda/executable.ts';
import { KvCacheFullError } from '../../src/engine/gpu/kv-blocks.ts';
import { jsBackend } from '../../src/engine/js/backend.ts';
import type { Program } from '../../src/engine/program.ts';
import { topLogits } from '../../src/engine/top-logits.ts';
import { FAKE_MISSING, fakeGpu, loadOnFake, newGpu, SCHEDULES, withSettings } from './fake-driver.ts';

const SMALL = {
  family: 'bitnet',
  hidden: 128,
  ffn: 192,
  layers: 1,
  heads: 4,
  kvHeads: 2,
  headDim: 32,
  vocab: 160,
  ropeTheta: 500_000,
  tied: true,
} as const;
const bitnet = randomModel(SMALL, 'int8', 400);
const bonsai = randomModel(
  {
    family: 'qwen3',
    hidden: 256,
    ffn: 384,
    layers: 1,
    heads: 4,
    kvHeads: 2,
    headDim: 64,
    vocab: 160,
    ropeTheta: 1e6,
    tied: true,
  },
  'full',
  400,
);

/** Of whose head every row is there twice. */
function withTwins(vocab: number): Program {
  const program = randomModel({ ...SMALL, vocab }, 'int8', 400);
  const weights = program.weights.map((weight) => {
    if (weight.kind !== 'int8') return weight;
    const codes = weight.codes.slice();
    codes.copyWithin((vocab / 2) * weight.columns, 0, (vocab / 2) * weight.columns);
    return { ...weight, codes };
  });
  return { ...program, weights };
}

type Rows = readonly (readonly [sequence: number, tokens: readonly number[]])[];

const someTokens = (n: number, seed: number) => Array.from({ length: n }, (_, i) => (i * 37 + seed * 11 + 5) % 160);

/** The same steps on js and on the emulator; every row's logits, bit for bit. */
class Both {
  readonly executables: readonly [Executable, CudaExecutable];
  readonly #ids: [SequenceId[], SequenceId[]] = [[], []];

  constructor(js: Executable, cuda: CudaExecutable, sequences: number) {
    this.executables = [js, cuda];
    this.executables.forEach((e, i) => {
      this.#ids[i as 0 | 1] = Array.from({ length: sequences }, () => e.createSequence());
    });
  }

  async step(rows: Rows, trace = false): Promise<void> {
    const [wanted, actual] = await Promise.all(
      this.executables.map((e, i) => {
        const ids = this.#ids[i as 0 | 1];
        const tokens = rows.flatMap(([, list]) => list);
        return e.step({
          tokens: Int32Array.from(tokens),
          sequences: Int32Array.from(rows.flatMap(([s, list]) => list.map(() => ids[s]!))),
          positions: Int32Array.from(rows.flatMap(([s, list]) => list.map((_, k) => e.sequenceLength(ids[s]!) + k))),
          outputRows: Int32Array.from(tokens, (_, k) => k),
          trace,
        });
      }),
    );
    const words = ({ logits }: { logits: Float32Array }) => new Uint32Array(logits.buffer, 0, logits.length);
    expect(words(actual!)).toEqual(words(wanted!));
    expect(actual!.tritCounts).toEqual(wanted!.tritCounts);
  }

  each(work: (e: Executable, ids: SequenceId[]) => void): void {
    this.executables.forEach((e, i) => {
      work(e, this.#ids[i as 0 | 1]);
    });
  }
}

async function withBoth(program: Program, options: object, work: (both: Both) => Promise<void>, sequences = 4) {
  using js = await jsBackend.load(program, {});
  using cuda = loadOnFake(program, options);
  await work(new Both(js, cuda, sequences));
}

describe.skipIf(FAKE_MISSING !== undefined)('steps on the emulator', () => {
  for (const [name, program] of [
    ['ternary', bitnet],
    ['group-scaled', bonsai],
  ] as const) {
    test(`${name}: prompts of many rows, then tokens past the cut of attention`, { timeout: 300_000 }, () =>
      withBoth(program, {}, async (both) => {
        await both.step([[0, someTokens(50, 1)]]);
        await both.step([[0, [9]]]);
        await both.step([[0, someTokens(203, 2)]]);
        // 254 to 260 positions: whole rows, then blocks.
        for (const token of [3, 1, 4, 1, 5]) await both.step([[0, [token]]]);
        await both.step([[0, someTokens(3, 3)]]);
      }),
    );

    test(`${name}: batches, forks and truncation`, { timeout: 300_000 }, () =>
      withBoth(program, {}, async (both) => {
        await both.step([
          [0, someTokens(5, 1)],
          [1, someTokens(66, 2)],
          [2, [7]],
        ]);
        await both.step([
          [2, [1]],
          [0, [2]],
          [1, [3]],
        ]);
        both.each((e, ids) => {
          e.truncate(ids[1]!, 63);
          ids.push(e.fork(ids[1]!, 62));
          e.freeSequence(ids[0]!);
        });
        await both.step([
          [1, [9, 8, 7]],
          [2, [2]],
          [4, someTokens(4, 3)],
        ]);
        both.each((e, ids) => ids.push(e.createSequence()));
        await both.step([[5, someTokens(33, 4)]]);
      }),
    );
  }

  test.each(SCHEDULES)('the order of threads does not show (%i)', { timeout: 300_000 }, (schedule) =>
    withSettings({ FAKE_CUDA_SCHEDULE: String(schedule), FAKE_CUDA_SMS: '3' }, () =>
      withBoth(bitnet, {}, async (both) => {
        await both.step([[0, someTokens(10, 1)]], true);
        await both.step([[0, [9]]], true);
      }),
    ),
  );

  test('a long step is cut without a trace in the results', { timeout: 300_000 }, () =>
    withBoth(bitnet, { maxRows: 4 }, async (both) => {
      await both.step([
        [0, someTokens(3, 1)],
        [1, someTokens(10, 2)],
      ]);
      await both.step([[1, someTokens(4, 3)]], true);
    }),
  );

  // On one block a share is the whole row: of 160 logits, which its threads hold, and of more, which they read again and again.
  test.each([
    [1, 160, 4],
    [3, 160, 4],
    [64, 160, 4],
    [1, 6000, 1],
    [9, 6000, 1],
    [64, 6000, 1],
    [40, 6000, 4],
  ])(
    'the %i largest of %i logits come from the device, with the sum of the weights: %i blocks',
    async (top, vocab, blocks) => {
      using executable = loadOnFake(withTwins(vocab), { blocks });
      const run = (asked: { top?: number; withoutLogits?: boolean }) => {
        const sequence = executable.createSequence();
        return executable.step({
          tokens: Int32Array.of(5, 6, 7),
          sequences: Int32Array.of(sequence, sequence, sequence),
          positions: Int32Array.of(0, 1, 2),
          outputRows: Int32Array.of(0, 2),
          ...asked,
        });
      };
      const { logits } = await run({});
      const wanted = topLogits(logits, 2, top);
      const bare = await run({ top, withoutLogits: true });
      expect(bare.logits).toHaveLength(0);
      expect(bare.top).toEqual(wanted);
      const both = await run({ top });
      expect(both.top).toEqual(wanted);
      expect(both.logits).toEqual(logits);
      // Twins are among them, the lower first.
      if (top > 3) expect(new Set(wanted.logits.subarray(0, top)).size).toBeLessThan(top);
    },
  );

  test('NaN is reported where js reports it, and the sequence stays as it was', async () => {
    const broken: Program = {
      ...bitnet,
      weights: bitnet.weights.map((weight, i) =>
        weight.kind === 'vector' && i === bitnet.weights.findIndex(({ kind }) => kind === 'vector')
          ? { ...weight, values: weight.values.map((v, j) => (j === 3 ? Number.NaN : v)) }
          : weight,
      ),
    };
    using js = await jsBackend.load(broken, {});
    using cuda = loadOnFake(broken);
    const message = async (e: Executable) => {
      const sequence = e.createSequence();
      const step = {
        tokens: Int32Array.of(1),
        sequences: Int32Array.of(sequence),
        positions: Int32Array.of(0),
        outputRows: Int32Array.of(0),
      };
      const error = await e.step(step).then(
        () => undefined,
        (cause: unknown) => cause,
      );
      expect(error).toBeInstanceOf(NonFiniteError);
      expect(e.sequenceLength(sequence)).toBe(0);
      return (error as Error).message;
    };
    expect(await message(cuda)).toBe(await message(js));
  });

  test('one token of a layer is five instructions', () => {
    using executable = loadOnFake(bitnet);
    const kinds = executable.instructionsOf(1, 1, 5).map(({ op, fused = 0 }) => (fused ? `${op}+` : op));
    const layer = ['ternary+', 'attendOne+', 'ternary+', 'ternary+', 'ternary+'];
    expect(kinds).toEqual(['embed', ...layer, 'int8+']);
  });
});

describe.skipIf(FAKE_MISSING !== undefined)('a device that refuses', () => {
  const step = (sequence: number) => ({
    tokens: Int32Array.of(1),
    sequences: Int32Array.of(sequence),
    positions: Int32Array.of(0),
    outputRows: Int32Array.of(0),
  });

  test('lost: this request fails, and so do later ones, with words', async () => {
    const gpu = await newGpu();
    using executable = new CudaExecutable(gpu, bitnet);
    const sequence = executable.createSequence();
    await withSettings({ FAKE_CUDA_FAIL: 'cuStreamQuery' }, async () => {
      await expect(executable.step(step(sequence))).rejects.toThrow(/CUDA_ERROR_ILLEGAL_ADDRESS/);
    });
    await expect(executable.step(step(sequence))).rejects.toThrow(/the CUDA device is lost/);
    expect(executable.sequenceLength(sequence)).toBe(0);
    expect(gpu.lost).toMatch(/ILLEGAL_ADDRESS/);
  });

  test('no memory: a program that does not fit is another backend’s, a full cache says so and work goes on', async () => {
    await withSettings({ FAKE_CUDA_MEMORY: String(64 << 20) }, () => {
      expect(() => loadOnFake(bitnet)).toThrow(CudaUnsupportedError);
    });
    using executable = loadOnFake(bitnet);
    const sequence = executable.createSequence();
    await withSettings({ FAKE_CUDA_FAIL: 'cuMemAlloc' }, async () => {
      await expect(executable.step(step(sequence))).rejects.toThrow(KvCacheFullError);
    });
    await executable.step(step(sequence));
    expect(executable.sequenceLength(sequence)).toBe(1);
    expect(fakeGpu().lost).toBeUndefined();
    expect(CudaError).toBeDefined();
  });
});

test('what the kernels cannot hold is refused by name', () => {
  const [x] = bitnet.ops.flatMap((op) => (op.op === 'rmsNorm' ? [op.x] : []));
  const wide: Program = { ...bitnet, buffers: bitnet.buffers.map((b, i) => (i === x ? { ...b, width: 30_000 } : b)) };
  expect(() => checkProgram(wide)).toThrow(/rows of 30000, the limit is 22912/);
  const turn = { op: 'hadamard', x: x!, signs: 0, block: 64, direction: 'forward', out: x! } as const;
  const moved: Program = {
    ...wide,
    buffers: bitnet.buffers.map((b, i) => (i === x ? { ...b, width: 16_384 } : b)),
    ops: [{ ...turn, keyHeads: 2, headDim: 64 }],
  };
  expect(() => checkProgram(moved)).toThrow(/a rotation that moves the heads of rows of 16384/);
  expect(() => checkProgram({ ...moved, ops: [{ ...turn, keyHeads: 0, headDim: 0 }] })).not.toThrow();
});

test('rows of 17,408, as a 27B has them, through the wide path', { timeout: 300_000 }, () =>
  withBoth(
    randomModel(
      {
        family: 'qwen3',
        hidden: 128,
        ffn: 17_408,
        layers: 1,
        heads: 2,
        kvHeads: 1,
        headDim: 64,
        vocab: 160,
        ropeTheta: 1e6,
        tied: true,
      },
      'full',
      64,
    ),
    {},
    async (both) => {
      await both.step([[0, someTokens(5, 1)]]);
      await both.step([[0, [9]]]);
    },
  ),
);
