// Group-scaled models, whole tokens: every golden Qwen3 case through the kernels' own text has the very bits of the js
// backend, from every container, in chunks and beside other sequences. The emulator's order of summation and of threads
// changes from case to case: none of it may show.

import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import type { Executable, SequenceId } from '../../src/engine/backend.ts';
import { jsBackend } from '../../src/engine/js/backend.ts';
import { openModel } from '../../src/model/open-model.ts';
import { FAKE_MISSING, figures, loadOnFake, SCHEDULES, withSchedule } from './fake-device.ts';
import { feed } from './tiny-programs.ts';

const golden = join(import.meta.dirname, '../golden/qwen3');
const cases = readdirSync(golden).filter((name) => name.startsWith('qwen3_'));
const containersOf = (dir: string) => readdirSync(dir).filter((name) => !name.startsWith('expected'));

function open(path: string) {
  return openModel({ kind: path.endsWith('.gguf') ? 'gguf' : 'folder', path }, { name: path, head: 'full' });
}

const bits = (values: Float32Array) => Buffer.from(values.buffer, values.byteOffset, values.byteLength);

/** One step over several sequences, every row wanted. */
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
  return logits;
}

const skip = FAKE_MISSING === undefined ? '' : ` (SKIPPED: ${FAKE_MISSING})`;

describe.skipIf(FAKE_MISSING !== undefined)(`golden group-scaled cases in the grid emulator${skip}`, () => {
  test('the cases are there', () => expect(cases.length).toBeGreaterThanOrEqual(5));

  test.each(cases.map((name, i) => [name, SCHEDULES[i % SCHEDULES.length]!] as const))(
    '%s, schedule %i: the bits of js',
    { timeout: 900_000 },
    async (name, schedule) => {
      const dir = join(golden, name);
      const { input_ids: ids, greedy } = JSON.parse(readFileSync(join(dir, 'expected.json'), 'utf8')) as {
        input_ids: number[];
        greedy: number[];
      };
      const [first, ...others] = containersOf(dir);
      const { program } = await open(join(dir, first!));
      using js = await jsBackend.load(program, {});
      const { logits: wanted } = await feed(js, js.createSequence(), ids);
      const row = (from: number, to: number) => wanted.subarray(from * program.vocabSize, to * program.vocabSize);
      const same = (actual: Float32Array, expected: Float32Array, what: string) =>
        expect(Buffer.compare(bits(actual), bits(expected)), what).toBe(0);
      await withSchedule(schedule, async () => {
        using executable = loadOnFake(program);
        const idle = figures().idleGroups;
        same((await feed(executable, executable.createSequence(), ids)).logits, wanted, 'in one piece');
        expect(figures().idleGroups).toBe(idle);

        // Chunks take the kernels for one, two, four and many tokens.
        for (const chunk of [1, 2, 7, 12]) {
          const sequence = executable.createSequence();
          for (let at = 0; at < ids.length; at += chunk) {
            const piece = ids.slice(at, at + chunk);
            const { logits } = await feed(executable, sequence, piece);
            same(logits, row(at, at + piece.length), `chunks of ${chunk}, at ${at}`);
          }
          executable.freeSequence(sequence);
        }

        // A batch: three sequences at different places, then one token of each.
        const starts = [3, 5, ids.length - 2];
        const sequences = starts.map(() => executable.createSequence());
        const prompts = starts.map((length, i) => [sequences[i]!, ids.slice(0, length)] as const);
        const all = await together(executable, prompts);
        same(all, new Float32Array(starts.flatMap((length) => [...row(0, length)])), 'three prompts at once');
        const next = await together(
          executable,
          starts.map((length, i) => [sequences[i]!, [ids[length]!]] as const),
        );
        same(next, new Float32Array(starts.flatMap((length) => [...row(length, length + 1)])), 'a token of each');

        // What the model goes on to write.
        const sequence = executable.createSequence();
        let pending: number[] = ids;
        for (const token of greedy.slice(0, 4)) {
          const { logits } = await feed(executable, sequence, pending, { outputRows: [pending.length - 1] });
          expect(logits.reduce((best, v, i) => (v > logits[best]! ? i : best), 0)).toBe(token);
          pending = [token];
        }
      });
      for (const container of others) {
        const other = await open(join(dir, container));
        using executable = loadOnFake(other.program);
        same((await feed(executable, executable.createSequence(), ids)).logits, wanted, container);
      }
    },
  );
});
