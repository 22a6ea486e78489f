// Hybrid, rotated and mixture models: logits of llama.cpp on the unrotated float32 weights, states, greedy tokens, experts.

import { readdirSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import type { Executable } from '../../src/engine/backend.ts';
import { jsBackend } from '../../src/engine/js/backend.ts';
import { openCheckpoint } from '../../src/formats/open-checkpoint.ts';
import { openModel } from '../../src/model/open-model.ts';
import { toFloat32 } from '../../src/quant/to-float32.ts';

const golden = join(import.meta.dirname, '../golden/hybrid');
const cases = readdirSync(golden).filter((name) => /_s\d+$/.test(name));

/** What rounding activations to int16 may cost. */
const RMS = 0.002;
const MAX = 0.02;

type Expected = {
  readonly input_ids: number[];
  readonly greedy: number[];
  readonly greedy_certain: number;
  readonly chunked_prefill: number[];
  readonly experts_of_last_token?: number[][];
};

async function expectedOf(
  name: string,
): Promise<Expected & { readonly tensor: (of: string) => Promise<Float32Array | undefined> }> {
  const dir = join(golden, name);
  const json = JSON.parse(await readFile(join(dir, 'expected.json'), 'utf8')) as Expected;
  const tensor = async (of: string) => {
    using file = await openCheckpoint(join(dir, 'expected.safetensors'));
    return file.has(of) ? toFloat32(await file.read(of)) : undefined;
  };
  return { ...json, tensor };
}

const open = async (name: string) =>
  (await openModel({ kind: 'gguf', path: join(golden, name, 'model.gguf') }, { name, head: 'full' })).program;

async function logitsOf(executable: Executable, ids: readonly number[], chunks: readonly number[] = [ids.length]) {
  const sequence = executable.createSequence();
  const parts: Float32Array[] = [];
  let from = 0;
  for (const chunk of chunks) {
    const tokens = Int32Array.from(ids.slice(from, from + chunk));
    const rows = Int32Array.from(tokens, (_, i) => i);
    const { logits } = await executable.step({
      tokens,
      sequences: new Int32Array(tokens.length).fill(sequence),
      positions: Int32Array.from(rows, (i) => from + i),
      outputRows: rows,
    });
    from += chunk;
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
    const best = logits.subarray(0, vocab).indexOf(logits.reduce((a, b) => Math.max(a, b)));
    out.push(best);
    tokens = Int32Array.of(best);
  }
  return out;
}

function distance(values: Float32Array, wanted: Float32Array): { readonly rms: number; readonly max: number } {
  expect(values.length).toBe(wanted.length);
  let squares = 0;
  let max = 0;
  values.forEach((value, i) => {
    const error = Math.abs(value - wanted[i]!);
    squares += error * error;
    max = Math.max(max, error);
  });
  return { rms: Math.sqrt(squares / values.length), max };
}

const bits = (values: Float32Array) => Buffer.from(values.buffer, values.byteOffset, values.byteLength);

describe.each(cases)('%s', (name) => {
  test('logits near those of float32 activations, the same bits in chunks', async () => {
    const { input_ids: ids, chunked_prefill: chunks, tensor } = await expectedOf(name);
    using executable = await jsBackend.load(await open(name), {});
    const logits = await logitsOf(executable, ids);
    const { rms, max } = distance(logits, (await tensor('logits'))!);
    expect(rms).toBeLessThanOrEqual(RMS);
    expect(max).toBeLessThanOrEqual(MAX);
    expect(Buffer.compare(bits(await logitsOf(executable, ids, chunks)), bits(logits))).toBe(0);
    const single = ids.map(() => 1);
    expect(Buffer.compare(bits(await logitsOf(executable, ids, single)), bits(logits))).toBe(0);
  });

  test('every certain greedy token', async () => {
    const { input_ids: ids, greedy, greedy_certain: certain } = await expectedOf(name);
    const program = await open(name);
    using executable = await jsBackend.load(program, {});
    expect(await greedyTokens(executable, ids, certain, program.vocabSize)).toEqual(greedy.slice(0, certain));
  });
});
