// Sequences whose recurrent states cannot be cut back: whatever is continued, branched off, guessed or failed, the tokens
// and logits are those of a run from the start.

import { describe, expect, test } from 'vitest';
import { type Executable, NonFiniteError, type Step } from '../../src/engine/backend.ts';
import { jsBackend } from '../../src/engine/js/backend.ts';
import type { Program } from '../../src/engine/program.ts';
import { recurrentBytes, stateBytes } from '../../src/engine/state-bytes.ts';
import { chooseToken, type LogitRow } from '../../src/generate/sampler.ts';
import { Scheduler, type SchedulerOptions } from '../../src/generate/scheduler.ts';
import { SplitMix64 } from '../../src/random/splitmix64.ts';
import { whole } from './helpers.ts';
import { hybridProgram } from './hybrid-program.ts';

const program = hybridProgram();
const STATE = stateBytes(program);
const plain: SchedulerOptions = {
  maxRows: 64,
  maxDrafts: 0,
  cachedTokens: 4096,
  contextLength: program.contextLength,
  stateBytes: STATE,
  snapshotBytes: 8 * STATE,
};

async function watched(
  of: Program = program,
): Promise<{ executable: Executable; steps: Step[]; sequences: Set<number> }> {
  const executable = await jsBackend.load(of, {});
  const steps: Step[] = [];
  const sequences = new Set<number>();
  const { step, createSequence, fork, freeSequence } = executable;
  executable.step = (input) => {
    steps.push(input);
    return step.call(executable, input);
  };
  const added = (id: number) => {
    sequences.add(id);
    return id;
  };
  executable.createSequence = () => added(createSequence.call(executable));
  executable.fork = (from, length) => added(fork.call(executable, from, length));
  executable.freeSequence = (id) => {
    expect(sequences.delete(id)).toBe(true);
    freeSequence.call(executable, id);
  };
  return { executable, steps, sequences };
}

/** Tokens written, and the logits each was chosen from. */
function writer(count: number, temperature = 0) {
  const tokens: number[] = [];
  const seen: Float32Array[] = [];
  const next = ({ logits }: LogitRow) => {
    seen.push(logits.slice());
    tokens.push(chooseToken(logits, tokens.length, { temperature, topK: 0, topP: 1, sampleSeed: 5n }).token);
    return tokens.length === count ? undefined : tokens.at(-1);
  };
  return { tokens, seen, next };
}

async function alone(prompt: readonly number[], count: number, of: Program = program, temperature = 0) {
  const executable = await jsBackend.load(of, {});
  const one = writer(count, temperature);
  await new Scheduler(executable, { ...plain, cachedTokens: 0 }).run(prompt, {
    next: one.next,
    ...whole,
    trace: false,
  });
  return one;
}

const counting = (length: number, from = 0) => Array.from({ length }, (_, i) => (7 * i + from) % 61);

test('the size of what cannot be cut is that of the states', () => {
  expect(recurrentBytes(program)).toBe(4 * 2 * (3 * 32 + 2 * 8 * 8));
  expect(stateBytes(hybridProgram({ window: 16 }))).toBe(STATE + 2 * 4 * 16 * 8);
});

describe.each([0, 16])('window %d', (window) => {
  const program = hybridProgram({ window });
  const own = { ...plain, stateBytes: stateBytes(program), snapshotBytes: 8 * stateBytes(program) };

  test('four generations at once write what each writes alone', async () => {
    const { executable, steps } = await watched(program);
    const scheduler = new Scheduler(executable, own);
    const prompts = [counting(4), counting(40), counting(2, 9), counting(30, 3)];
    const writers = prompts.map(() => writer(12));
    await Promise.all(
      prompts.map((prompt, i) => scheduler.run(prompt, { next: writers[i]!.next, ...whole, trace: false })),
    );
    expect(steps.some(({ sequences }) => new Set(sequences).size === 4)).toBe(true);
    for (const [i, prompt] of prompts.entries()) {
      const wanted = await alone(prompt, 12, program);
      expect(writers[i]!.tokens).toEqual(wanted.tokens);
      expect(writers[i]!.seen).toEqual(wanted.seen);
    }
  });

  test('a prompt, its continuation and the next turn of a chat start where they can', async () => {
    const { executable, steps } = await watched(program);
    const scheduler = new Scheduler(executable, own);
    const rowsOf = async (prompt: readonly number[], count = 5) => {
      const before = steps.length;
      const one = writer(count);
      await scheduler.run(prompt, { next: one.next, ...whole, trace: false });
      expect(one.seen).toEqual((await alone(prompt, count, program)).seen);
      const rows = steps.slice(before).reduce((sum, { tokens }) => sum + tokens.length, 0);
      return { rows: rows - (count - 1), tokens: one.tokens };
    };
    const prompt = counting(60);
    const first = await rowsOf(prompt);
    expect(first.rows).toBe(60);
    // Again: from the snapshot before its end. Gone on with: from its end, but for the last token.
    expect((await rowsOf(prompt)).rows).toBe(16);
    expect((await rowsOf([...prompt, ...first.tokens, 3, 4])).rows).toBe(3);
    // The next turn shares all but the last tokens of the prompt.
    expect((await rowsOf([...prompt.slice(0, 58), 1, 2, 3, 4, 5])).rows).toBe(63 - 44);
    // A prompt that leaves a known one elsewhere is read anew, and the next that does so there is not.
    expect((await rowsOf([...prompt.slice(0, 30), ...counting(20, 5)])).rows).toBe(50);
    expect((await rowsOf([...prompt.slice(0, 30), ...counting(20, 8)])).rows).toBe(20);
    expect(scheduler.cacheCounts.hits).toBe(4);
  });

  test('guesses change nothing, and save steps', async () => {
    const prompt = [...counting(20), ...counting(20), ...counting(6)];
    const wanted = await alone(prompt, 40, program);
    for (const maxDrafts of [1, 3, 7]) {
      const { executable, steps, sequences } = await watched(program);
      const scheduler = new Scheduler(executable, { ...own, maxDrafts });
      const one = writer(40);
      await scheduler.run(prompt, { next: one.next, ...whole, trace: false });
      expect(one.tokens).toEqual(wanted.tokens);
      expect(one.seen).toEqual(wanted.seen);
      expect(steps.some(({ outputRows }) => outputRows.length > 1)).toBe(true);
      // Only what is kept is left.
      expect(sequences.size).toBe(scheduler.cacheCounts.entries);
    }
  });
});

test('prompts that begin alike and come together are read once, up to where they part', async () => {
  const { executable, steps } = await watched();
  const scheduler = new Scheduler(executable, { ...plain, maxRows: 16 });
  const begin = counting(70);
  const prompts = [begin, begin, begin, [...begin.slice(0, 50), 1, 2, 3]];
  const writers = prompts.map((_, i) => writer(4, i === 0 ? 0 : 1));
  await Promise.all(
    prompts.map((prompt, i) => scheduler.run(prompt, { next: writers[i]!.next, ...whole, trace: false })),
  );
  for (const [i, prompt] of prompts.entries()) {
    expect(writers[i]!.seen).toEqual((await alone(prompt, 4, program, i === 0 ? 0 : 1)).seen);
  }
  // One reading, tails after the snapshot before its end, and the tokens written; each for itself they would be 275 rows.
  const rows = steps.reduce((sum, { tokens }) => sum + tokens.length, 0);
  expect(rows).toBeLessThanOrEqual(120);
});

test('a step that fails for one of several is taken again, each by itself, from what is known', async () => {
  const { executable, sequences } = await watched();
  const inner = executable.step;
  let failed = 0;
  executable.step = async (step) => {
    // Token 60 is poison.
    if (!step.tokens.includes(60)) return inner(step);
    failed += 1;
    await inner(step);
    for (const id of new Set(step.sequences)) executable.truncate(id, 0);
    throw new NonFiniteError('hybrid, a test');
  };
  const scheduler = new Scheduler(executable, plain);
  const poisoned = [...counting(20).map((token) => token % 50), 60];
  const prompts = [counting(40).map((token) => token % 59), counting(12, 2).map((token) => token % 59)];
  const writers = prompts.map(() => writer(10));
  const run = (i: number) => scheduler.run(prompts[i]!, { next: writers[i]!.next, ...whole, trace: false });
  // The first is being written when the others come.
  const [first, bad, second] = await Promise.allSettled([
    run(0),
    scheduler.run(poisoned, { next: writer(3).next, ...whole, trace: false }),
    run(1),
  ]);
  expect(bad.status).toBe('rejected');
  // Together, and by itself.
  expect(failed).toBe(2);
  const good = [first, second];
  for (const [i, prompt] of prompts.entries()) {
    const wanted = await alone(prompt, 10);
    if (wanted.tokens.includes(60)) throw new Error('choose other prompts');
    expect(good[i]!.status).toBe('fulfilled');
    expect(writers[i]!.seen).toEqual(wanted.seen);
  }
  expect(sequences.size).toBe(scheduler.cacheCounts.entries);
});

test('the budget holds at every moment, and one state is kept whatever its size', async () => {
  for (const [budget, most] of [
    [3 * STATE, 3],
    [1, 1],
  ] as const) {
    const { executable, sequences } = await watched();
    const scheduler = new Scheduler(executable, { ...plain, snapshotBytes: budget });
    for (let i = 0; i < 8; i += 1) {
      await scheduler.run(counting(30, i), { next: writer(3).next, ...whole, trace: false });
      expect(scheduler.cacheCounts.entries).toBeLessThanOrEqual(most);
      expect(scheduler.cacheCounts.stateBytes).toBeLessThanOrEqual(Math.max(budget, STATE));
      expect(sequences.size).toBe(scheduler.cacheCounts.entries);
    }
  }
});

test.each([0, 16])(
  '1,000 random edits give the logits of a run from the start (window %d)',
  async (window) => {
    const program = hybridProgram({ window });
    const random = new SplitMix64(77n);
    const below = (n: number) => Math.floor(random.nextFloat() * n);
    const { executable } = await watched(program);
    const size = stateBytes(program);
    const scheduler = new Scheduler(executable, { ...plain, maxDrafts: 3, stateBytes: size, snapshotBytes: 6 * size });
    let texts: number[][] = [counting(20)];
    const known = new Map<string, Float32Array[]>();
    for (let edit = 0; edit < 1000; edit += 1) {
      const from = texts[below(texts.length)]!;
      const kind = below(4);
      // Append, cut, fork and go another way, or take up what was written.
      const added = Array.from({ length: 1 + below(12) }, () => below(8));
      const cut = from.slice(0, 1 + below(from.length));
      const prompt = (
        kind === 0 ? [...from, ...added] : kind === 1 ? cut : kind === 2 ? [...cut, ...added] : from
      ).slice(-180);
      const count = 1 + below(6);
      const one = writer(count);
      const other = kind === 3 ? writer(2) : undefined;
      const beside = other && scheduler.run(texts[0]!, { next: other.next, ...whole, trace: false });
      await scheduler.run(prompt, { next: one.next, ...whole, trace: false });
      await beside;
      const key = `${count}: ${prompt}`;
      const wanted = known.get(key) ?? (await alone(prompt, count, program)).seen;
      known.set(key, wanted);
      expect(one.seen).toEqual(wanted);
      // A stop string that ends inside the last token: the text is cut, the tokens stay.
      texts.push(below(2) === 0 ? [...prompt, ...one.tokens] : [...prompt, ...one.tokens.slice(0, -1)]);
      if (texts.length > 12) texts = texts.slice(-8);
    }
    expect(scheduler.cacheCounts.hits).toBeGreaterThan(300);
  },
  240_000,
);
