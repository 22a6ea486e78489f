// The hybrid goldens on compiled backends: the bits of the reference, whole and in pieces.

import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import type { Executable } from '../../src/engine/backend.ts';
import { cpuBackend } from '../../src/engine/cpu/backend.ts';
import { loadNative } from '../../src/engine/cpu/native.ts';
import { jsBackend } from '../../src/engine/js/backend.ts';
import { weightPreparation } from '../../src/engine/select.ts';
import { wasmBackend } from '../../src/engine/wasm/backend.ts';
import { openModel } from '../../src/model/open-model.ts';

const golden = join(import.meta.dirname, '../golden/hybrid');
const cases = readdirSync(golden).filter((name) => /_s\d+$/.test(name));
const native = await loadNative();
const isas = 'addon' in native ? native.addon.isas().usable : [];

async function logitsOf(executable: Executable, ids: readonly number[], pieces: readonly number[]) {
  const sequence = executable.createSequence();
  const parts: Uint8Array[] = [];
  let from = 0;
  for (const piece of pieces) {
    const tokens = Int32Array.from(ids.slice(from, from + piece));
    const { logits } = await executable.step({
      tokens,
      sequences: new Int32Array(piece).fill(sequence),
      positions: Int32Array.from(tokens, (_, i) => from + i),
      outputRows: Int32Array.from(tokens.keys()),
    });
    parts.push(new Uint8Array(logits.buffer, logits.byteOffset, logits.byteLength));
    from += piece;
  }
  return Buffer.concat(parts);
}

describe.each(cases)('%s', async (name) => {
  const options = { name, head: 'full', prepare: weightPreparation } as const;
  const { program } = await openModel({ kind: 'gguf', path: join(golden, name, 'model.gguf') }, options);
  const expected = JSON.parse(readFileSync(join(golden, name, 'expected.json'), 'utf8'));
  const ids: readonly number[] = expected.input_ids;
  using reference = await jsBackend.load(program, {});
  const wanted = await logitsOf(reference, ids, [ids.length]);
  const cut = [3, 1, ids.length - 5, 1];

  test.each(isas.flatMap((isa) => [1, 2].map((threads) => ({ isa, threads }))))(
    '$isa, $threads threads',
    async (how) => {
      using executable = await cpuBackend.load(program, how);
      expect((await logitsOf(executable, ids, [ids.length])).equals(wanted)).toBe(true);
      expect((await logitsOf(executable, ids, cut)).equals(wanted)).toBe(true);
    },
  );

  test('wasm', async () => {
    using executable = await wasmBackend.load(program, { threads: 2 });
    expect((await logitsOf(executable, ids, [ids.length])).equals(wanted)).toBe(true);
    expect((await logitsOf(executable, ids, cut)).equals(wanted)).toBe(true);
  });
});
