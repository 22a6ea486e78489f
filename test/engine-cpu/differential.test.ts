// The native backend against js: every instruction set this CPU has, 1 to 3 threads.

import { describe, expect, test } from 'vitest';
import { CpuExecutable, cpuBackend } from '../../src/engine/cpu/backend.ts';
import { loadNative } from '../../src/engine/cpu/native.ts';
import { jsBackend } from '../../src/engine/js/backend.ts';
import { differentialSuite, expectSameBits } from '../kernels/differential.ts';
import { HYBRID_SHAPES, randomHybrid } from '../kernels/hybrid-program.ts';
import { randomProgram, SHAPES } from '../kernels/random-program.ts';

const native = await loadNative();

describe.skipIf('reason' in native)('native kernels', () => {
  const usable = 'addon' in native ? native.addon.isas().usable : [];
  test('rotation tables that grow with the steps give the bits of complete ones', async () => {
    // Two of the same: who computes first must not complete the other's tables.
    const [ours, theirs] = [randomProgram(SHAPES.multiHead!, 7), randomProgram(SHAPES.multiHead!, 7)];
    using executable = await cpuBackend.load(ours, { threads: 2 });
    using reference = await jsBackend.load(theirs, {});
    const sequences = [executable, reference].map((one) => one.createSequence());
    let at = 0;
    for (const n of [3, 1, 1, 6, 1]) {
      const step = (sequence: number) => ({
        tokens: Int32Array.from({ length: n }, (_, i) => (at + i) % ours.vocabSize),
        sequences: new Int32Array(n).fill(sequence),
        positions: Int32Array.from({ length: n }, (_, i) => at + i),
        outputRows: Int32Array.from({ length: n }, (_, i) => i),
      });
      const { logits } = await executable.step(step(sequences[0]!));
      // Nobody has asked for more yet.
      expect(
        ours.rope.upTo!(0)
          .cos.subarray(((at + n) * ours.rope.rotaryDim) / 2)
          .every((cos) => cos === 0),
      ).toBe(true);
      expectSameBits(logits, (await reference.step(step(sequences[1]!))).logits, `from position ${at}`);
      at += n;
    }
  });

  const feed = (executable: CpuExecutable, sequence: number, rows: number) => {
    const at = executable.sequenceLength(sequence);
    return executable.step({
      tokens: new Int32Array(rows),
      sequences: new Int32Array(rows).fill(sequence),
      positions: Int32Array.from({ length: rows }, (_, i) => at + i),
      outputRows: new Int32Array(0),
    });
  };

  test('the threads are told, and the program disposed of, while a step runs', async () => {
    const executable = await cpuBackend.load(randomProgram(SHAPES.tiny!, 1), { threads: 2 });
    const sequence = executable.createSequence();
    for (let i = 0; i < 3; i += 1) {
      const running = feed(executable, sequence, 1);
      expect(executable.threadsUsed()).toEqual({ generation: 2, prompt: 2 });
      await running;
    }
    const last = feed(executable, sequence, 1);
    executable[Symbol.dispose]();
    expect(executable.threadsUsed()).toEqual({ generation: 2, prompt: 2 });
    await last;
  });

  test('a cache of windows only is as long as they are, and forks share it', async () => {
    using executable = await cpuBackend.load(randomHybrid(HYBRID_SHAPES.bounded!, 3, 2048), { threads: 1 });
    const kv = () => executable.nativeInfo().memory.kv;
    const sequence = executable.createSequence();
    await feed(executable, sequence, 64);
    const block = kv();
    // A window of 20 lies in two blocks at the most; a step needs those of its rows besides.
    let most = 0;
    for (let i = 0; i < 60; i += 1) {
      await feed(executable, sequence, 32);
      most = Math.max(most, kv());
    }
    expect(executable.sequenceLength(sequence)).toBe(64 + 60 * 32);
    expect(most).toBeLessThanOrEqual(2 * block);
    const before = kv();
    const fork = executable.fork(sequence, executable.sequenceLength(sequence));
    expect(kv()).toBe(before);
    executable.freeSequence(sequence);
    executable.freeSequence(fork);
    expect(kv()).toBe(0);
  });

  test('a cache of full layers beside windows keeps only theirs', async () => {
    const shape = HYBRID_SHAPES.windows!;
    const kvOf = async (layers: typeof shape.layers) => {
      using executable = await cpuBackend.load(randomHybrid({ ...shape, layers }, 3, 2048), { threads: 1 });
      const sequence = executable.createSequence();
      for (let i = 0; i < 16; i += 1) await feed(executable, sequence, 64);
      return executable.nativeInfo().memory.kv;
    };
    // 16 blocks of 64 positions; of the three windows, the largest of 70, two.
    const [mixed, full] = [await kvOf(shape.layers), await kvOf(['full'])];
    expect(mixed / full).toBeCloseTo(1 + (3 * 2) / 16, 1);
  });

  test('recurrent states take what they hold, from the first step to the end of their sequence', async () => {
    const program = randomHybrid(HYBRID_SHAPES.rotated!, 3);
    using executable = await cpuBackend.load(program, { threads: 1 });
    const bytes = () => executable.nativeInfo().memory.recurrent;
    const sequence = executable.createSequence();
    expect(bytes()).toBe(0);
    await feed(executable, sequence, 3);
    const one = program.recurrent!.reduce((sum, { width }) => sum + 4 * width, 0);
    expect(bytes()).toBe(one);
    const fork = executable.fork(sequence, 3);
    expect(bytes()).toBe(2 * one);
    executable.truncate(sequence, 0);
    executable.freeSequence(fork);
    expect(bytes()).toBe(0);
    expect(executable.nativeInfo().counters.delta).toBeGreaterThan(0);
  });

  for (const isa of usable) {
    for (const threads of [1, 2, 3]) {
      differentialSuite(`${isa}, ${threads} threads`, (program) => cpuBackend.load(program, { isa, threads }));
    }

    test(`${isa}: threads that share the keys of a row leave the bits as they are`, async () => {
      for (const program of [
        randomProgram(SHAPES.odd!, 3, 700),
        randomProgram({ ...SHAPES.int8Head!, headDim: 64 }, 4, 700),
        randomProgram({ ...SHAPES.int8Head!, headDim: 128, heads: 8 }, 5, 700),
        randomHybrid(HYBRID_SHAPES.windows!, 6, 700),
      ]) {
        const [one, ...more] = await Promise.all(
          [1, 3, 5].map((threads) => cpuBackend.load(program, { isa, threads })),
        );
        const executables = [one!, ...more];
        const sequences = executables.map((executable) => [executable.createSequence(), executable.createSequence()]);
        // A long text and a shorter one, alone and together.
        for (const [rows, others] of [
          [600, 0],
          [1, 0],
          [0, 300],
          [1, 1],
          [2, 3],
          [1, 0],
        ] as const) {
          const results = [];
          for (const [i, executable] of executables.entries()) {
            const parts = [rows, others].flatMap((n, which) =>
              Array.from({ length: n }, (_, k) => {
                const sequence = sequences[i]![which]!;
                return { sequence, position: executable.sequenceLength(sequence) + k };
              }),
            );
            const { logits } = await executable.step({
              tokens: Int32Array.from(parts, ({ position }) => (position * 5) % program.vocabSize),
              sequences: Int32Array.from(parts, ({ sequence }) => sequence),
              positions: Int32Array.from(parts, ({ position }) => position),
              outputRows: Int32Array.from(parts, (_, at) => at),
            });
            results.push(logits);
          }
          for (const logits of results.slice(1)) expectSameBits(logits, results[0]!, `${rows} and ${others} rows`);
        }
        const counts = executables.map((executable) => executable.nativeInfo().counters.attention);
        expect(new Set(counts).size).toBe(1);
        for (const executable of executables) executable[Symbol.dispose]();
      }
    });

    test(`${isa}: the kernels that the results came from are its own`, async () => {
      using executable = await cpuBackend.load(randomProgram(SHAPES.int8Head!, 1), { isa, threads: 2 });
      expect(executable).toBeInstanceOf(CpuExecutable);
      expect(executable.info).toMatchObject({ backend: 'cpu', isa, threads: 2 });
      const sequence = executable.createSequence();
      for (const n of [5, 1]) {
        await executable.step({
          tokens: new Int32Array(n),
          sequences: new Int32Array(n).fill(sequence),
          positions: Int32Array.from({ length: n }, (_, i) => executable.sequenceLength(sequence) + i),
          outputRows: Int32Array.of(n - 1),
        });
      }
      const { counters } = executable.nativeInfo();
      expect(executable.threadsUsed()).toEqual({ generation: 2, prompt: 2 });
      executable[Symbol.dispose]();
      expect(executable.threadsUsed()).toEqual({ generation: 2, prompt: 2 });
      expect(counters.ternaryMatrix).toBeGreaterThan(0);
      expect(counters.ternaryVector).toBeGreaterThan(0);
      expect(counters.int8).toBeGreaterThan(0);
      expect(counters.attention).toBeGreaterThan(0);
    });
  }
});
