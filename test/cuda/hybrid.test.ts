// Hybrid and mixture models through the kernels' own text on the emulator, against the js backend, bit for bit: golden cases,
// random programs at awkward sizes, edits of sequences, failed steps, planted faults.

import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { type Executable, NonFiniteError, type SequenceId } from '../../src/engine/backend.ts';
import { CudaExecutable } from '../../src/engine/cuda/executable.ts';
import { Gpu } from '../../src/engine/cuda/gpu.ts';
import { jsBackend } from '../../src/engine/js/backend.ts';
import { hybridSelfTestProgram } from '../../src/engine/metal/self-test.ts';
import type { Program } from '../../src/engine/program.ts';
import { openModel } from '../../src/model/open-model.ts';
import { hybridProgram } from '../generate/hybrid-program.ts';
import { HYBRID_SHAPES, type HybridShape, randomHybrid } from '../kernels/hybrid-program.ts';
import { randomEdits } from '../kernels/random-edits.ts';
import {
  driverWith,
  FAKE_MISSING,
  fakeAddon,
  fakeGpu,
  loadOnFake,
  NO_KERNELS,
  SCHEDULES,
  withSettings,
} from './fake-driver.ts';

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
    group: (columns) => (columns === 640 ? 32 : 160),
  },
};

describe.skipIf(FAKE_MISSING !== undefined).each(Object.entries(SHAPES))('random %s', (_, shape) => {
  test.each([0, 2])('schedule %i', { timeout: 300_000 }, async (schedule) => {
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
