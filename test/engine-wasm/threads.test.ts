// The WebAssembly backend on several threads: which programs get them, and what becomes of a step whose threads are
// lost. That they compute the bits of js stands in differential.test.ts.

import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { setFlagsFromString } from 'node:v8';
import type { Worker } from 'node:worker_threads';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import type { Step } from '../../src/engine/backend.ts';
import type { Program } from '../../src/engine/program.ts';
import { type WasmLoadOptions, wasmBackend } from '../../src/engine/wasm/backend.ts';
import { WasmThreads } from '../../src/engine/wasm/threads.ts';
import { webAssembly } from '../../src/engine/wasm/web-assembly.ts';
import { expectSameBits } from '../kernels/differential.ts';
import { HYBRID_SHAPES, randomHybrid } from '../kernels/hybrid-program.ts';
import { randomProgram, SHAPES } from '../kernels/random-program.ts';

const made = vi.hoisted(() => ({
  workers: [] as Worker[],
  /** What the next workers run: what they are given, nothing, or a `throw`. */
  source: undefined as string | undefined,
  refused: false,
}));

vi.mock('node:worker_threads', async (original) => {
  const { Worker, ...rest } = await original<typeof import('node:worker_threads')>();
  class SeenWorker extends Worker {
    constructor(...[source, options]: ConstructorParameters<typeof Worker>) {
      if (made.refused) throw new Error('no threads here');
      super(made.source ?? source, options);
      made.workers.push(this);
    }
  }
  return { ...rest, Worker: SeenWorker };
});

const ended = (workers: readonly Worker[]) =>
  Promise.all(
    workers.map((worker) => worker.threadId === -1 || new Promise((resolve) => worker.once('exit', resolve))),
  );

beforeEach(() => {
  Object.assign(made, { workers: [], source: undefined, refused: false });
});
afterEach(() => ended(made.workers));

const ROWS = 60;
const program = randomProgram(SHAPES.odd!, 21);

function prompt(sequence: number, from = 0): Step {
  return {
    tokens: Int32Array.from({ length: ROWS }, (_, i) => (i * 7) % program.vocabSize),
    sequences: new Int32Array(ROWS).fill(sequence),
    positions: Int32Array.from({ length: ROWS }, (_, i) => from + i),
    outputRows: Int32Array.of(0, ROWS - 1),
  };
}

async function expectedLogits(): Promise<Float32Array> {
  using alone = await wasmBackend.load(program, { threads: 1 });
  return (await alone.step(prompt(alone.createSequence()))).logits;
}

async function load(options: WasmLoadOptions) {
  const warnings: string[] = [];
  const executable = await wasmBackend.load(program, { warn: (line) => warnings.push(line), ...options });
  return { executable, warnings };
}

test('threads are started for what is asked for, and for large programs', async () => {
  const threadsOf = async (of: Program, options: WasmLoadOptions) => {
    using executable = await wasmBackend.load(of, options);
    return [executable.info.threads, executable.info.isa, made.workers.splice(0).length];
  };
  expect(await threadsOf(program, {})).toEqual([1, 'relaxed-simd', 0]);
  expect(await threadsOf(program, { threads: 1 })).toEqual([1, 'relaxed-simd', 0]);
  expect(await threadsOf(program, { threads: 3 })).toEqual([3, 'relaxed-simd', 3]);
  // No module with threads is built for it.
  expect(await threadsOf(program, { threads: 3, isa: 'simd128' })).toEqual([1, 'simd128', 0]);
  // 51.2 million multiply-adds in its head.
  const large = randomProgram({ ...SHAPES.tiny!, hidden: 512, vocab: 100_000, head: 'bf16' }, 1);
  const cores = Math.min(availableParallelism(), 16);
  expect(await threadsOf(large, {})).toEqual([cores, 'relaxed-simd', cores > 1 ? cores : 0]);
});

test('while the threads run a step, the loop is free and the program is not', async () => {
  const { executable } = await load({ threads: 2 });
  const sequence = executable.createSequence();
  const running = executable.step(prompt(sequence));
  expect(() => executable.sequenceLength(sequence)).toThrow('a step of this program is running');
  await expect(executable.step(prompt(sequence))).rejects.toThrow('a step of this program is running');
  await running;
  expect(executable.sequenceLength(sequence)).toBe(ROWS);
  executable[Symbol.dispose]();
});

test('a program disposed of during a step gives its result, and then no thread is left', async () => {
  const { executable } = await load({ threads: 2 });
  const running = executable.step(prompt(executable.createSequence()));
  executable[Symbol.dispose]();
  expectSameBits((await running).logits, await expectedLogits(), 'logits');
  await ended(made.workers);
  expect(made.workers.map(({ threadId }) => threadId)).toEqual([-1, -1]);
});

test('memory that grows between steps is seen by all', async () => {
  const { executable } = await load({ threads: 2 });
  using alone = await wasmBackend.load(program, { threads: 1 });
  // Each sequence takes KV blocks of its own.
  for (let i = 0; i < 40; i += 1) {
    const got = await executable.step(prompt(executable.createSequence()));
    const expected = await alone.step(prompt(alone.createSequence()));
    expectSameBits(got.logits, expected.logits, `sequence ${i}`);
  }
  executable[Symbol.dispose]();
});

// As a thread of ours, until the step begins.
const LOST = `
const { parentPort, workerData } = require('node:worker_threads');
const { exports } = new WebAssembly.Instance(workerData.module, { env: { memory: workerData.memory, finished() {} } });
parentPort.postMessage('ready');
const before = exports.progress();
while (exports.progress() === before) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1);
throw new Error('lost in a step');
`;

for (const [when, source, reason] of [
  ['before', undefined, /: a thread ended with exit code 1$/],
  ['in', LOST, /: lost in a step$/],
] as const) {
  test(`threads lost ${when} a step: it is computed on the caller's, as all later ones, which is said once`, async () => {
    made.source = source;
    const { executable, warnings } = await load({ threads: 2 });
    expect(executable.info.threads).toBe(2);
    if (when === 'before') {
      await made.workers[0]!.terminate();
      expect(executable.info.threads).toBe(1);
    }
    const expected = await expectedLogits();
    const first = executable.createSequence();
    expectSameBits((await executable.step(prompt(first))).logits, expected, 'the step');
    expect(executable.sequenceLength(first)).toBe(ROWS);
    const again = await executable.step(prompt(executable.createSequence()));
    expectSameBits(again.logits, expected, 'the next step');
    expect(executable.info.threads).toBe(1);
    expect(warnings).toEqual([expect.stringMatching(reason)]);
    await ended(made.workers);
    executable[Symbol.dispose]();
  });
}

for (const when of ['before', 'in'] as const) {
  test(`threads lost ${when} a step with recurrent states: ${when === 'in' ? 'its sequences are empty' : 'it is computed'}`, async () => {
    const hybrid = randomHybrid(HYBRID_SHAPES.rotated!, 22);
    made.source = when === 'in' ? LOST : undefined;
    const warnings: string[] = [];
    const executable = await wasmBackend.load(hybrid, { threads: 2, warn: (line) => warnings.push(line) });
    if (when === 'before') await made.workers[0]!.terminate();
    const [lost, bystander] = [executable.createSequence(), executable.createSequence()];
    const step = executable.step(prompt(lost));
    if (when === 'in') await expect(step).rejects.toThrow('the threads were lost in the middle of a step');
    else await step;
    expect(executable.sequenceLength(lost)).toBe(when === 'in' ? 0 : ROWS);
    // From here on by this thread.
    if (when === 'before') executable.truncate(lost, 0);
    const again = await executable.step(prompt(lost));
    expectSameBits((await executable.step(prompt(bystander))).logits, again.logits, 'begun again');
    expect(warnings.length).toBe(1);
    executable[Symbol.dispose]();
  });
}

for (const [what, setting, reason] of [
  ['cannot be had', { refused: true }, 'no threads here'],
  ['fail', { source: 'throw new Error("a broken thread")' }, 'a broken thread'],
  ['end', { source: '' }, 'a thread ended with exit code 0'],
] as const) {
  test(`threads that ${what}: the program runs on the caller's, and says so`, async () => {
    Object.assign(made, setting);
    const { executable, warnings } = await load({ threads: 2 });
    expect(warnings).toEqual([`the wasm backend runs on one thread: ${reason}`]);
    expect(executable.info.threads).toBe(1);
    const { logits } = await executable.step(prompt(executable.createSequence()));
    expectSameBits(logits, await expectedLogits(), 'logits');
    expect(warnings.length).toBe(1);
    executable[Symbol.dispose]();
  });
}

test('a machine that gives no shared memory: one thread, and it is said', async () => {
  vi.spyOn(webAssembly, 'Memory').mockImplementation(function refuse() {
    throw new RangeError('could not allocate memory');
  });
  try {
    const { executable, warnings } = await load({ threads: 2 });
    expect(warnings).toEqual(['the wasm backend runs on one thread: could not allocate memory']);
    expect(executable.info).toMatchObject({ threads: 1, isa: 'relaxed-simd' });
    executable[Symbol.dispose]();
  } finally {
    vi.restoreAllMocks();
  }
});

test('threads that say nothing are not waited for', async () => {
  const bytes = readFileSync(join(import.meta.dirname, '../../kernels/wasm/bitnet-relaxed-threads.wasm'));
  if (!webAssembly.validate(bytes)) setFlagsFromString('--experimental-wasm-relaxed-simd');
  const module = await webAssembly.compile(bytes);
  const memory = new webAssembly.Memory({ initial: 8, maximum: 65_536, shared: true });
  const stackTops = [6 << 16, 7 << 16];
  const options = { module, memory, stackTops, progress: () => 7 };

  made.source = 'setInterval(() => {}, 1000)';
  await expect(WasmThreads.start({ ...options, startMs: 50 })).rejects.toThrow('not ready after 50 ms');
  await ended(made.workers);

  made.source = undefined;
  const threads = await WasmThreads.start({ ...options, stallMs: 50 });
  await expect(threads.run(() => {})).rejects.toThrow('did nothing for 50 ms');
  expect(threads.usable).toBe(false);
  await expect(threads.run(() => {})).rejects.toThrow('did nothing for 50 ms');
});

// In a thread as in Claude Desktop's Electron, where the engine has no process of its own.
for (const place of ['process', 'thread']) {
  test(`threads do not keep their ${place} alive, and a step does`, () => {
    const dist = pathToFileURL(join(import.meta.dirname, '../../dist'));
    const work = `
      import { wasmBackend } from '${dist}/engine/wasm/backend.js';
      import { randomModel } from '${dist}/bench/random-model.js';
      const shape = { hidden: 256, ffn: 512, layers: 2, heads: 4, kvHeads: 2, headDim: 64, vocab: 512, family: 'bitnet', tied: true, ropeTheta: 10000 };
      const executable = await wasmBackend.load(randomModel(shape, 'int8'), { threads: 2 });
      const rows = 60, sequences = new Int32Array(rows).fill(executable.createSequence());
      const positions = sequences.map((_, i) => i);
      executable.step({ tokens: sequences, sequences, positions, outputRows: Int32Array.of(59) })
        .then(({ logits }) => console.log(executable.info.threads, logits.length));`;
    const inThread = `
      import { Worker } from 'node:worker_threads';
      new Worker(new URL(${JSON.stringify(`data:text/javascript,${encodeURIComponent(work)}`)}));`;
    const script = place === 'thread' ? inThread : work;
    const { stdout, stderr, status, signal } = spawnSync(process.execPath, ['--input-type=module', '-e', script], {
      encoding: 'utf8',
      timeout: 60_000,
    });
    expect({ stdout, stderr, status, signal }).toEqual({ stdout: '2 512\n', stderr: '', status: 0, signal: null });
  });
}
