// One differential suite for every backend: its logits and trit counts against those of `js`, bit for bit.

import { expect, test } from 'vitest';
import type { Executable, Step } from '../../src/engine/backend.ts';
import { jsBackend } from '../../src/engine/js/backend.ts';
import type { Program } from '../../src/engine/program.ts';
import { HYBRID_SHAPES, randomHybrid } from './hybrid-program.ts';
import { Random, randomProgram, SHAPES } from './random-program.ts';

export type Load = (program: Program) => Promise<Executable>;

type Trace = { logits: Float32Array[]; counts: Int32Array[] };

function step(
  tokens: readonly number[],
  sequence: number,
  from: number,
  outputs: readonly number[],
  trace: boolean,
): Step {
  return {
    tokens: Int32Array.from(tokens),
    sequences: new Int32Array(tokens.length).fill(sequence),
    positions: Int32Array.from(tokens, (_, i) => from + i),
    outputRows: Int32Array.from(outputs),
    trace,
  };
}

/** The prompt in chunks, logits of every row; returned per row. */
async function runChunks(
  executable: Executable,
  tokens: readonly number[],
  chunks: readonly number[],
  trace: boolean,
): Promise<Trace> {
  const sequence = executable.createSequence();
  const out: Trace = { logits: [], counts: [] };
  let at = 0;
  for (const size of chunks) {
    const part = tokens.slice(at, at + size);
    const { logits, tritCounts } = await executable.step(
      step(
        part,
        sequence,
        at,
        part.map((_, i) => i),
        trace,
      ),
    );
    const vocab = logits.length / part.length;
    part.forEach((_, i) => {
      out.logits.push(logits.slice(i * vocab, (i + 1) * vocab));
      const counts = tritCounts.length / part.length;
      out.counts.push(tritCounts.slice(i * counts, (i + 1) * counts));
    });
    at += size;
  }
  executable.freeSequence(sequence);
  return out;
}

/** Compares bit patterns, so that -0 and +0 differ; any NaN equals any NaN. */
export function expectSameBits(got: Float32Array, expected: Float32Array, what: string): void {
  expect(got.length, what).toBe(expected.length);
  const a = new Int32Array(got.buffer, got.byteOffset, got.length);
  const b = new Int32Array(expected.buffer, expected.byteOffset, expected.length);
  for (let i = 0; i < a.length; i += 1) {
    if (a[i] === b[i] || (Number.isNaN(got[i]) && Number.isNaN(expected[i]))) continue;
    expect.fail(`${what}: element ${i} is ${got[i]}, js has ${expected[i]}`);
  }
}

function expectSameTrace(got: Trace, expected: Trace, what: string): void {
  expected.logits.forEach((row, i) => {
    expectSameBits(got.logits[i]!, row, `${what}, logits of row ${i}`);
  });
  expect(got.counts, `${what}, trit counts`).toEqual(expected.counts);
}

type Model = { readonly vocab: number; readonly tokens: number; readonly make: (seed: number) => Program };

/** Hybrid ones run past two blocks of attention, so that windows leave the first one. */
const MODELS: Readonly<Record<string, Model>> = {
  ...Object.fromEntries(
    Object.entries(SHAPES).map(([name, shape]) => [
      name,
      { vocab: shape.vocab, tokens: 75, make: (seed: number) => randomProgram(shape, seed) },
    ]),
  ),
  ...Object.fromEntries(
    Object.entries(HYBRID_SHAPES).map(([name, shape]) => [
      name,
      { vocab: shape.vocab, tokens: 140, make: (seed: number) => randomHybrid(shape, seed) },
    ]),
  ),
};

const chunkings = (tokens: number) => [
  [tokens],
  [1, 2, 3, 4, 5, tokens - 15],
  [tokens - 35, ...Array<number>(35).fill(1)],
  [17, tokens - 17],
];

/** What js computes is the same for every backend that is compared with it: once is enough. */
const computed = new Map<string, Promise<unknown>>();
function once<T>(key: string, compute: () => Promise<T>): Promise<T> {
  const known = computed.get(key) ?? compute();
  computed.set(key, known);
  return known as Promise<T>;
}

export function differentialSuite(label: string, load: Load): void {
  for (const [name, { make, ...shape }] of Object.entries(MODELS)) {
    test(`${label}, ${name}: the bits of js, however the prompt is cut`, async () => {
      const program = make(7);
      const random = new Random(11);
      const tokens = Array.from({ length: shape.tokens }, () => random.below(shape.vocab));
      const expected = await once(`${name}, whole`, async () => {
        using js = await jsBackend.load(program, {});
        return await runChunks(js, tokens, [shape.tokens], true);
      });
      using fast = await load(program);
      for (const chunks of chunkings(shape.tokens)) {
        expectSameTrace(await runChunks(fast, tokens, chunks, true), expected, `chunks ${chunks.slice(0, 6)}`);
      }
      const untraced = await runChunks(fast, tokens, [shape.tokens], false);
      untraced.logits.forEach((row, i) => {
        expectSameBits(row, expected.logits[i]!, `untraced, row ${i}`);
      });
    });

    test(`${label}, ${name}: sequences that share a step do not see one another`, async () => {
      const program = make(8);
      const random = new Random(12);
      const prompts = [9, 1, 30, 4].map((n) => Array.from({ length: n }, () => random.below(shape.vocab)));
      const alone = await once(`${name}, alone`, async () => {
        using js = await jsBackend.load(program, {});
        const logits: Float32Array[][] = [];
        for (const prompt of prompts)
          logits.push((await runChunks(js, [...prompt, 0, 1, 2], [prompt.length, 1, 1, 1], false)).logits);
        return logits;
      });
      using fast = await load(program);
      const ids = prompts.map(() => fast.createSequence());
      const lengths = prompts.map((prompt) => prompt.length);
      const first = await fast.step({
        tokens: Int32Array.from(prompts.flat()),
        sequences: Int32Array.from(prompts.flatMap((prompt, s) => prompt.map(() => ids[s]!))),
        positions: Int32Array.from(prompts.flatMap((prompt) => prompt.map((_, i) => i))),
        outputRows: Int32Array.from(prompts, (_, s) => lengths.slice(0, s + 1).reduce((a, b) => a + b) - 1),
      });
      prompts.forEach((prompt, s) => {
        const row = first.logits.slice(s * shape.vocab, (s + 1) * shape.vocab);
        expectSameBits(row, alone[s]![prompt.length - 1]!, `prompt ${s}`);
      });
      for (let round = 0; round < 3; round += 1) {
        const { logits } = await fast.step({
          tokens: new Int32Array(4).fill(round),
          sequences: Int32Array.from(ids),
          positions: Int32Array.from(lengths, (n) => n + round),
          outputRows: Int32Array.of(0, 1, 2, 3),
        });
        prompts.forEach((prompt, s) => {
          const row = logits.slice(s * shape.vocab, (s + 1) * shape.vocab);
          expectSameBits(row, alone[s]![prompt.length + round]!, `sequence ${s}, round ${round}`);
        });
      }
    });
  }

  test(`${label}: forks and truncation leave what came before alone`, async () => {
    const shape = SHAPES.odd!;
    const program = randomProgram(shape, 9, 256);
    const random = new Random(13);
    const tokens = Array.from({ length: 150 }, () => random.below(shape.vocab));
    const other = Array.from({ length: 20 }, () => random.below(shape.vocab));
    using js = await jsBackend.load(program, {});
    using fast = await load(program);
    const last = async (executable: Executable, sequence: number, part: readonly number[]) => {
      const at = executable.sequenceLength(sequence);
      return (await executable.step(step(part, sequence, at, [part.length - 1], false))).logits;
    };
    for (const cut of [0, 1, 63, 64, 65, 127, 128, 150]) {
      const results: Float32Array[][] = [];
      for (const executable of [js, fast]) {
        const trunk = executable.createSequence();
        await executable.step(step(tokens, trunk, 0, [], false));
        const branch = executable.fork(trunk, cut);
        expect(executable.sequenceLength(branch)).toBe(cut);
        const logits = [await last(executable, branch, other)];
        // The trunk writes where the branch has written, and the other way round.
        logits.push(await last(executable, trunk, other));
        executable.truncate(trunk, cut);
        logits.push(await last(executable, trunk, other.slice(0, 7)));
        logits.push(await last(executable, branch, other));
        executable.freeSequence(trunk);
        logits.push(await last(executable, branch, [1]));
        executable.freeSequence(branch);
        results.push(logits);
      }
      results[0]!.forEach((expected, i) => {
        expectSameBits(results[1]![i]!, expected, `cut at ${cut}, result ${i}`);
      });
    }
  });

  for (const [name, shape] of Object.entries(HYBRID_SHAPES)) {
    test(`${label}, ${name}: sequences go back as far as they say, and forks go on from there`, async () => {
      const program = randomHybrid(shape, 9);
      const random = new Random(14);
      const tokens = Array.from({ length: 150 }, () => random.below(shape.vocab));
      const other = Array.from({ length: 20 }, () => random.below(shape.vocab));
      const run = async (executable: Executable, sequence: number, part: readonly number[]) => {
        const at = executable.sequenceLength(sequence);
        return (await executable.step(step(part, sequence, at, [part.length - 1], false))).logits;
      };
      /** Each of the trunk and its forks writes where the others do, none sees it. */
      const walk = async (executable: Executable, trunk: number, limit: number) => {
        const [branch, early] = [executable.fork(trunk, 150), executable.fork(trunk, limit)];
        const logits = [await run(executable, branch, other)];
        logits.push(await run(executable, trunk, other.slice(0, 3)));
        logits.push(await run(executable, early, other.slice(5)));
        logits.push(await run(executable, branch, [1]));
        logits.push(await run(executable, trunk, [2]));
        executable.freeSequence(branch);
        const empty = executable.fork(trunk, 0);
        executable.truncate(trunk, 0);
        for (const fresh of [trunk, empty]) {
          expect(executable.sequenceLength(fresh)).toBe(0);
          logits.push(await run(executable, fresh, tokens.slice(0, 30)));
        }
        logits.push(await run(executable, early, [3, 4]));
        return logits;
      };
      using fast = await load(program);
      const trunk = fast.createSequence();
      expect(fast.rewindLimit(trunk)).toBe(0);
      await fast.step(step(tokens, trunk, 0, [], false));
      const limit = fast.rewindLimit(trunk);
      if (program.recurrent !== undefined) expect(limit).toBe(150);
      // The next row sees from 150 - 70 + 1 (or 20) on; whole blocks before that are gone.
      else expect(limit).toBe(name === 'windows' ? 64 + 70 - 1 : 128 + 20 - 1);
      for (const length of [1, limit - 1]) {
        expect(() => fast.truncate(trunk, length)).toThrow(RangeError);
        expect(() => fast.fork(trunk, length)).toThrow(RangeError);
      }
      expect(() => fast.truncate(trunk, 151)).toThrow(RangeError);
      expect(fast.sequenceLength(trunk)).toBe(150);
      const expected = await once(`${name}, forks`, async () => {
        using js = await jsBackend.load(program, {});
        const sequence = js.createSequence();
        await js.step(step(tokens, sequence, 0, [], false));
        return await walk(js, sequence, limit);
      });
      const got = await walk(fast, trunk, limit);
      expected.forEach((logits, i) => {
        expectSameBits(got[i]!, logits, `result ${i}`);
      });
      expectSameBits(got[6]!, got[5]!, 'a fork at 0 is empty, as a sequence cut to 0');
    });
  }

  test(`${label}: a step that fails empties sequences with recurrent states`, async () => {
    const shape = HYBRID_SHAPES.rotated!;
    const good = randomHybrid(shape, 10);
    // Token 3 is poisoned: its embedding holds an infinity.
    const weights = good.weights.map((weight) => {
      if (weight.kind !== 'dense') return weight;
      const bytes = weight.bytes.slice();
      bytes.set([0x80, 0x7f], 2 * 3 * shape.hidden);
      return { ...weight, bytes };
    });
    const program = { ...good, weights };
    for (const executable of [await jsBackend.load(program, {}), await load(program)]) {
      const [failing, bystander] = [executable.createSequence(), executable.createSequence()];
      await executable.step(step([1, 2], failing, 0, [], false));
      await executable.step(step([1, 2], bystander, 0, [], false));
      await expect(executable.step(step([4, 3, 5], failing, 2, [2], false))).rejects.toThrow('NaN or infinity');
      expect(executable.sequenceLength(failing)).toBe(0);
      expect(executable.rewindLimit(failing)).toBe(0);
      expect(executable.sequenceLength(bystander)).toBe(2);
      // A step that is refused before it begins changes nothing.
      await expect(executable.step(step([4], bystander, 9, [0], false))).rejects.toThrow('position 9');
      expect(executable.sequenceLength(bystander)).toBe(2);
      const again = await executable.step(step([1, 2, 6], failing, 0, [2], false));
      const went = await executable.step(step([6], bystander, 2, [0], false));
      expectSameBits(again.logits, went.logits, 'begun again');
      executable[Symbol.dispose]();
    }
  });

  test(`${label}: a step that fails leaves its sequences as they were`, async () => {
    const shape = SHAPES.odd!;
    const good = randomProgram(shape, 10);
    // Token 3 is poisoned: its embedding holds an infinity.
    const weights = good.weights.map((weight) => {
      if (weight.kind !== 'dense') return weight;
      const bytes = weight.bytes.slice();
      bytes.set([0x80, 0x7f], 2 * 3 * shape.hidden);
      return { ...weight, bytes };
    });
    const program = { ...good, weights };
    using js = await jsBackend.load(program, {});
    using fast = await load(program);
    const logits: Float32Array[] = [];
    const messages: string[] = [];
    for (const executable of [js, fast]) {
      const sequence = executable.createSequence();
      await executable.step(step([1, 2], sequence, 0, [], false));
      const failed = executable.step(step([4, 3, 5], sequence, 2, [2], false));
      messages.push(await failed.then(String, (error: Error & { code?: string }) => `${error.code} ${error.message}`));
      expect(executable.sequenceLength(sequence)).toBe(2);
      logits.push((await executable.step(step([4, 5], sequence, 2, [1], false))).logits);
      await expect(executable.step(step([4], sequence, 9, [0], false))).rejects.toThrow('position 9');
      await expect(executable.step(step([99], sequence, 4, [0], false))).rejects.toThrow('vocabulary');
      expect(executable.sequenceLength(sequence)).toBe(4);
    }
    expect(messages[0]).toMatch(/^NON_FINITE .*layer 0, input of q_proj/);
    expect(messages[1]).toBe(messages[0]);
    expectSameBits(logits[1]!, logits[0]!, 'after the failure');
  });
}
