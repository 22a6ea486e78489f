// The native backend against js: every instruction set this CPU has, 1 to 3 threads.

import { describe, expect, test } from 'vitest';
import { CpuExecutable, cpuBackend } from '../../src/engine/cpu/backend.ts';
import { loadNative } from '../../src/engine/cpu/native.ts';
import { differentialSuite } from '../kernels/differential.ts';
import { randomProgram, SHAPES } from '../kernels/random-program.ts';

const native = await loadNative();

describe.skipIf('reason' in native)('native kernels', () => {
  const usable = 'addon' in native ? native.addon.isas().usable : [];
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
