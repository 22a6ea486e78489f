// Hybrid and mixture models as they are recorded, whole tokens: every golden case of group-scaled matrices has, through the
// kernels' own text, the very bits of the js backend, in one piece, in chunks and beside another sequence.

import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import type { Executable, SequenceId } from '../../src/engine/backend.ts';
import { jsBackend } from '../../src/engine/js/backend.ts';
import { checkProgram, isExact, isHybrid, planProgram } from '../../src/engine/metal/plan.ts';
import { openModel } from '../../src/model/open-model.ts';
import { HYBRID_SHAPES, randomHybrid } from '../kernels/hybrid-program.ts';
import { FAKE_MISSING, figures, loadOnFake, SCHEDULES, withSchedule } from './fake-device.ts';
import { relativeError, someTokens } from './tiny-programs.ts';

const golden = join(import.meta.dirname, '../golden/hybrid');
const cases = readdirSync(golden).filter((name) => /_s\d+$/.test(name));

/** Of a case without group-scaled matrices: largest difference to the js backend, as a share of the largest logit. */
const JS_TOLERANCE = 1e-5;

const floats = (of: Buffer) => new Float32Array(Uint8Array.from(of).buffer);
const bits = (values: Float32Array) => Buffer.from(values.buffer, values.byteOffset, values.byteLength);

async function together(executable: Executable, parts: readonly (readonly [SequenceId, readonly number[]])[]) {
  const tokens = parts.flatMap(([, ids]) => ids);
  const { logits } = await executable.step({
    tokens: Int32Array.from(tokens),
    sequences: Int32Array.from(parts.flatMap(([sequence, ids]) => ids.map(() => sequence))),
    positions: Int32Array.from(
      parts.flatMap(([sequence, ids]) => ids.map((_, i) => executable.sequenceLength(sequence) + i)),
    ),
    outputRows: Int32Array.from(tokens, (_, i) => i),
  });
  return bits(logits);
}

const open = async (name: string) => {
  const path = join(golden, name, 'model.gguf');
  const { program } = await openModel({ kind: 'gguf', path }, { name, head: 'full' });
  return program;
};

test('the cases are there, and all need what hybrid programs need', async () => {
  expect(cases.length).toBeGreaterThanOrEqual(5);
  for (const name of cases) expect([name, isHybrid(await open(name))]).toEqual([name, true]);
});

test('rotations of rotated models join the chains before their products, but for that of the embedding', async () => {
  for (const name of cases.filter((found) => found.startsWith('hadamard'))) {
    const program = await open(name);
    const { runs } = planProgram(program, { traced: false });
    const alone = runs.filter(({ run }) => run === 'hadamard').length;
    const joined = runs.filter((run) => run.run === 'rows' && run.rotate !== undefined).length;
    expect([name, alone, alone + joined]).toEqual([name, 1, program.ops.filter(({ op }) => op === 'hadamard').length]);
  }
});

test('a planner for whatever is recorded: the random programs of the differential tests', () => {
  for (const [name, shape] of Object.entries(HYBRID_SHAPES)) {
    const program = randomHybrid(shape, 5);
    expect(() => checkProgram(program), name).not.toThrow();
    expect(planProgram(program, { traced: true }).runs.length).toBeGreaterThan(0);
  }
});

const skip = FAKE_MISSING === undefined ? '' : ` (SKIPPED: ${FAKE_MISSING})`;

describe.skipIf(FAKE_MISSING !== undefined)(`golden hybrid cases in the grid emulator${skip}`, () => {
  test.each(cases.map((name, i) => [name, SCHEDULES[i % SCHEDULES.length]!] as const))(
    '%s, schedule %i',
    { timeout: 900_000 },
    async (name, schedule) => {
      const { input_ids: ids } = JSON.parse(readFileSync(join(golden, name, 'expected.json'), 'utf8')) as {
        input_ids: number[];
      };
      const program = await open(name);
      using js = await jsBackend.load(program, {});
      const wanted = await together(js, [[js.createSequence(), ids]]);
      await withSchedule(schedule, async () => {
        using executable = loadOnFake(program);
        const idle = figures().idleGroups;
        const whole = await together(executable, [[executable.createSequence(), ids]]);
        if (isExact(program)) expect(Buffer.compare(whole, wanted)).toBe(0);
        else expect(relativeError(floats(wanted), floats(whole))).toBeLessThan(JS_TOLERANCE);
        expect(figures().idleGroups).toBe(idle);
        const rows = (from: number, to: number) =>
          whole.subarray(4 * from * program.vocabSize, 4 * to * program.vocabSize);

        // Chunks for the kernels of one, two, four and many tokens; a fork goes on beside its origin.
        const sequence = executable.createSequence();
        let at = 0;
        for (const size of [3, 1, 2, 10]) {
          const part = await together(executable, [[sequence, ids.slice(at, at + size)]]);
          expect([at, Buffer.compare(part, rows(at, at + size))]).toEqual([at, 0]);
          at += size;
        }
        const fork = executable.fork(sequence, at);
        const both = await together(executable, [
          [fork, ids.slice(at, at + 1)],
          [sequence, ids.slice(at, at + 2)],
        ]);
        expect(Buffer.compare(both, Buffer.concat([rows(at, at + 1), rows(at, at + 2)]))).toBe(0);
      });
    },
  );

  test.each(Object.keys(HYBRID_SHAPES).map((name, i) => [name, SCHEDULES[i % SCHEDULES.length]!] as const))(
    'random program %s, schedule %i: the bits of js',
    { timeout: 900_000 },
    async (name, schedule) => {
      const program = randomHybrid(HYBRID_SHAPES[name]!, 7);
      using js = await jsBackend.load(program, {});
      using executable = loadOnFake(program);
      for (const each of [js, executable]) for (let i = 0; i < 2; i += 1) each.createSequence();
      for (const parts of [
        [[0, 9]],
        [
          [1, 2],
          [0, 1],
        ],
        [
          [0, 2],
          [1, 12],
        ],
      ] as const) {
        const rows = parts.map(([sequence, count]) => [sequence, someTokens(count, program.vocabSize, count)] as const);
        const wanted = await together(js, rows);
        const found = await withSchedule(schedule, () => together(executable, rows));
        expect([parts, Buffer.compare(found, wanted)]).toEqual([parts, 0]);
      }
    },
  );
});
