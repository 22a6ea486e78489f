// Measures prompt and generation speed of an executable, and the machine's limits in the same run: the figures mean
// something only beside one another.

import type { Executable, SequenceId, ThreadsUsed } from '../engine/backend.ts';
import { coreLimits } from '../engine/cpu/cores.ts';
import { loadNative } from '../engine/cpu/native.ts';
import type { Program } from '../engine/program.ts';
import { recurrentBytes } from '../engine/state-bytes.ts';

export type BenchOptions = {
  readonly promptTokens?: number;
  readonly generatedTokens?: number;
  /** Sequences decoded together in a second generation run, left out when not given. */
  readonly concurrency?: number;
  readonly signal?: AbortSignal;
  readonly onProgress?: (done: number, total: number, what: string) => void;
};

export type BenchResult = {
  readonly backend: string;
  readonly isa: string | undefined;
  readonly threads: number;
  /** What the backend came to, where it was left to it. */
  readonly threadsUsed: ThreadsUsed | undefined;
  readonly promptTokens: number;
  readonly promptTokensPerSecond: number;
  readonly generatedTokens: number;
  readonly generationTokensPerSecond: number;
  /** Median time of one token, for a machine that is not quiet. */
  readonly medianTokenMs: number;
  /** Weights and, at the middle of the generation, KV cache. */
  readonly bytesPerToken: number;
  readonly weightBytes: number;
  /** Of reads by as many threads, the best of six right after the generation; undefined without native code. */
  readonly bandwidthBytesPerSecond: number | undefined;
  /** Share of that bandwidth which generation used. */
  readonly bandwidthShare: number | undefined;
  readonly peakRssBytes: number;
  readonly totalTokensPerSecond: number | undefined;
  readonly concurrency: number;
};

export const BENCH_PROMPT_TOKENS = 512;
export const BENCH_GENERATED_TOKENS = 128;

// Prompt rows of one step: what the scheduler of `generate/` uses for this backend or more.
export const CHUNK_ROWS = 256;
// Well above any cache.
const BANDWIDTH_BYTES = 512 << 20;

/** Bytes of K and V that one more token reads at a given length, and of recurrent states, read and written; float32. */
export function kvBytes(program: Program, length: number): number {
  const { layers, kvHeads, headDim, windows } = program.kv;
  const seen = Array.from({ length: layers }, (_, i) => Math.min(length, windows?.[i] || length));
  const positions = seen.reduce((sum, count) => sum + count, 0);
  return 2 * (4 * kvHeads * headDim * positions + recurrentBytes(program));
}

export async function readBandwidth(threads: number, isa: string | undefined): Promise<number | undefined> {
  const native = await loadNative();
  if ('reason' in native) return undefined;
  const usable = native.addon.isas().usable;
  const known = isa !== undefined && usable.includes(isa) ? isa : '';
  return native.addon.measure('read', known, Math.min(threads, coreLimits().usable), BANDWIDTH_BYTES);
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[sorted.length >> 1]!;
}

/** Deterministic token ids, not all alike. */
const tokenAt = (i: number, vocab: number) => (i * 7919 + 13) % vocab;

export async function prefill(
  executable: Executable,
  program: Program,
  sequence: SequenceId,
  tokens: number,
  chunk: number,
  options: BenchOptions,
): Promise<number> {
  let spent = 0;
  for (let at = 0; at < tokens; at += chunk) {
    options.signal?.throwIfAborted();
    const n = Math.min(chunk, tokens - at);
    const start = performance.now();
    await executable.step({
      tokens: Int32Array.from({ length: n }, (_, i) => tokenAt(at + i, program.vocabSize)),
      sequences: new Int32Array(n).fill(sequence),
      positions: Int32Array.from({ length: n }, (_, i) => at + i),
      outputRows: at + n === tokens ? Int32Array.of(n - 1) : new Int32Array(0),
    });
    spent += performance.now() - start;
    options.onProgress?.(at + n, tokens, 'prompt');
  }
  return spent / 1000;
}

/** Milliseconds of each step that decodes one token for every sequence. */
export async function decode(
  executable: Executable,
  program: Program,
  sequences: readonly SequenceId[],
  steps: number,
  options: BenchOptions,
): Promise<number[]> {
  const times: number[] = [];
  const tokens = Int32Array.from(sequences, (_, i) => tokenAt(i, program.vocabSize));
  for (let step = 0; step < steps; step += 1) {
    options.signal?.throwIfAborted();
    const start = performance.now();
    // As a greedy generation asks.
    const { top } = await executable.step({
      tokens,
      sequences: Int32Array.from(sequences),
      positions: Int32Array.from(sequences, (sequence) => executable.sequenceLength(sequence)),
      outputRows: Int32Array.from(sequences, (_, i) => i),
      top: 1,
      withoutLogits: true,
    });
    tokens.set(top.ids);
    times.push(performance.now() - start);
    options.onProgress?.(step + 1, steps, 'generation');
  }
  return times;
}

/** Runs the standard measurement: 512 prompt tokens, then 128 generated ones, one at a time. */
export async function runBench(
  executable: Executable,
  program: Program,
  options: BenchOptions = {},
): Promise<BenchResult> {
  const promptTokens = Math.min(options.promptTokens ?? BENCH_PROMPT_TOKENS, Math.floor(program.contextLength * 0.75));
  const generatedTokens = Math.min(
    options.generatedTokens ?? BENCH_GENERATED_TOKENS,
    program.contextLength - promptTokens,
  );
  const concurrency = options.concurrency ?? 1;
  const { backend, isa, threads, weightBytes } = executable.info;

  // Everything once, small: pages touched, code compiled.
  const warm = executable.createSequence();
  await prefill(executable, program, warm, 8, 8, {});
  await decode(executable, program, [warm], 2, {});
  executable.freeSequence(warm);

  const sequence = executable.createSequence();
  const promptSeconds = await prefill(executable, program, sequence, promptTokens, CHUNK_ROWS, options);
  const copies = Array.from({ length: options.concurrency ?? 0 }, () => executable.fork(sequence, promptTokens));
  const times = await decode(executable, program, [sequence], generatedTokens, options);
  executable.freeSequence(sequence);
  let totalTokensPerSecond: number | undefined;
  if (copies.length > 0) {
    const together = await decode(executable, program, copies, generatedTokens, options);
    totalTokensPerSecond = (1000 * concurrency * together.length) / together.reduce((a, b) => a + b, 0);
  }
  for (const copy of copies) executable.freeSequence(copy);

  // Before the bandwidth is measured, which takes memory of its own.
  const peakRssBytes = process.resourceUsage().maxRSS * 1024;
  const threadsUsed = executable.threadsUsed?.();
  // A card reads a memory of its own, which nothing here measures.
  const bandwidth = backend === 'cuda' ? undefined : await readBandwidth(threadsUsed?.generation ?? threads, isa);
  const bytesPerToken = weightBytes + kvBytes(program, promptTokens + generatedTokens / 2);
  const generationTokensPerSecond = (1000 * times.length) / times.reduce((a, b) => a + b, 0);
  return {
    backend,
    isa,
    threads,
    threadsUsed,
    promptTokens,
    promptTokensPerSecond: promptTokens / promptSeconds,
    generatedTokens,
    generationTokensPerSecond,
    medianTokenMs: median(times),
    bytesPerToken,
    weightBytes,
    bandwidthBytesPerSecond: bandwidth,
    bandwidthShare: bandwidth === undefined ? undefined : (generationTokensPerSecond * bytesPerToken) / bandwidth,
    peakRssBytes,
    totalTokensPerSecond,
    concurrency,
  };
}
