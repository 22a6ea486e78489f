import type { BenchResult } from '../bench/bench.ts';
import { BENCH_SHAPES, type BenchShapeName } from '../bench/random-model.ts';
import type { SweepResult } from '../bench/sweep.ts';
import type { Executable } from '../engine/backend.ts';
import type { Program } from '../engine/program.ts';
import { ArgumentError } from '../errors.ts';
import { type BackendChoice, ownBackend } from '../generate/token-source.ts';
import type { Allocate } from '../tensor/allocate.ts';
import { defineCommand } from './command.ts';
import { BACKEND_FLAGS, MODEL_FLAG, threadCount } from './model-flags.ts';
import { openProgressBar } from './progress-bar.ts';
import { wrap } from './wrap.ts';

export const command = defineCommand({
  name: 'bench',
  summary: "Prompt and generation speed beside the machine's own memory bandwidth",
  positionals: [],
  flags: {
    model: MODEL_FLAG,
    shape: {
      type: 'string',
      choices: Object.keys(BENCH_SHAPES),
      placeholder: 'S',
      description: 'Random ternary weights of a published shape, in place of a model',
    },
    concurrency: {
      type: 'integer',
      min: 1,
      max: 64,
      placeholder: 'N',
      description: 'Also decode N sequences together',
    },
    ...BACKEND_FLAGS,
    threads: {
      ...BACKEND_FLAGS.threads,
      description: `${BACKEND_FLAGS.threads.description}; sweep tries 1, 2, 4, .. and prints a table`,
    },
  },
  examples: [
    'bench',
    'bench --shape 2b4t --threads 2 --json',
    'bench --shape large --concurrency 4',
    'bench --threads sweep',
  ],
  notes:
    '512 prompt tokens, then 128 generated ones. A head over 64 MB is int8 unless --head full is given. ' +
    'BITNET_ISA forces an instruction set of the cpu backend.',
  run: async ({ flags, json, output, signal }) => {
    const { loadOn, weightMemory } = await import('../engine/select.ts');
    const { runBench } = await import('../bench/bench.ts');
    using bar = openProgressBar({ output, json }, 'bench');
    bar.wait(flags.shape === undefined ? `loading ${flags.model}` : 'making random weights');
    const isSweep = flags.threads === 'sweep';
    const threads = isSweep ? undefined : threadCount(flags.threads);
    if (isSweep && flags.concurrency !== undefined) {
      throw new ArgumentError({ what: 'bench takes --threads sweep or --concurrency, not both' });
    }
    const choice = ownBackend(flags.backend as BackendChoice, 'be timed by bench');
    const started = performance.now();
    const { program, head } = await openProgram(
      flags.model,
      flags.shape as BenchShapeName | undefined,
      flags.head,
      weightMemory(choice),
      signal,
    );
    // Weights of a shape are made, not read: what a model costs to load is the rest.
    const loadStarted = flags.shape === undefined ? started : performance.now();
    bar.wait('loading the weights');
    using executable: Executable = await loadOn(choice, program, {
      signal,
      ...(threads !== undefined && { threads }),
    });
    const loadMs = performance.now() - loadStarted;
    if (isSweep) {
      const { runSweep } = await import('../bench/sweep.ts');
      const onProgress = (done: number, total: number) => bar.update(done, total, `${done} of ${total} runs`);
      const swept = await runSweep(executable, program, { signal, onProgress });
      bar[Symbol.dispose]();
      if (json) output.json(sweepJson(swept, flags.shape ?? flags.model, head));
      else for (const text of sweepTable(swept, flags.shape ?? flags.model, head)) output.line(text);
      return 0;
    }
    const result = await runBench(executable, program, {
      ...(flags.concurrency !== undefined && { concurrency: flags.concurrency }),
      signal,
      onProgress: (done, total, what) => bar.update(done, total, `${what}: ${done} of ${total} tokens`),
    });
    bar[Symbol.dispose]();
    const shape = flags.shape ?? flags.model;
    if (json) {
      output.json({
        shape,
        backend: result.backend,
        isa: result.isa ?? null,
        threads: result.threads,
        ...(result.threadsUsed !== undefined && { threads_used: result.threadsUsed }),
        head,
        prompt_tokens: result.promptTokens,
        prompt_tokens_per_second: result.promptTokensPerSecond,
        generated_tokens: result.generatedTokens,
        generation_tokens_per_second: result.generationTokensPerSecond,
        median_token_ms: result.medianTokenMs,
        bytes_per_token: result.bytesPerToken,
        bandwidth_bytes_per_second: result.bandwidthBytesPerSecond ?? null,
        bandwidth_share: result.bandwidthShare ?? null,
        peak_rss_bytes: result.peakRssBytes,
        load_ms: loadMs,
        ...(result.totalTokensPerSecond !== undefined && {
          concurrency: result.concurrency,
          total_tokens_per_second: result.totalTokensPerSecond,
        }),
      });
      return 0;
    }
    const line = (text: string) => output.line(wrap(text, output.width, '            '));
    const gigabytes = (bytes: number) => (bytes / 1e9).toFixed(2);
    line(`${shape}, ${result.backend} ${result.isa ?? ''}, ${threadsText(result)}, ${head} head`);
    line(`prompt      ${result.promptTokensPerSecond.toFixed(1)} tokens/s (${result.promptTokens} tokens)`);
    line(
      `generation  ${result.generationTokensPerSecond.toFixed(2)} tokens/s (${result.generatedTokens} tokens, ` +
        `${gigabytes(result.bytesPerToken * result.generationTokensPerSecond)} GB/s)`,
    );
    if (result.totalTokensPerSecond !== undefined) {
      line(
        `            ${result.totalTokensPerSecond.toFixed(2)} tokens/s in all, ${result.concurrency} sequences together`,
      );
    }
    if (result.bandwidthBytesPerSecond !== undefined) {
      const share = `${(100 * result.bandwidthShare!).toFixed(0)} %`;
      line(`bandwidth   ${gigabytes(result.bandwidthBytesPerSecond)} GB/s measured, of which generation used ${share}`);
    }
    line(`memory      ${gigabytes(result.peakRssBytes)} GB at most; ready in ${loadMs.toFixed(0)} ms`);
    return 0;
  },
});

/** "16 threads", or what auto came to. */
function threadsText({ threads, threadsUsed }: Pick<BenchResult, 'threads' | 'threadsUsed'>): string {
  if (threadsUsed === undefined || (threadsUsed.generation === threads && threadsUsed.prompt === threads))
    return `${threads} ${threads === 1 ? 'thread' : 'threads'}`;
  const { generation, prompt } = threadsUsed;
  return `of ${threads} threads ${generation} for generation and ${prompt} for prompts`;
}

/** Markdown, to be pasted. */
function sweepTable(
  { backend, isa, rows, auto, promptTokens, generatedTokens }: SweepResult,
  shape: string,
  head: string,
) {
  const percent = (share: number | undefined) => (share === undefined ? '' : `${(100 * share).toFixed(0)} %`);
  const cells = rows.map(({ threads, ...row }) => [
    threads === 0 ? `auto (${auto.generation}, ${auto.prompt})` : String(threads),
    row.generationTokensPerSecond.toFixed(1),
    percent(row.bandwidthShare),
    row.promptTokensPerSecond.toFixed(0),
    percent(row.peakShare),
  ]);
  const table = [
    ['threads', 'generation, tokens/s', 'of read bandwidth', 'prompt, tokens/s', 'of integer peak'],
    ['---', '---', '---', '---', '---'],
    ...cells,
  ];
  const widths = table[0]!.map((_, column) => Math.max(...table.map((row) => row[column]!.length)));
  const line = (row: readonly string[]) =>
    `| ${row.map((cell, column) => (cell === '---' ? '-'.repeat(widths[column]!) : cell.padEnd(widths[column]!))).join(' | ')} |`;
  return [
    `${shape}, ${backend} ${isa ?? ''}, ${head} head; ${promptTokens} prompt tokens, then ${generatedTokens} written ones, medians`,
    '',
    ...table.map(line),
  ];
}

function sweepJson(
  { backend, isa, rows, auto, promptTokens, generatedTokens }: SweepResult,
  shape: string,
  head: string,
) {
  return {
    shape,
    backend,
    isa: isa ?? null,
    head,
    prompt_tokens: promptTokens,
    generated_tokens: generatedTokens,
    auto,
    rows: rows.map((row) => ({
      threads: row.threads === 0 ? 'auto' : row.threads,
      generation_tokens_per_second: row.generationTokensPerSecond,
      bandwidth_share: row.bandwidthShare ?? null,
      prompt_tokens_per_second: row.promptTokensPerSecond,
      peak_share: row.peakShare ?? null,
    })),
  };
}

async function openProgram(
  model: string,
  shape: BenchShapeName | undefined,
  head: string | undefined,
  allocate: Allocate,
  signal: AbortSignal,
): Promise<{ program: Program; head: 'full' | 'int8' }> {
  if (shape !== undefined) {
    if (model !== 'default') throw new ArgumentError({ what: 'bench takes --model or --shape, not both' });
    const { hasTernaryTables, randomModel } = await import('../bench/random-model.ts');
    const { INT8_HEAD_BYTES } = await import('../generate/engine.ts');
    const { vocab, hidden } = BENCH_SHAPES[shape];
    const isTernary = hasTernaryTables(BENCH_SHAPES[shape]);
    if (isTernary && head === 'int8') {
      throw new ArgumentError({ what: 'the output head of this shape is ternary', fix: 'use --head full' });
    }
    const usual = !isTernary && 2 * vocab * hidden > INT8_HEAD_BYTES ? 'int8' : 'full';
    const chosen = (head as 'full' | 'int8' | undefined) ?? usual;
    return { program: randomModel(BENCH_SHAPES[shape], chosen, 1024, shape), head: chosen };
  }
  const { resolveModel } = await import('../hub/resolve-model.ts');
  const { openModel } = await import('../model/open-model.ts');
  const { weightPreparation } = await import('../engine/select.ts');
  const { INT8_HEAD_BYTES } = await import('../generate/engine.ts');
  const opened = await openModel(await resolveModel(model, {}), {
    name: model,
    head: (head as 'full' | 'int8' | undefined) ?? { int8Above: INT8_HEAD_BYTES },
    allocate,
    prepare: weightPreparation,
    signal,
  });
  return { program: opened.program, head: opened.head };
}
