// Group-scaled Qwen3 models: logits and greedy tokens of transformers, the same bits from every container and backend.

import { readdirSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import type { Backend, Executable } from '../../src/engine/backend.ts';
import { cpuBackend } from '../../src/engine/cpu/backend.ts';
import { jsBackend } from '../../src/engine/js/backend.ts';
import { openCheckpoint } from '../../src/formats/open-checkpoint.ts';
import { openModel } from '../../src/model/open-model.ts';
import { toFloat32 } from '../../src/quant/to-float32.ts';

const golden = join(import.meta.dirname, '../golden/qwen3');
const cases = readdirSync(golden).filter((name) => name.startsWith('qwen3_'));

type Expected = {
  input_ids: number[];
  greedy: number[];
  tolerance: { int16_token: { rms: number; max: number } };
};

async function expectedOf(dir: string): Promise<Expected & { logits: Float32Array }> {
  const json = JSON.parse(await readFile(join(dir, 'expected.json'), 'utf8')) as Expected;
  using file = await openCheckpoint(join(dir, 'expected.safetensors'));
  return { ...json, logits: toFloat32(await file.read('logits')) };
}

/** Containers of a case: folders and files beside the expected values. */
const containersOf = (dir: string) => readdirSync(dir).filter((name) => !name.startsWith('expected'));

function open(path: string) {
  const kind = path.endsWith('.gguf') ? 'gguf' : 'folder';
  return openModel({ kind, path }, { name: path, head: 'full' });
}

async function allLogits(executable: Executable, ids: readonly number[], chunk = ids.length): Promise<Float32Array> {
  const sequence = executable.createSequence();
  const parts: Float32Array[] = [];
  for (let from = 0; from < ids.length; from += chunk) {
    const tokens = Int32Array.from(ids.slice(from, from + chunk));
    const rows = Int32Array.from(tokens, (_, i) => i);
    const { logits } = await executable.step({
      tokens,
      sequences: new Int32Array(tokens.length).fill(sequence),
      positions: Int32Array.from(rows, (i) => from + i),
      outputRows: rows,
    });
    parts.push(logits);
  }
  executable.freeSequence(sequence);
  const all = new Float32Array(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

const bits = (values: Float32Array) => Buffer.from(values.buffer, values.byteOffset, values.byteLength);

describe.each(cases)('%s', (name) => {
  const dir = join(golden, name);

  test('js: every container within the tolerance of int16 activations, and all with the same bits', async () => {
    const { input_ids: ids, logits: wanted, tolerance } = await expectedOf(dir);
    let first: Float32Array | undefined;
    for (const container of containersOf(dir)) {
      const { program } = await open(join(dir, container));
      using executable = await jsBackend.load(program, {});
      const logits = await allLogits(executable, ids);
      let squares = 0;
      let largest = 0;
      logits.forEach((value, i) => {
        const error = Math.abs(value - wanted[i]!);
        squares += error * error;
        largest = Math.max(largest, error);
      });
      expect(Math.sqrt(squares / logits.length), container).toBeLessThanOrEqual(tolerance.int16_token.rms);
      expect(largest, container).toBeLessThanOrEqual(tolerance.int16_token.max);
      first ??= logits;
      expect(Buffer.compare(bits(logits), bits(first)), `${container} differs from ${containersOf(dir)[0]}`).toBe(0);
    }
  });

  test('js: greedy tokens', async () => {
    const { input_ids: ids, greedy } = await expectedOf(dir);
    const { program } = await open(join(dir, containersOf(dir)[0]!));
    using executable = await jsBackend.load(program, {});
    expect(await greedyTokens(executable, ids, greedy.length, program.vocabSize)).toEqual(greedy);
  });

  test.each(['cpu'])('%s: the bits of js, whatever the chunks', async (backendName) => {
    const backend: Backend = { cpu: cpuBackend }[backendName]!;
    const { input_ids: ids } = await expectedOf(dir);
    const { program } = await open(join(dir, containersOf(dir)[0]!));
    using reference = await jsBackend.load(program, {});
    const wanted = await allLogits(reference, ids);
    using executable = await backend.load(program, {});
    for (const chunk of [ids.length, 1, 7]) {
      expect(Buffer.compare(bits(await allLogits(executable, ids, chunk)), bits(wanted)), `chunks of ${chunk}`).toBe(0);
    }
  });
});

async function greedyTokens(executable: Executable, ids: readonly number[], count: number, vocab: number) {
  const sequence = executable.createSequence();
  const out: number[] = [];
  let tokens = Int32Array.from(ids);
  let position = 0;
  while (out.length < count) {
    const { logits } = await executable.step({
      tokens,
      sequences: new Int32Array(tokens.length).fill(sequence),
      positions: Int32Array.from(tokens, (_, i) => position + i),
      outputRows: Int32Array.of(tokens.length - 1),
    });
    position += tokens.length;
    let best = 0;
    for (let i = 1; i < vocab; i += 1) if (logits[i]! > logits[best]!) best = i;
    out.push(best);
    tokens = Int32Array.of(best);
  }
  return out;
}
