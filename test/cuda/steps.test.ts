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
import { FAKE_MISSING, fakeGpu, loadOnFake, newGpu, SCHEDULES, withSettings } from './fake-driver.ts';

const bitnet = randomModel(
  {
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
  },
  'int8',
  400,
);
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

  test('the best logit comes from the device, the lowest id among equals', async () => {
    using executable = loadOnFake(bitnet);
    const [one, two] = [executable.createSequence(), executable.createSequence()];
    const step = (sequence: number) => ({
      tokens: Int32Array.of(5, 6),
      sequences: Int32Array.of(sequence, sequence),
      positions: Int32Array.of(0, 1),
      outputRows: Int32Array.of(0, 1),
    });
    const { logits } = await executable.step(step(one));
    const { ids, logits: best } = await executable.stepBest(step(two));
    for (const row of [0, 1]) {
      const mine = logits.subarray(row * 160, (row + 1) * 160);
      const largest = Math.max(...mine);
      expect(ids[row]).toBe(mine.indexOf(largest));
      expect(best[row]).toBe(largest);
    }
  });

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
    await withSettings({ FAKE_CUDA_FAIL: 'cuStreamSynchronize' }, async () => {
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

test('what the kernels have not is refused by name', () => {
  const [x] = bitnet.ops.flatMap((op) => (op.op === 'rmsNorm' ? [op.x] : []));
  const hybrid: Program = {
    ...bitnet,
    ops: [...bitnet.ops, { op: 'splitHeads', x: x!, first: x!, second: x!, heads: 1, headDim: 4 }],
  };
  expect(() => checkProgram(hybrid)).toThrow(/the CUDA kernels have no splitHeads/);
  const wide: Program = { ...bitnet, buffers: bitnet.buffers.map((b, i) => (i === x ? { ...b, width: 20_000 } : b)) };
  expect(() => checkProgram(wide)).toThrow(/rows of 20000, the limit is 15360/);
});
