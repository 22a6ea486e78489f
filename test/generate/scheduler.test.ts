// Whatever shares a step (other generations, drafts, cached prefixes), a generation's tokens must be those it would have
// had alone.

import { describe, expect, test } from 'vitest';
import type { Executable, Step } from '../../src/engine/backend.ts';
import { NonFiniteError } from '../../src/engine/backend.ts';
import { jsBackend } from '../../src/engine/js/backend.ts';
import { CancelledError } from '../../src/errors.ts';
import { chooseToken, type LogitRow } from '../../src/generate/sampler.ts';
import { Scheduler, type SchedulerOptions } from '../../src/generate/scheduler.ts';
import { randomProgram, whole } from './helpers.ts';

const program = randomProgram();
const plain: SchedulerOptions = { maxRows: 64, maxDrafts: 0, cachedTokens: 0, contextLength: 128 };

/** The executable with a record of its steps. */
async function watched(): Promise<{ executable: Executable; steps: Step[] }> {
  const executable = await jsBackend.load(program, {});
  const steps: Step[] = [];
  const step = executable.step.bind(executable);
  executable.step = (input) => {
    steps.push(input);
    return step(input);
  };
  return { executable, steps };
}

function writer(count: number, temperature = 0) {
  const tokens: number[] = [];
  const next = ({ logits }: LogitRow) => {
    const options = { temperature, topK: 0, topP: 1, sampleSeed: 5n };
    tokens.push(chooseToken(logits, tokens.length, options).token);
    return tokens.length === count ? undefined : tokens.at(-1);
  };
  return { tokens, next };
}

async function alone(prompt: number[], count: number, temperature = 0): Promise<number[]> {
  const { executable } = await watched();
  const { tokens, next } = writer(count, temperature);
  await new Scheduler(executable, plain).run(prompt, { next, ...whole, trace: false });
  return tokens;
}

const prompts = [
  [0, 5, 9, 33],
  [0, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7],
  [0, 2],
  [0, 40, 41, 42, 43, 40, 41, 42, 43, 40, 41],
];

test('four generations at once write what each writes alone', async () => {
  const { executable, steps } = await watched();
  const scheduler = new Scheduler(executable, plain);
  const writers = prompts.map(() => writer(12));
  await Promise.all(
    prompts.map((prompt, i) => scheduler.run(prompt, { next: writers[i]!.next, ...whole, trace: false })),
  );
  expect(steps.some(({ sequences }) => new Set(sequences).size === 4)).toBe(true);
  for (const [i, prompt] of prompts.entries()) expect(writers[i]!.tokens).toEqual(await alone(prompt, 12));
});

test('a generation asked for while a step runs waits for its end: an executable takes one call at a time', async () => {
  const executable = await jsBackend.load(program, {});
  const step = executable.step.bind(executable);
  let running = false;
  const between = <A extends unknown[], R>(call: (...args: A) => R) => {
    return (...args: A): R => {
      if (running) throw new Error('a step of this program is running');
      return call(...args);
    };
  };
  executable.createSequence = between(executable.createSequence.bind(executable));
  executable.freeSequence = between(executable.freeSequence.bind(executable));
  executable.truncate = between(executable.truncate.bind(executable));
  executable.fork = between(executable.fork.bind(executable));
  executable.step = between(async (input) => {
    running = true;
    await new Promise((resolve) => setTimeout(resolve, 1));
    running = false;
    return step(input);
  });
  const scheduler = new Scheduler(executable, { ...plain, maxDrafts: 3, cachedTokens: 64 });
  const writers = prompts.map(() => writer(12));
  await Promise.all(
    prompts.map(async (prompt, i) => {
      await new Promise((resolve) => setTimeout(resolve, 3 * i));
      await scheduler.run(prompt, { next: writers[i]!.next, ...whole, trace: false });
    }),
  );
  for (const [i, prompt] of prompts.entries()) expect(writers[i]!.tokens).toEqual(await alone(prompt, 12));
});

test('reading a prompt is reported until it is read, and not after', async () => {
  const { executable } = await watched();
  const reported: number[] = [];
  const scheduler = new Scheduler(executable, { ...plain, maxRows: 5 });
  await scheduler.run(prompts[1]!, {
    next: writer(6).next,
    ...whole,
    trace: false,
    onPrompt: (done, total) => {
      expect(total).toBe(12);
      reported.push(done);
    },
  });
  expect(reported).toEqual([5, 10, 12]);
});

test('a step never has more rows than allowed, however many prompts wait', async () => {
  const { executable, steps } = await watched();
  const scheduler = new Scheduler(executable, { ...plain, maxRows: 3 });
  const writers = prompts.map(() => writer(4));
  await Promise.all(
    prompts.map((prompt, i) => scheduler.run(prompt, { next: writers[i]!.next, ...whole, trace: false })),
  );
  expect(Math.max(...steps.map(({ tokens }) => tokens.length))).toBeLessThanOrEqual(3);
  for (const [i, prompt] of prompts.entries()) expect(writers[i]!.tokens).toEqual(await alone(prompt, 4));
});

test('beside those that write, a step reads little; a short prompt is read at once, and a long one goes on', async () => {
  const { executable, steps } = await watched();
  const scheduler = new Scheduler(executable, { ...plain, maxRows: 128 });
  const long = (n: number) => Array.from({ length: 100 }, (_, i) => (i * n + n) % 61);
  const first = writer(3);
  const order: string[] = [];
  let more: Promise<unknown> = Promise.resolve();
  await scheduler.run([0, 1], {
    next: (logits) => {
      if (first.tokens.length === 0) {
        more = Promise.all([
          ...[5, 7, 11, 13, 17].map((n) =>
            scheduler
              .run(long(n), { next: writer(1).next, ...whole, trace: false })
              .then(() => order.push(`long ${n}`)),
          ),
          scheduler.run([0, 9, 9, 9], { next: writer(1).next, ...whole, trace: false }).then(() => order.push('short')),
        ]);
      }
      return first.next(logits);
    },
    ...whole,
    trace: false,
  });
  await more;
  // One row that writes, and 64 of prompts.
  expect(steps[1]!.tokens.length).toBe(65);
  expect(order[0]).toBe('short');
  expect(order).toHaveLength(6);
});

test('short prompts without end do not keep a long one waiting', async () => {
  const { executable } = await watched();
  const scheduler = new Scheduler(executable, { ...plain, maxRows: 16 });
  const long = writer(1);
  let isDone = false;
  const reading = scheduler
    .run(
      Array.from({ length: 100 }, (_, i) => (i * 7) % 61),
      { next: long.next, ...whole, trace: false },
    )
    .then(() => {
      isDone = true;
    });
  let shorts = 0;
  const ask = async (): Promise<void> => {
    while (!isDone) {
      shorts += 1;
      expect(shorts, 'the long one is read').toBeLessThan(500);
      await scheduler.run([0, shorts % 61, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12], {
        next: writer(1).next,
        ...whole,
        trace: false,
      });
    }
  };
  await Promise.all([reading, ask(), ask(), ask(), ask()]);
  expect(long.tokens).toHaveLength(1);
});

describe('drafts', () => {
  test.each([0, 0.9])('at temperature %f do not change the text, and some are taken', async (temperature) => {
    const prompt = prompts[3]!;
    const { executable, steps } = await watched();
    const { tokens, next } = writer(80, temperature);
    await new Scheduler(executable, { ...plain, maxDrafts: 5 }).run(prompt, { next, ...whole, trace: false });
    expect(tokens).toEqual(await alone(prompt, 80, temperature));
    expect(steps.slice(1).some(({ tokens: rows }) => rows.length > 1)).toBe(true);
    // A greedy random model falls into a loop, where guesses hit: fewer steps than tokens.
    if (temperature === 0) expect(steps.length).toBeLessThan(60);
  });

  test('stay inside the context', async () => {
    const { executable, steps } = await watched();
    const { tokens, next } = writer(128 - 11);
    await new Scheduler(executable, { ...plain, maxDrafts: 9 }).run(prompts[3]!, { next, ...whole, trace: false });
    expect(tokens.length).toBe(117);
    expect(Math.max(...steps.flatMap(({ positions }) => [...positions]))).toBeLessThan(128);
  });
});

describe('prefix cache', () => {
  const long = Array.from({ length: 40 }, (_, i) => (i * 7) % 61);

  test('a repeated prompt reads only its last token again, and writes the same', async () => {
    const { executable, steps } = await watched();
    const scheduler = new Scheduler(executable, { ...plain, cachedTokens: 200 });
    const [first, second] = [writer(6), writer(6)];
    await scheduler.run(long, { next: first.next, ...whole, trace: false });
    const before = steps.length;
    await scheduler.run(long, { next: second.next, ...whole, trace: false });
    expect(steps[before]!.tokens.length).toBe(1);
    expect(second.tokens).toEqual(first.tokens);
  });

  test('two prompts that branch share the stem', async () => {
    const { executable, steps } = await watched();
    const scheduler = new Scheduler(executable, { ...plain, cachedTokens: 400 });
    await scheduler.run(long, { next: writer(3).next, ...whole, trace: false });
    for (const branch of [
      [...long.slice(0, 30), 3, 3],
      [...long.slice(0, 30), 4, 4],
    ]) {
      const before = steps.length;
      const { tokens, next } = writer(5);
      await scheduler.run(branch, { next, ...whole, trace: false });
      expect(steps[before]!.tokens.length).toBe(2);
      expect(tokens).toEqual(await alone(branch, 5));
    }
  });

  test('keeps no more than its budget', async () => {
    const { executable } = await watched();
    const live = new Set<number>();
    const { createSequence, freeSequence } = executable;
    executable.createSequence = () => {
      const id = createSequence.call(executable);
      live.add(id);
      return id;
    };
    executable.freeSequence = (id) => {
      live.delete(id);
      freeSequence.call(executable, id);
    };
    const scheduler = new Scheduler(executable, { ...plain, cachedTokens: 50 });
    for (let i = 0; i < 6; i += 1)
      await scheduler.run([i, ...long.slice(0, 20)], { next: writer(2).next, ...whole, trace: false });
    const total = [...live].reduce((sum, id) => sum + executable.sequenceLength(id), 0);
    expect(total).toBeLessThanOrEqual(50);
    expect(live.size).toBeGreaterThan(0);
  });
});

describe('ends', () => {
  test('a fired signal rejects with CancelledError within a token', async () => {
    const { executable } = await watched();
    const controller = new AbortController();
    let written = 0;
    const next = () => {
      written += 1;
      if (written === 5) controller.abort();
      return 3;
    };
    const run = new Scheduler(executable, plain).run([0, 1], {
      next,
      ...whole,
      trace: false,
      signal: controller.signal,
    });
    await expect(run).rejects.toBeInstanceOf(CancelledError);
    expect(written).toBe(5);
  });

  test('a failing sequence does not end the others', async () => {
    const { executable } = await watched();
    const step = executable.step.bind(executable);
    executable.step = async (input) => {
      if (input.tokens.includes(60)) throw new NonFiniteError('a test');
      return step(input);
    };
    const scheduler = new Scheduler(executable, plain);
    const good = writer(6);
    const [bad, fine] = await Promise.allSettled([
      scheduler.run([0, 60], { next: writer(6).next, ...whole, trace: false }),
      scheduler.run(prompts[0]!, { next: good.next, ...whole, trace: false }),
    ]);
    expect(bad).toMatchObject({ status: 'rejected', reason: { code: 'NON_FINITE' } });
    expect(fine.status).toBe('fulfilled');
    expect(good.tokens).toEqual(await alone(prompts[0]!, 6));
  });

  test('an error in `next` ends that generation only', async () => {
    const { executable } = await watched();
    const scheduler = new Scheduler(executable, plain);
    const run = scheduler.run([0, 1], {
      next: () => {
        throw new Error('mine');
      },
      ...whole,
      trace: false,
    });
    await expect(run).rejects.toThrow('mine');
    expect(scheduler.active).toBe(0);
  });
});

describe('a prompt that begins as another one', () => {
  const prefix = Array.from({ length: 40 }, (_, i) => (7 * i + 3) % 61);
  const tails = [[1, 2], [5], [9, 9, 9], [60]];

  test('waits while that is read, and is read from where they part', async () => {
    const { executable, steps } = await watched();
    const scheduler = new Scheduler(executable, { ...plain, maxRows: 16 });
    const writers = tails.map(() => writer(6));
    await Promise.all(
      tails.map((tail, i) => scheduler.run([...prefix, ...tail], { next: writers[i]!.next, ...whole, trace: false })),
    );
    const rows = steps.reduce((sum, { tokens }) => sum + tokens.length, 0);
    // The prefix once, but for the 8 of it that are left after two steps, which the others do not wait for; the tails, and
    // 5 more tokens of each.
    expect(rows).toBe(40 + 3 * 8 + 7 + 4 * 5);
    for (const [i, tail] of tails.entries()) {
      expect(writers[i]!.tokens).toEqual(await alone([...prefix, ...tail], 6));
    }
  });

  test('is begun at once when both have little in common', async () => {
    const { executable, steps } = await watched();
    const scheduler = new Scheduler(executable, plain);
    const short = tails.map((tail) => [...prefix.slice(0, 12), ...tail]);
    const writers = short.map(() => writer(3));
    await Promise.all(
      short.map((prompt, i) => scheduler.run(prompt, { next: writers[i]!.next, ...whole, trace: false })),
    );
    expect(new Set(steps[0]!.sequences).size).toBe(4);
    for (const [i, prompt] of short.entries()) expect(writers[i]!.tokens).toEqual(await alone(prompt, 3));
  });

  test('is read all the same when the other one is cancelled in its middle', async () => {
    const { executable } = await watched();
    const scheduler = new Scheduler(executable, { ...plain, maxRows: 8 });
    const controller = new AbortController();
    const first = scheduler.run([...prefix, 1], {
      next: writer(3).next,
      ...whole,
      trace: false,
      signal: controller.signal,
      onPrompt: () => controller.abort(),
    });
    const { tokens, next } = writer(5);
    const second = scheduler.run([...prefix, 2], { next, ...whole, trace: false });
    await expect(first).rejects.toBeInstanceOf(CancelledError);
    await second;
    expect(tokens).toEqual(await alone([...prefix, 2], 5));
  });

  test('starts from one that is being written', async () => {
    const { executable, steps } = await watched();
    const scheduler = new Scheduler(executable, plain);
    const long = writer(20);
    let second: Promise<void> | undefined;
    const other = writer(4);
    await scheduler.run(prefix, {
      ...whole,
      trace: false,
      next: (logits) => {
        second ??= scheduler.run([...prefix, 11, 12], { next: other.next, ...whole, trace: false });
        return long.next(logits);
      },
    });
    await second;
    expect(steps.reduce((sum, { tokens }) => sum + tokens.length, 0)).toBe(40 + 19 + 2 + 3);
    expect(other.tokens).toEqual(await alone([...prefix, 11, 12], 4));
    expect(long.tokens).toEqual(await alone(prefix, 20));
  });
});

test('when much is kept, a new prompt takes over the oldest sequence that begins with the same token', async () => {
  const { executable } = await watched();
  let created = 0;
  const create = executable.createSequence.bind(executable);
  executable.createSequence = () => {
    created += 1;
    return create();
  };
  const scheduler = new Scheduler(executable, { ...plain, cachedTokens: 40 });
  const run = async (prompt: number[]) => {
    const { tokens, next } = writer(6);
    await scheduler.run(prompt, { next, ...whole, trace: false });
    expect(tokens).toEqual(await alone(prompt, 6));
  };
  for (const prompt of prompts) await run(prompt);
  const before = created;
  for (const prompt of prompts) await run([...prompt.slice(0, 1), 50, ...prompt.slice(1)]);
  expect(created).toBe(before);
  // None begins with 33.
  await run([33, 2]);
  expect(created).toBe(before + 1);
});
