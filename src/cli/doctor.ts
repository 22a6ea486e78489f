import { readFileSync } from 'node:fs';
import { cpus, freemem, totalmem } from 'node:os';
import { join } from 'node:path';
import { coreLimits, limitText } from '../engine/cpu/cores.ts';
import { readTopology, type Topology } from '../engine/cpu/topology.ts';
import { surveyBackends } from '../engine/select.ts';
import { BitnetError } from '../errors.ts';
import { findOnnxRuntime } from '../generate/onnx/runtime.ts';
import { OpenAiClient, openAiEndpoint, shortList } from '../generate/openai/client.ts';
import { snapshotBudget } from '../generate/snapshot-budget.ts';
import { hubCacheFolder } from '../hub/hub-cache.ts';
import { listModels, resolveModel } from '../hub/resolve-model.ts';
import { packageRoot } from '../package/root.ts';
import { packageVersion } from '../package/version.ts';
import { loadTokenizer } from '../tokenizer/load-tokenizer.ts';
import { defineCommand } from './command.ts';
import { table as twoColumns } from './wrap.ts';

/** What the kernels can use; names as /proc/cpuinfo has them. */
const CPU_FLAGS = [
  'avx2',
  'f16c',
  'avx_vnni',
  'avx512f',
  'avx512bw',
  'avx512_vnni',
  'amx_int8',
  'asimd',
  'asimddp',
  'i8mm',
];

/** A server that takes longer to list its models is not one to wait for here. */
const PROBE_MS = 3_000;

type SourceState = {
  readonly name: 'onnx' | 'openai';
  readonly usable: boolean;
  /** Of onnxruntime-node. */
  readonly version?: string;
  readonly endpoint?: string;
  /** Whether BITNET_OPENAI_BASE_URL names it, and BITNET_OPENAI_API_KEY a key. */
  readonly endpoint_set?: boolean;
  readonly key_set?: boolean;
  readonly models?: readonly string[];
  readonly reason?: string;
};

export const command = defineCommand({
  name: 'doctor',
  summary: 'Backends found and why others are not, CPU features, model and cache folders',
  positionals: [],
  flags: {},
  examples: ['doctor'],
  run: async ({ json, output }) => {
    const [backends, instructionSets, models, onnx, warnings] = await Promise.all([
      surveyBackends(),
      nativeInstructionSets(),
      listModels(),
      onnxState(),
      tokenizerWarnings(),
    ]);
    // Alone: what the others load holds this process up, and that time would be taken for the server's.
    const openai = await openAiState();
    const threads = await threadState();
    const chosen = backends.find(({ reason }) => reason === undefined)?.backend;
    const report = {
      version: packageVersion(),
      node: process.version,
      platform: `${process.platform} ${process.arch}`,
      cpu: {
        model: cpus()[0]?.model.trim() ?? 'unknown',
        cores: threads.processors,
        features: cpuFeatures(instructionSets),
        instruction_sets: instructionSets,
        ...(process.env.BITNET_ISA !== undefined && { BITNET_ISA: process.env.BITNET_ISA }),
      },
      threads,
      memory: { total_bytes: totalmem(), free_bytes: freemem(), snapshot_bytes: snapshotBudget() },
      backends: backends.map(({ backend, reason, detail }) => ({
        name: backend,
        usable: reason === undefined,
        ...(reason !== undefined && { reason }),
        ...(detail !== undefined && { detail }),
      })),
      auto: chosen ?? null,
      sources: [onnx, openai],
      folders: { package: packageRoot(), models: join(packageRoot(), 'models'), hub_cache: hubCacheFolder() },
      models: models.map(({ name, kind, path, source }) => ({ name, kind, path, source })),
      warnings,
    };
    if (json) {
      output.json(report);
    } else {
      const table = (rows: Parameters<typeof twoColumns>[0]) => twoColumns(rows, output.width);
      const { cpu, memory, folders } = report;
      const gigabytes = (bytes: number) => `${(bytes / 2 ** 30).toFixed(1)} GiB`;
      output.line(
        table([
          ['bitnet-gf3', `${report.version} on Node ${report.node}, ${report.platform}`],
          ['cpu', `${cpu.model}, ${cpu.cores} ${cpu.cores === 1 ? 'core' : 'cores'}`],
          ['features', cpu.features.join(' ') || 'not known on this system'],
          ['native kernels', cpu.instruction_sets.join(' ') || 'none (see cpu below)'],
          ['threads', threadText(threads)],
          ['topology', topologyText(threads.topology)],
          ['memory', `${gigabytes(memory.total_bytes)}, ${gigabytes(memory.free_bytes)} free`],
          ['snapshots', `up to ${gigabytes(memory.snapshot_bytes)} of recurrent states a model (BITNET_SNAPSHOT_MIB)`],
          ['models', folders.models],
          ['hub cache', folders.hub_cache],
        ]),
      );
      output.line('\nBackends, in the order in which auto takes them:');
      output.line(
        table(
          report.backends.map((state) => [
            `${state.usable ? '✓' : '✗'} ${state.name}`,
            backendText(state, state.name === chosen),
          ]),
        ),
      );
      output.line('\nOther sources of tokens, taken only by name:');
      output.line(
        table(report.sources.map((state) => [`${state.usable ? '✓' : '✗'} ${state.name}`, sourceText(state)])),
      );
      output.line('\nModels:');
      output.line(table(models.map(({ name, source, kind, path }) => [name, `${source}, ${kind}: ${path}`])));
      if (warnings.length > 0) output.line(`\nWarnings:\n${warnings.map((line) => `  ${line}`).join('\n')}`);
    }
    return chosen === undefined ? 1 : 0;
  },
});

export function backendText({ usable, reason, detail }: BackendState, chosen: boolean): string {
  if (!usable) return reason ?? '';
  return [chosen ? 'chosen by auto' : 'usable', ...(detail === undefined ? [] : [detail])].join('; ');
}

type BackendState = { readonly usable: boolean; readonly reason?: string; readonly detail?: string };

type ThreadState = {
  readonly processors: number;
  /** Processors' worth of time that control groups allow. */
  readonly quota: number | null;
  readonly usable: number;
  /** How fast so many read memory. */
  readonly read: readonly { readonly threads: number; readonly bytes_per_second: number }[];
  /** The fewest that read nearly as fast as any number: where a long generation begins to look. */
  readonly enough_to_read: number | null;
  /** What keeps it from being more. */
  readonly limit: string;
  /** Numbers of those that share a last-level cache and of those of a memory node; null where the system does not tell. */
  readonly topology: Pick<Topology, 'caches' | 'nodes'> | null;
};

/** Beyond most caches, and read within a tenth of a second. */
const READ_BYTES = 128 << 20;

async function threadState(): Promise<ThreadState> {
  const limits = coreLimits();
  const { processors, quota = null, usable } = limits;
  const { loadNative } = await import('../engine/cpu/native.ts');
  const native = await loadNative();
  const read: { threads: number; bytes_per_second: number }[] = [];
  if ('addon' in native) {
    for (let threads = 1; ; threads = Math.min(2 * threads, usable)) {
      read.push({ threads, bytes_per_second: await native.addon.measure('read', '', threads, READ_BYTES) });
      if (threads === usable) break;
    }
  }
  const most = Math.max(0, ...read.map((one) => one.bytes_per_second));
  const enough = read.find((one) => one.bytes_per_second > 0.95 * most)?.threads ?? null;
  const { caches, nodes } = readTopology() ?? { caches: [], nodes: [] };
  const topology = caches.length + nodes.length === 0 ? null : { caches, nodes };
  return { processors, quota, usable, read, enough_to_read: enough, limit: limitText(limits), topology };
}

/** `2 memory nodes of 32; 8 caches of 8`: groups of processors that this process may use. */
export function topologyText(topology: ThreadState['topology']): string {
  if (topology === null) return 'not told by this system';
  const text = (groups: readonly (readonly number[])[], name: string) => {
    const sizes = [...new Set(groups.map((group) => group.length))].sort((a, b) => b - a);
    return `${groups.length} ${name}${groups.length === 1 ? '' : 's'} of ${sizes.join(' or ')}`;
  };
  const { caches, nodes } = topology;
  return [
    ...(nodes.length > 0 ? [text(nodes, 'memory node')] : []),
    ...(caches.length > 0 ? [text(caches, 'last-level cache')] : []),
  ].join(', ');
}

function threadText({ usable, limit, read, enough_to_read: enough }: ThreadState): string {
  const most = `auto tries up to ${usable} (${limit})`;
  if (enough === null) return most;
  const rates = read.map((one) => `${one.threads}: ${(one.bytes_per_second / 1e9).toFixed(1)}`).join(', ');
  return `${most}; memory is read fastest by ${enough} (GB/s by threads: ${rates})`;
}

/** Instruction sets that the native addon runs here; none without it. */
async function nativeInstructionSets(): Promise<readonly string[]> {
  const { loadNative } = await import('../engine/cpu/native.ts');
  const native = await loadNative();
  return 'addon' in native ? native.addon.isas().usable : [];
}

async function onnxState(): Promise<SourceState> {
  const found = await findOnnxRuntime();
  if (typeof found === 'string') return { name: 'onnx', usable: false, reason: `onnxruntime-node: ${found}` };
  const { node: version } = found.env.versions;
  return { name: 'onnx', usable: true, ...(version !== undefined && { version }) };
}

async function openAiState(): Promise<SourceState> {
  const name = 'openai';
  try {
    const endpoint = openAiEndpoint(process.env);
    const { baseUrl, isSet, apiKey } = endpoint;
    const facts = { endpoint: baseUrl, endpoint_set: isSet, key_set: apiKey !== undefined };
    return await new OpenAiClient(endpoint).models(AbortSignal.timeout(PROBE_MS)).then(
      (models) => ({ name, usable: true, ...facts, models }),
      (error) => ({ name, usable: false, ...facts, reason: reasonOf(error) }),
    );
  } catch (error) {
    return { name, usable: false, reason: reasonOf(error) };
  }
}

function reasonOf(error: unknown): string {
  if (error instanceof BitnetError) return error.text.what;
  const { name, message } = error as Error;
  return name === 'TimeoutError' ? `no answer within ${PROBE_MS / 1000} s` : message;
}

function sourceText({ version, endpoint, endpoint_set: isSet, models, reason }: SourceState): string {
  if (endpoint === undefined) return reason ?? `onnxruntime-node ${version ?? ''}`.trimEnd();
  const from = isSet ? 'BITNET_OPENAI_BASE_URL' : 'the default';
  return `${endpoint} (${from}): ${reason ?? (models?.length ? shortList(models) : 'no models')}`;
}

/** What the tokenizer of the embedded model has to say about its files, or why it does not load. */
async function tokenizerWarnings(): Promise<readonly string[]> {
  try {
    const tokenizer = await loadTokenizer((await resolveModel('default')).path);
    return tokenizer.warnings.map((line) => `tokenizer of default: ${line}`);
  } catch (error) {
    return [`tokenizer of default: ${(error as Error).message}`];
  }
}

/** What an instruction set of the kernels was found to need, where the system has no list to read. */
const IMPLIED: Readonly<Record<string, readonly string[]>> = {
  avx2: ['avx2', 'f16c'],
  avxvnni: ['avx2', 'f16c', 'avx_vnni'],
  avx512: ['avx2', 'f16c', 'avx512f', 'avx512bw', 'avx512_vnni'],
  amx: ['avx2', 'f16c', 'avx512f', 'avx512bw', 'avx512_vnni', 'amx_int8'],
  neon: ['asimd'],
  'neon-dot': ['asimd', 'asimddp'],
  'neon-i8mm': ['asimd', 'asimddp', 'i8mm'],
};

/** Linux tells; elsewhere the native kernels have asked the processor, and without them only the architecture is known. */
export function cpuFeatures(instructionSets: readonly string[], cpuinfo = '/proc/cpuinfo'): string[] {
  let flags: ReadonlySet<string>;
  try {
    const text = readFileSync(cpuinfo, 'utf8');
    flags = new Set(/^(?:flags|Features)\s*:(.*)$/m.exec(text)?.[1]?.trim().split(/\s+/));
  } catch {
    const implied = instructionSets.flatMap((isa) => IMPLIED[isa] ?? []);
    flags = new Set(process.arch === 'arm64' ? ['asimd', ...implied] : implied);
  }
  return CPU_FLAGS.filter((flag) => flags.has(flag));
}
