// The real thing, on a Mac: the addon over Apple's Metal, every golden case. Elsewhere it is skipped; with REQUIRE_METAL=1
// (the macOS workflow) a backend that does not work is a failure.

import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { hybridSelfTestProgram } from '../../src/engine/gpu/self-test-programs.ts';
import { jsBackend } from '../../src/engine/js/backend.ts';
import { metalBackend } from '../../src/engine/metal/backend.ts';
import { openCheckpoint } from '../../src/formats/open-checkpoint.ts';
import { openModel } from '../../src/model/open-model.ts';
import { toFloat32 } from '../../src/quant/to-float32.ts';
import { feed } from './tiny-programs.ts';

const reason = process.platform === 'darwin' ? await metalBackend.unavailable() : 'not on macOS';
if (process.platform === 'darwin' && reason !== undefined) {
  process.stderr.write(`\nSKIPPED: the golden models do not run on Metal here: ${reason}\n\n`);
}

const golden = join(import.meta.dirname, '../golden/model');
const cases = readdirSync(golden, { withFileTypes: true })
  .filter((entry) => entry.isDirectory())
  .map(({ name }) => name);

test.runIf(process.env.REQUIRE_METAL === '1')('Metal works here', () => expect(reason).toBeUndefined());

describe.skipIf(reason !== undefined)('golden model cases on the GPU', () => {
  test.each(cases)('%s', async (name) => {
    const dir = join(golden, name);
    const expected = JSON.parse(readFileSync(join(dir, 'expected.json'), 'utf8')) as {
      input_ids: number[];
      tolerance: { logits_max_abs: number };
    };
    const { program } = await openModel({ kind: 'folder', path: dir }, { name, head: 'full' });
    using reference = await openCheckpoint(join(dir, 'expected.safetensors'));
    const wanted = toFloat32(await reference.read('logits'));
    using executable = await metalBackend.load(program, {});
    const ids = expected.input_ids;
    const { logits } = await feed(executable, executable.createSequence(), ids);
    const worst = logits.reduce((most, v, i) => Math.max(most, Math.abs(v - wanted[i]!)), 0);
    expect(worst).toBeLessThanOrEqual(expected.tolerance.logits_max_abs);
    // Token by token: other kernels, the same bits.
    const sequence = executable.createSequence();
    for (const [i, id] of ids.entries()) {
      const one = await feed(executable, sequence, [id]);
      expect(one.logits).toEqual(logits.slice(i * program.vocabSize, (i + 1) * program.vocabSize));
    }
  });
});

const grouped = join(import.meta.dirname, '../golden/qwen3');

test.skipIf(reason !== undefined)('hybrid programs are not refused: their self-test has the bits of js', async () => {
  (await metalBackend.load(hybridSelfTestProgram(), {}))[Symbol.dispose]();
});

describe.skipIf(reason !== undefined)('golden group-scaled cases on the GPU: the bits of js', () => {
  test.each(readdirSync(grouped).filter((name) => name.startsWith('qwen3_')))('%s', async (name) => {
    const dir = join(grouped, name);
    const path = join(dir, readdirSync(dir).find((entry) => entry.endsWith('.gguf'))!);
    const { input_ids: ids } = JSON.parse(readFileSync(join(dir, 'expected.json'), 'utf8')) as { input_ids: number[] };
    const { program } = await openModel({ kind: 'gguf', path }, { name, head: 'full' });
    using js = await jsBackend.load(program, {});
    const { logits: wanted } = await feed(js, js.createSequence(), ids);
    using executable = await metalBackend.load(program, {});
    for (const size of [ids.length, 3, 1]) {
      const sequence = executable.createSequence();
      for (let at = 0; at < ids.length; at += size) {
        const { logits } = await feed(executable, sequence, ids.slice(at, at + size));
        expect(logits).toEqual(wanted.slice(at * program.vocabSize, at * program.vocabSize + logits.length));
      }
    }
  });
});
