// Counters for Prometheus, in its text format. Few, with few labels: an agent cannot make a new series.

import type { ToolCall } from '../tool-registration.ts';

const SECONDS = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60];

type Histogram = { readonly buckets: number[]; sum: number; count: number };

export type Gauges = Readonly<Record<string, { readonly help: string; readonly value: number }>>;

export class Metrics {
  readonly #requests = new Map<string, number>();
  readonly #calls = new Map<string, number>();
  readonly #durations = new Map<string, Histogram>();
  #promptTokens = 0;
  #completionTokens = 0;

  /** An answered HTTP request; `route` is one of ours, never what was asked for. */
  request(route: string, status: number): void {
    increment(this.#requests, `route="${route}",status="${status}"`);
  }

  call({ tool, outcome, seconds }: ToolCall): void {
    increment(this.#calls, `tool="${tool}",outcome="${outcome}"`);
    const label = `tool="${tool}"`;
    let histogram = this.#durations.get(label);
    if (histogram === undefined) {
      histogram = { buckets: SECONDS.map(() => 0), sum: 0, count: 0 };
      this.#durations.set(label, histogram);
    }
    histogram.sum += seconds;
    histogram.count += 1;
    const bucket = SECONDS.findIndex((bound) => seconds <= bound);
    if (bucket >= 0) histogram.buckets[bucket]! += 1;
  }

  tokens({ promptTokens = 0, completionTokens }: { promptTokens?: number; completionTokens: number }): void {
    this.#promptTokens += promptTokens;
    this.#completionTokens += completionTokens;
  }

  text(gauges: Gauges): string {
    const usage = process.cpuUsage();
    const lines = [
      ...counter('bitnet_http_requests_total', 'HTTP requests answered.', this.#requests),
      ...counter('bitnet_tool_calls_total', 'Tool calls, by how they ended.', this.#calls),
      ...histograms('bitnet_tool_call_duration_seconds', 'How long tool calls took.', this.#durations),
      ...counter('bitnet_tokens_generated_total', 'Tokens written.', new Map([['', this.#completionTokens]])),
      ...counter(
        'bitnet_prompt_tokens_total',
        'Tokens of prompts of generations.',
        new Map([['', this.#promptTokens]]),
      ),
      ...Object.entries(gauges).flatMap(([name, { help, value }]) => metric(name, 'gauge', help, [`${name} ${value}`])),
      ...counter(
        'process_cpu_seconds_total',
        'CPU time of the server, without its engine.',
        new Map([['', (usage.user + usage.system) / 1e6]]),
      ),
      ...metric('process_resident_memory_bytes', 'gauge', 'Memory of the server, without its engine.', [
        `process_resident_memory_bytes ${process.memoryUsage.rss()}`,
      ]),
      ...metric('process_start_time_seconds', 'gauge', 'Start of the server, in Unix time.', [
        `process_start_time_seconds ${(performance.timeOrigin / 1000).toFixed(3)}`,
      ]),
    ];
    return `${lines.join('\n')}\n`;
  }
}

function increment(counts: Map<string, number>, label: string): void {
  counts.set(label, (counts.get(label) ?? 0) + 1);
}

function metric(name: string, type: string, help: string, samples: readonly string[]): string[] {
  return [`# HELP ${name} ${help}`, `# TYPE ${name} ${type}`, ...samples];
}

function counter(name: string, help: string, counts: ReadonlyMap<string, number>): string[] {
  const samples = [...counts].map(([label, count]) => `${name}${label === '' ? '' : `{${label}}`} ${count}`);
  return metric(name, 'counter', help, samples);
}

function histograms(name: string, help: string, all: ReadonlyMap<string, Histogram>): string[] {
  const samples = [...all].flatMap(([label, { buckets, sum, count }]) => {
    let below = 0;
    const cumulative = SECONDS.map((bound, i) => {
      below += buckets[i]!;
      return `${name}_bucket{${label},le="${bound}"} ${below}`;
    });
    return [
      ...cumulative,
      `${name}_bucket{${label},le="+Inf"} ${count}`,
      `${name}_sum{${label}} ${sum}`,
      `${name}_count{${label}} ${count}`,
    ];
  });
  return metric(name, 'histogram', help, samples);
}
