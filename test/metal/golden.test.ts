// Whole tokens: every golden model case through the kernels' own text, against the logits that Hugging Face's code
// computed and against the js backend. The emulator's order of summation and of threads changes from case to case.

import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import type { Executable } from '../../src/engine/backend.ts';
import { jsBackend } from '../../src/engine/js/backend.ts';
import { openCheckpoint } from '../../src/formats/open-checkpoint.ts';
import { openModel } from '../../src/model/open-model.ts';
import { toFloat32 } from '../../src/quant/to-float32.ts';
import { FAKE_MISSING, loadOnFake, SCHEDULES, withSchedule } from './fake-device.ts';
import { feed, relativeError } from './tiny-programs.ts';

const golden = join(import.meta.dirname, '../golden/model');
const cases = readdirSync(golden, { withFileTypes: true })
  .filter((entry) => entry.isDirectory())
  .map(({ name }) => name);

/** Cases whose greedy tokens are all checked. */
const WHOLE = ['bitnet_2b4t_style_d_s744', 'bitnet_packed_a_s111', 'llama_bitlinear_a_s411', 'onebitllm_a_s511'];

/** Largest logit difference to the js backend, as a share of the largest logit. */
const JS_TOLERANCE = 1e-5;

type Expected = {
  input_ids: number[];
  greedy: number[];
  greedy_certain: number;
  tolerance: { logits_max_abs: number };
  chunked_prefill?: { chunks: number[] };
};

function argmax(values: Float32Array): number {
  return values.reduce((best, v, i) => (v > values[best]! ? i : best), 0);
}

async function greedyTokens(executable: Executable, prompt: readonly number[], count: number): Promise<number[]> {
  const sequence = executable.createSequence();
  const written: number[] = [];
  let pending = [...prompt];
  while (written.length < count) {
    const { logits } = await feed(executable, sequence, pending, { outputRows: [pending.length - 1] });
    pending = [argmax(logits)];
    written.push(pending[0]!);
  }
  return written;
}

describe.skipIf(FAKE_MISSING !== undefined)('golden model cases in the grid emulator', () => {
  test('the cases are there', () => expect(cases.length).toBeGreaterThanOrEqual(15));

  test.each(cases.map((name, i) => [name, SCHEDULES[i % SCHEDULES.length]!] as const))(
    '%s, schedule %i',
    { timeout: 120_000 },
    async (name, schedule) => {
      const dir = join(golden, name);
      const expected = JSON.parse(readFileSync(join(dir, 'expected.json'), 'utf8')) as Expected;
      const { program } = await openModel({ kind: 'folder', path: dir }, { name, head: 'full' });
      using reference = await openCheckpoint(join(dir, 'expected.safetensors'));
      const wanted = toFloat32(await reference.read('logits'));
      using js = await jsBackend.load(program, {});
      using executable = loadOnFake(program);
      await withSchedule(schedule, async () => {
        const ids = expected.input_ids;
        const { logits } = await feed(executable, executable.createSequence(), ids);
        let worst = 0;
        logits.forEach((v, i) => {
          worst = Math.max(worst, Math.abs(v - wanted[i]!));
        });
        expect(worst).toBeLessThanOrEqual(expected.tolerance.logits_max_abs);
        const { logits: exact } = await feed(js, js.createSequence(), ids);
        expect(relativeError(exact, logits)).toBeLessThan(JS_TOLERANCE);

        // In pieces through the KV cache, or token by token where the case names no pieces: the same bits.
        const pieces = expected.chunked_prefill?.chunks ?? ids.map(() => 1);
        const sequence = executable.createSequence();
        let at = 0;
        for (const size of pieces) {
          const part = await feed(executable, sequence, ids.slice(at, at + size));
          const from = at * program.vocabSize;
          expect(part.logits).toEqual(logits.slice(from, from + size * program.vocabSize));
          at += size;
        }
        // All of the required tokens for one case of each graph, a few for the others: emulation is slow.
        const certain = expected.greedy.slice(0, Math.min(expected.greedy_certain, WHOLE.includes(name) ? 24 : 4));
        expect(await greedyTokens(executable, ids, certain.length)).toEqual(certain);
      });
    },
  );
});
