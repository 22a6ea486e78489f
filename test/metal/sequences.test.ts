// Sequences over the paged KV cache: batches, forks, truncation and failures, against the js backend.

import { describe, expect, test } from 'vitest';
import type { Executable } from '../../src/engine/backend.ts';
import { KvCacheFullError } from '../../src/engine/gpu/kv-blocks.ts';
import { selfTestProgram } from '../../src/engine/gpu/self-test-programs.ts';
import { jsBackend } from '../../src/engine/js/backend.ts';
import { MetalError } from '../../src/engine/metal/addon.ts';
import { FAKE_MISSING, figures, loadOnFake, withSettings } from './fake-device.ts';
import { feed, relativeError, someTokens } from './tiny-programs.ts';

const program = selfTestProgram();
const TOLERANCE = 1e-5;

type Row = readonly [sequence: number, tokens: readonly number[]];

/** One step of several sequences; the last row of each is wanted. */
async function batch(executable: Executable, rows: readonly Row[]): Promise<Float32Array> {
  const tokens = rows.flatMap(([, ids]) => ids);
  let last = -1;
  const { logits } = await executable.step({
    tokens: Int32Array.from(tokens),
    sequences: Int32Array.from(rows.flatMap(([sequence, ids]) => ids.map(() => sequence))),
    positions: Int32Array.from(
      rows.flatMap(([sequence, ids]) => ids.map((_, i) => executable.sequenceLength(sequence) + i)),
    ),
    outputRows: Int32Array.from(
      rows.map(([, ids]) => {
        last += ids.length;
        return last;
      }),
    ),
  });
  return logits;
}

describe.skipIf(FAKE_MISSING !== undefined)('sequences on the fake device', () => {
  test('batches, forks and truncation follow the js backend', async () => {
    using reference = await jsBackend.load(program, {});
    using executable = loadOnFake(program);
    const both = [reference, executable];
    const sequences = both.map((e) => [e.createSequence(), e.createSequence(), e.createSequence()]);
    const same = async (work: (e: Executable, ids: number[]) => Promise<Float32Array>) => {
      const [expected, actual] = [await work(reference, sequences[0]!), await work(executable, sequences[1]!)];
      expect(relativeError(expected, actual)).toBeLessThan(TOLERANCE);
    };
    await same((e, [a, b, c]) =>
      batch(e, [
        [a!, someTokens(5, 96, 1)],
        [b!, someTokens(40, 96, 2)],
        [c!, [7]],
      ]),
    );
    await same((e, [a, b, c]) =>
      batch(e, [
        [c!, [1]],
        [a!, [2]],
        [b!, [3]],
      ]),
    );
    // Across a block boundary of 32 positions, and back.
    both.forEach((e, i) => {
      e.truncate(sequences[i]![1]!, 31);
      sequences[i]!.push(e.fork(sequences[i]![1]!, 30));
      e.freeSequence(sequences[i]![0]!);
    });
    await same((e, [, b, c, d]) =>
      batch(e, [
        [b!, [9, 8, 7]],
        [c!, [2]],
        [d!, someTokens(4, 96, 3)],
      ]),
    );
    // Freed blocks are used again.
    both.forEach((e, i) => {
      sequences[i]!.push(e.createSequence());
    });
    await same((e, [, b, , , f]) =>
      batch(e, [
        [f!, someTokens(33, 96, 4)],
        [b!, [50]],
      ]),
    );
    expect(executable.sequenceLength(sequences[1]![1]!)).toBe(35);
    expect(() => executable.truncate(sequences[1]![1]!, 36)).toThrow(RangeError);
    expect(() => executable.fork(sequences[1]![1]!, 36)).toThrow(RangeError);
    expect(() => executable.sequenceLength(999)).toThrow(RangeError);
  });

  test('a long step is cut into command buffers without a trace in the results', async () => {
    using whole = loadOnFake(program);
    using cut = loadOnFake(program, { maxRows: 4 });
    for (const executable of [whole, cut]) {
      for (let i = 0; i < 3; i += 1) executable.createSequence();
    }
    // Cuts in the middle of sequences, at their ends, and one sequence over three parts.
    for (const rows of [
      [
        [0, someTokens(3, 96, 1)],
        [1, someTokens(10, 96, 2)],
        [2, someTokens(1, 96, 3)],
      ],
      [
        [2, someTokens(4, 96, 4)],
        [0, someTokens(4, 96, 5)],
        [1, [1]],
      ],
    ] as const) {
      const before = figures().commandBuffers;
      const expected = await batch(whole, rows);
      const between = figures().commandBuffers;
      const actual = await batch(cut, rows);
      expect(between - before).toBe(1);
      expect(figures().commandBuffers - between).toBe(Math.ceil(rows.reduce((n, [, ids]) => n + ids.length, 0) / 4));
      expect(actual).toEqual(expected);
    }
  });

  test('counts of trits come from every part of a cut step', async () => {
    const { ProgramBuilder } = await import('./tiny-programs.ts');
    const p = new ProgramBuilder(1);
    const x = p.data(20);
    p.ops.push({ op: 'countTrits', x, index: 0 });
    const tiny = p.finish(x, 1);
    using reference = await jsBackend.load(tiny, {});
    using executable = loadOnFake(tiny, { maxRows: 7 });
    const tokens = someTokens(23, 20, 1);
    const options = { trace: true, outputRows: [0, 6, 7, 22] };
    const expected = await feed(reference, reference.createSequence(), tokens, options);
    const actual = await feed(executable, executable.createSequence(), tokens, options);
    expect(actual).toEqual(expected);
  });

  test('no logits wanted: none come, and the cache is filled all the same', async () => {
    using executable = loadOnFake(program);
    const [a, b] = [executable.createSequence(), executable.createSequence()];
    expect((await feed(executable, a, [1, 2, 3], { outputRows: [] })).logits.length).toBe(0);
    await feed(executable, b, [1, 2, 3]);
    expect((await feed(executable, a, [4])).logits).toEqual((await feed(executable, b, [4])).logits);
  });

  test('a failed command buffer is our error and leaves the sequences as they were', async () => {
    using executable = loadOnFake(program);
    const sequence = executable.createSequence();
    const other = executable.createSequence();
    await feed(executable, sequence, [1, 2]);
    await feed(executable, other, [1, 2]);
    await withSettings({ FAKE_METAL_FAIL: '1' }, async () => {
      const failed = feed(executable, sequence, someTokens(40, 96, 1));
      await expect(failed).rejects.toThrow(MetalError);
      await expect(failed).rejects.toThrow('the GPU was lost');
    });
    expect(executable.sequenceLength(sequence)).toBe(2);
    expect((await feed(executable, sequence, [3])).logits).toEqual((await feed(executable, other, [3])).logits);
  });

  test('a KV cache larger than a Metal buffer is refused, and the sequence survives', async () => {
    // A block has 2 layers x (keys, values) x 2 heads x 32 positions x 12 floats = 12 KiB: two fit.
    await withSettings({ FAKE_METAL_BUFFER_LIMIT: String(2 * 12288) }, async () => {
      using executable = loadOnFake(program);
      const [a, b] = [executable.createSequence(), executable.createSequence()];
      for (const sequence of [a, b]) await feed(executable, sequence, someTokens(32, 96, 1), { outputRows: [31] });
      await expect(feed(executable, a, [1])).rejects.toThrow(KvCacheFullError);
      expect(executable.sequenceLength(a)).toBe(32);
      executable.freeSequence(b);
      await feed(executable, a, [1]);
    });
  });

  test('two steps at once and a step after dispose are refused', async () => {
    const executable = loadOnFake(program);
    const [a, b] = [executable.createSequence(), executable.createSequence()];
    const first = feed(executable, a, [1]);
    await expect(feed(executable, b, [1])).rejects.toThrow('one step at a time');
    expect(() => executable[Symbol.dispose]()).toThrow('while a step runs');
    await first;
    executable[Symbol.dispose]();
    await expect(feed(executable, b, [1])).rejects.toThrow(RangeError);
  });
});
