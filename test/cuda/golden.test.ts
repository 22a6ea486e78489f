// Whole models through the kernels' own text on the emulator: the logits of every golden case have the bits of the js backend,
// for the prompt at once, cut into chunks, and token after token.

import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import type { Executable } from '../../src/engine/backend.ts';
import { jsBackend } from '../../src/engine/js/backend.ts';
import { openModel } from '../../src/model/open-model.ts';
import { feed } from '../metal/tiny-programs.ts';
import { FAKE_MISSING, loadOnFake, SCHEDULES, withSettings } from './fake-driver.ts';

const golden = join(import.meta.dirname, '../golden');
const cases = ['model', 'qwen3'].flatMap((room) =>
  readdirSync(join(golden, room), { withFileTypes: true })
    .filter((entry) => entry.isDirectory())
    .map(({ name }) => `${room}/${name}`),
);

/** The model of a case: the folder itself, or the first of the containers in it. */
function modelOf(dir: string) {
  const names = readdirSync(dir);
  if (names.includes('config.json')) return { kind: 'folder', path: dir } as const;
  const first = names.filter((name) => !name.startsWith('expected'))[0]!;
  return { kind: first.endsWith('.gguf') ? 'gguf' : 'folder', path: join(dir, first) } as const;
}

const bits = (values: Float32Array) => new Uint32Array(values.buffer, values.byteOffset, values.length);

/** Logits of all rows of the prompt in chunks, then of three tokens one by one. */
async function logitsOf(executable: Executable, prompt: readonly number[], chunk: number): Promise<Uint32Array[]> {
  const sequence = executable.createSequence();
  const all: Uint32Array[] = [];
  for (let at = 0; at < prompt.length; at += chunk) {
    const part = prompt.slice(at, at + chunk);
    all.push(bits((await feed(executable, sequence, part, { outputRows: part.map((_, i) => i) })).logits));
  }
  for (const token of prompt.slice(0, 3)) {
    all.push(bits((await feed(executable, sequence, [token], { outputRows: [0] })).logits));
  }
  executable.freeSequence(sequence);
  return all;
}

describe.skipIf(FAKE_MISSING !== undefined)('golden cases on the emulator', () => {
  test('the cases are there', () => expect(cases.length).toBeGreaterThanOrEqual(24));

  test.each(cases.map((name, i) => [name, SCHEDULES[i % SCHEDULES.length]!] as const))(
    '%s, schedule %i',
    { timeout: 300_000 },
    async (name, schedule) => {
      const dir = join(golden, name);
      const expected = JSON.parse(readFileSync(join(dir, 'expected.json'), 'utf8')) as { input_ids: number[] };
      const prompt = expected.input_ids.slice(0, 12);
      await withSettings({ FAKE_CUDA_SCHEDULE: String(schedule) }, async () => {
        // A group-scaled head stays what it is.
        for (const head of name.startsWith('qwen3') ? (['full'] as const) : (['full', 'int8'] as const)) {
          const { program } = await openModel(modelOf(dir), { name, head });
          using reference = await jsBackend.load(program, {});
          const wanted = await logitsOf(reference, prompt, prompt.length);
          using executable = loadOnFake(program, { phases: schedule === 1 });
          expect(await logitsOf(executable, prompt, prompt.length)).toEqual(wanted);
          if (head === 'full' && !name.startsWith('qwen3')) continue;
          const chunks = await logitsOf(executable, prompt, 5);
          const rows = chunks.slice(0, Math.ceil(prompt.length / 5)).map((part) => [...part]);
          expect(Uint32Array.from(rows.flat())).toEqual(wanted[0]);
        }
      });
    },
  );
});
