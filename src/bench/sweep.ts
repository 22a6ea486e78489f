// How speed goes with the number of threads, beside what as many threads can read and multiply: one table that says where a
// machine's limit lies, and whether the backend's own choice is a good one.

import type { Executable } from '../engine/backend.ts';
import { coreLimits } from '../engine/cpu/cores.ts';
import { loadNative } from '../engine/cpu/native.ts';
import type { Program } from '../engine/program.ts';
import { ArgumentError } from '../errors.ts';
import { type BenchOptions, CHUNK_ROWS, decode, kvBytes, median, prefill, readBandwidth } from './bench.ts';

export type SweepRow = {
  /** 0: the backend's own choice. */
  readonly threads: number;
  readonly generationTokensPerSecond: number;
  readonly promptTokensPerSecond: number;
  /** Share of the bandwidth that as many threads read with; undefined without native code. */
  readonly bandwidthShare: number | undefined;
  /** Share of the int8 multiply-adds that as many threads do in registers. */
  readonly peakShare: number | undefined;
};

export type SweepResult = {
  readonly backend: string;
  readonly isa: string | undefined;
  /** By threads, from 1; then `auto`. */
  readonly rows: readonly SweepRow[];
  /** What `auto` had come to at the end. */
  readonly auto: { readonly generation: number; readonly prompt: number };
  readonly promptTokens: number;
  readonly generatedTokens: number;
};

const PROMPT_TOKENS = 512;
const ROUNDS = 3;
/** Tokens written in a round: so many, or as many more as a small model writes in this time, which a pause of the system is no large part of. */
const GENERATED_TOKENS = 12;
const MOST_GENERATED = 128;
const GENERATED_MS = 60;
/** Steps in which `auto` may look around before it is timed: as many as it takes, but so many at least and at most. */
const AUTO_STEPS = 40;
const MOST_AUTO_STEPS = 400;

/** 1, 2, 4, .. and all. */
export function sweepCounts(most: number): number[] {
  const counts: number[] = [];
  for (let n = 1; n < most; n *= 2) counts.push(n);
  return [...counts, most];
}

/** int8 multiply-adds of one prompt token in the matrices, the output head left out; int16 activations take two each. */
export function promptMultiplyAdds(program: Program): number {
  let sum = 0;
  for (const op of program.ops) {
    if (op.op !== 'ternaryMatmul' && op.op !== 'groupedMatmul') continue;
    if (program.buffers[op.out]!.rows === 'outputs') continue;
    const { rows, columns } = program.weights[op.weight] as { rows: number; columns: number };
    sum += rows * columns * (op.op === 'groupedMatmul' ? 2 : 1);
  }
  return sum;
}

/**
 * Each count in turn, in several rounds, so that a machine whose pace changes does so for all of them; medians.
 * `executable` was loaded for all cores.
 */
export async function runSweep(
  executable: Executable,
  program: Program,
  options: Pick<BenchOptions, 'signal' | 'onProgress'> = {},
): Promise<SweepResult> {
  if (executable.useThreads === undefined || executable.threadsUsed === undefined) {
    throw new ArgumentError({
      what: `the ${executable.info.backend} backend has no number of threads to choose`,
      fix: 'use --backend cpu',
    });
  }
  const promptTokens = Math.min(PROMPT_TOKENS, Math.floor(program.contextLength * 0.5));
  const counts = [...sweepCounts(executable.info.threads), 0];
  const prompts = counts.map((): number[] => []);
  const tokens = counts.map((): number[] => []);
  const quiet: BenchOptions = options.signal === undefined ? {} : { signal: options.signal };
  const started = executable.createSequence();
  await prefill(executable, program, started, promptTokens, CHUNK_ROWS, quiet);
  const warm = executable.fork(started, promptTokens);
  const pace = median(await decode(executable, program, [warm], 5, quiet));
  executable.freeSequence(warm);
  const room = program.contextLength - promptTokens;
  const generatedTokens = Math.min(
    room,
    Math.max(GENERATED_TOKENS, Math.min(MOST_GENERATED, Math.ceil(GENERATED_MS / pace))),
  );
  const total = ROUNDS * counts.length;
  for (let round = 0; round < ROUNDS; round += 1) {
    for (const [i, count] of counts.entries()) {
      executable.useThreads(count);
      if (count === 0) await lookAround(executable, program, started, round, quiet);
      const sequence = executable.createSequence();
      prompts[i]!.push(await prefill(executable, program, sequence, promptTokens, CHUNK_ROWS, quiet));
      tokens[i]!.push(...(await decode(executable, program, [sequence], generatedTokens, quiet)));
      executable.freeSequence(sequence);
      options.onProgress?.(round * counts.length + i + 1, total, 'sweep');
    }
  }
  const auto = executable.threadsUsed();
  executable.freeSequence(started);

  const { backend, isa, weightBytes } = executable.info;
  const bytesPerToken = weightBytes + kvBytes(program, promptTokens + generatedTokens / 2);
  const multiplyAdds = promptMultiplyAdds(program);
  const rows: SweepRow[] = [];
  for (const [i, threads] of counts.entries()) {
    const generationTokensPerSecond = 1000 / median(tokens[i]!);
    const promptTokensPerSecond = promptTokens / median(prompts[i]!);
    const bandwidth = await readBandwidth(threads || auto.generation, isa);
    const peak = await peakMultiplyAdds(threads || auto.prompt, isa);
    rows.push({
      threads,
      generationTokensPerSecond,
      promptTokensPerSecond,
      bandwidthShare: bandwidth && (generationTokensPerSecond * bytesPerToken) / bandwidth,
      peakShare: peak && (promptTokensPerSecond * multiplyAdds) / peak,
    });
  }
  return { backend, isa, rows, auto, promptTokens, generatedTokens };
}

/** Steps that are not timed, in which the backend finds out how many threads help. */
async function lookAround(
  executable: Executable,
  program: Program,
  from: number,
  round: number,
  options: BenchOptions,
): Promise<void> {
  const room = program.contextLength - executable.sequenceLength(from);
  const few = Math.min(room, 4);
  const least = round === 0 ? AUTO_STEPS : few;
  const isFound = () => executable.threadsFound?.().generation !== undefined;
  for (let steps = 0; steps < least || (!isFound() && steps < MOST_AUTO_STEPS); ) {
    const sequence = executable.fork(from, executable.sequenceLength(from));
    const count = Math.min(room, Math.max(few, least - steps));
    await decode(executable, program, [sequence], count, options);
    executable.freeSequence(sequence);
    steps += count;
  }
}

async function peakMultiplyAdds(threads: number, isa: string | undefined): Promise<number | undefined> {
  const native = await loadNative();
  if ('reason' in native) return undefined;
  const known = isa !== undefined && native.addon.isas().usable.includes(isa) ? isa : '';
  return native.addon.measure('macs', known, Math.min(threads, coreLimits().usable), 0);
}
