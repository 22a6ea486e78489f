// Hybrid, rotated and mixture models: logits of llama.cpp on the unrotated float32 weights, states, greedy tokens, experts.

import { readdirSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import type { Executable } from '../../src/engine/backend.ts';
import { jsBackend } from '../../src/engine/js/backend.ts';
import { gatedDelta, routeExperts } from '../../src/engine/js/hybrid-ops.ts';
import type { Program, VectorWeight } from '../../src/engine/program.ts';
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

/** What rounding activations to int16 may move in a state of the first layer. */
const STATE = 2e-3;

/** A program that ends after one of its operations and gives a buffer's rows, in the first columns of its logits. */
function probe(program: Program, after: number, buffer: number): Program {
  const { width } = program.buffers[buffer]!;
  // Wide enough for the buffer, and for the tokens that may be asked about.
  const vocabSize = Math.max(program.vocabSize, width);
  const [rows, out] = [program.buffers.length, program.buffers.length + 1];
  const identity = Float32Array.from({ length: vocabSize * width }, (_, i) =>
    Math.floor(i / width) === i % width ? 1 : 0,
  );
  return {
    ...program,
    buffers: [
      ...program.buffers,
      { name: 'probed', dtype: 'f32', rows: 'outputs', width },
      { name: 'probed columns', dtype: 'f32', rows: 'outputs', width: vocabSize },
    ],
    weights: [
      ...program.weights,
      {
        kind: 'dense',
        name: 'identity',
        rows: vocabSize,
        columns: width,
        dtype: 'f32',
        bytes: new Uint8Array(identity.buffer),
      },
    ],
    ops: [
      ...program.ops.slice(0, after + 1),
      { op: 'selectOutputs', x: buffer, out: rows },
      { op: 'denseMatmul', x: rows, weight: program.weights.length, out },
    ],
    logits: out,
    vocabSize,
  };
}

/** All rows (tokens, width) of a buffer after operation `after`. */
async function rowsOf(program: Program, after: number, buffer: number, ids: readonly number[]): Promise<Float32Array> {
  const { width } = program.buffers[buffer]!;
  const probed = probe(program, after, buffer);
  using executable = await jsBackend.load(probed, {});
  const logits = await logitsOf(executable, ids);
  return Float32Array.from({ length: ids.length * width }, (_, i) => {
    return logits[Math.floor(i / width) * probed.vocabSize + (i % width)]!;
  });
}

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

  test.skipIf(name.startsWith('maple'))('the states of the first recurrent layer', async () => {
    const { input_ids: ids, tensor } = await expectedOf(name);
    const program = await open(name);
    const at = program.ops.findIndex(({ op }) => op === 'gatedDelta');
    const op = program.ops[at]!;
    const conv = program.ops.find((candidate) => candidate.op === 'causalConv')!;
    if (op.op !== 'gatedDelta' || conv.op !== 'causalConv') throw new TypeError('no recurrent layer');

    const channels = program.buffers[conv.x]!.width;
    const inputs = await rowsOf(program, at, conv.x, ids);
    const last = inputs.subarray((ids.length - conv.taps + 1) * channels);
    expect(distance(last, (await tensor('state.0.conv'))!).max).toBeLessThanOrEqual(STATE);

    const state = new Float32Array(op.valueHeads * op.headDim * op.headDim);
    const vectorOf = (weight: number) => (program.weights[weight] as VectorWeight).values;
    const [x, beta, alpha] = [
      await rowsOf(program, at - 1, op.x, ids),
      await rowsOf(program, at - 1, op.beta, ids),
      await rowsOf(program, at - 1, op.alpha, ids),
    ];
    const out = new Float32Array(ids.length * op.valueHeads * op.headDim);
    gatedDelta(x, 0, ids.length, beta, alpha, vectorOf(op.decay), vectorOf(op.bias), op, state, out);
    expect(distance(state, (await tensor('state.0.delta'))!).max).toBeLessThanOrEqual(STATE);
    expect(program.recurrent!.map(({ width }) => width).slice(0, 2)).toEqual([
      (conv.taps - 1) * channels,
      state.length,
    ]);
  });

  test('the residual stream behind every layer', async () => {
    const { input_ids: ids, tensor } = await expectedOf(name);
    const program = await open(name);
    const ends = program.ops.flatMap((op, i) => (op.op === 'countTrits' ? [i] : []));
    const x = program.ops.find((op) => op.op === 'countTrits')!.x;
    expect(ends.length).toBeGreaterThan(2);
    // The last one of the golden values is behind the final norm.
    for (const [layer, end] of ends.slice(0, -1).entries()) {
      const { rms, max } = distance(await rowsOf(program, end, x, ids), (await tensor(`hidden.${layer + 1}`))!);
      expect(rms, `layer ${layer}`).toBeLessThanOrEqual(RMS);
      expect(max, `layer ${layer}`).toBeLessThanOrEqual(MAX);
    }
  });

  test.runIf(name.startsWith('maple'))('the experts of the last token', async () => {
    const { input_ids: ids, experts_of_last_token: wanted } = await expectedOf(name);
    const program = await open(name);
    const routers = program.ops.flatMap((op, i) => (op.op === 'routeExperts' ? [{ op, i }] : []));
    expect(routers.length).toBe(wanted!.length);
    for (const [layer, { op, i }] of routers.entries()) {
      const width = program.buffers[op.x]!.width;
      const logits = (await rowsOf(program, i, op.x, ids)).subarray(-width);
      const [experts, weights] = [new Int32Array(program.choices!), new Float32Array(program.choices!)];
      expect(routeExperts(logits, 1, width, program.choices!, op.least, experts, weights)).toBe(-1);
      expect([...experts], `layer ${layer}`).toEqual(wanted![layer]);
    }
  });
});
