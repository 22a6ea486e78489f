// The native backend against js: every instruction set this CPU has, 1 to 3 threads.

import { describe, expect, test } from 'vitest';
import { CpuExecutable, cpuBackend } from '../../src/engine/cpu/backend.ts';
import { loadNative } from '../../src/engine/cpu/native.ts';
import { jsBackend } from '../../src/engine/js/backend.ts';
import { differentialSuite, expectSameBits } from '../kernels/differential.ts';
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

  for (const isa of usable) {
    for (const threads of [1, 2, 3]) {
      differentialSuite(`${isa}, ${threads} threads`, (program) => cpuBackend.load(program, { isa, threads }));
    }

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
      expect(counters.ternaryMatrix).toBeGreaterThan(0);
      expect(counters.ternaryVector).toBeGreaterThan(0);
      expect(counters.int8).toBeGreaterThan(0);
      expect(counters.attention).toBeGreaterThan(0);
    });
  }
});
