// One differential suite for every backend: its logits and trit counts against those of `js`, bit for bit.

import { expect, test } from 'vitest';
import type { Executable, Step } from '../../src/engine/backend.ts';
import { jsBackend } from '../../src/engine/js/backend.ts';
import type { Program } from '../../src/engine/program.ts';
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

const TOKENS = 75;
const CHUNKINGS = [[75], [1, 2, 3, 4, 5, 60], [40, ...Array<number>(35).fill(1)], [17, 58]];

export function differentialSuite(label: string, load: Load): void {
  for (const [name, shape] of Object.entries(SHAPES)) {
    test(`${label}, ${name}: the bits of js, however the prompt is cut`, async () => {
      const program = randomProgram(shape, 7);
      const random = new Random(11);
      const tokens = Array.from({ length: TOKENS }, () => random.below(shape.vocab));
      using js = await jsBackend.load(program, {});
      const expected = await runChunks(js, tokens, [TOKENS], true);
      using fast = await load(program);
      for (const chunks of CHUNKINGS) {
        expectSameTrace(await runChunks(fast, tokens, chunks, true), expected, `chunks ${chunks.slice(0, 6)}`);
      }
      const untraced = await runChunks(fast, tokens, [TOKENS], false);
      untraced.logits.forEach((row, i) => {
        expectSameBits(row, expected.logits[i]!, `untraced, row ${i}`);
      });
    });

    test(`${label}, ${name}: sequences that share a step do not see one another`, async () => {
      const program = randomProgram(shape, 8);
      const random = new Random(12);
      const prompts = [9, 1, 30, 4].map((n) => Array.from({ length: n }, () => random.below(shape.vocab)));
      using js = await jsBackend.load(program, {});
      const alone: Float32Array[][] = [];
      for (const prompt of prompts)
        alone.push((await runChunks(js, [...prompt, 0, 1, 2], [prompt.length, 1, 1, 1], false)).logits);
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
