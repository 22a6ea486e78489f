import { readFileSync } from 'node:fs';
import { availableParallelism, cpus, freemem, totalmem } from 'node:os';
import { join } from 'node:path';
import { surveyBackends } from '../engine/select.ts';
import { hubCacheFolder } from '../hub/hub-cache.ts';
import { packageRoot } from '../hub/package-root.ts';
import { listModels } from '../hub/resolve-model.ts';
import { packageVersion } from '../package-info.ts';
import { defineCommand } from './command.ts';
import { table } from './help.ts';

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

export const command = defineCommand({
  name: 'doctor',
  summary: 'Backends found and why others are not, CPU features, model and cache folders',
  positionals: [],
  flags: {},
  examples: ['doctor'],
  run: async ({ json, output }) => {
    const [backends, instructionSets, models] = await Promise.all([
      surveyBackends(),
      nativeInstructionSets(),
      listModels(),
    ]);
    const chosen = backends.find(({ reason }) => reason === undefined)?.backend;
    const report = {
      version: packageVersion(),
      node: process.version,
      platform: `${process.platform} ${process.arch}`,
      cpu: {
        model: cpus()[0]?.model.trim() ?? 'unknown',
        cores: availableParallelism(),
        features: cpuFeatures(),
        instruction_sets: instructionSets,
        ...(process.env.BITNET_ISA !== undefined && { BITNET_ISA: process.env.BITNET_ISA }),
      },
      memory: { total_bytes: totalmem(), free_bytes: freemem() },
      backends: backends.map(({ backend, reason }) => ({
        name: backend,
        usable: reason === undefined,
        ...(reason !== undefined && { reason }),
      })),
      auto: chosen ?? null,
      folders: { package: packageRoot(), models: join(packageRoot(), 'models'), hub_cache: hubCacheFolder() },
      models: models.map(({ name, kind, path, source }) => ({ name, kind, path, source })),
    };
    if (json) {
      output.json(report);
    } else {
      const { cpu, memory, folders } = report;
      const gigabytes = (bytes: number) => `${(bytes / 2 ** 30).toFixed(1)} GiB`;
      output.line(
        table([
          ['bitnet-gf3', `${report.version} on Node ${report.node}, ${report.platform}`],
          ['cpu', `${cpu.model}, ${cpu.cores} ${cpu.cores === 1 ? 'core' : 'cores'}`],
          ['features', cpu.features.join(' ') || 'not known on this system'],
          ['native kernels', cpu.instruction_sets.join(' ') || 'none (see cpu below)'],
          ['memory', `${gigabytes(memory.total_bytes)}, ${gigabytes(memory.free_bytes)} free`],
          ['models', folders.models],
          ['hub cache', folders.hub_cache],
        ]),
      );
      output.line('\nBackends, in the order in which auto takes them:');
      output.line(
        table(
          report.backends.map(({ name, usable, reason }) => [
            `${usable ? '✓' : '✗'} ${name}`,
            name === chosen ? 'chosen by auto' : usable ? 'usable' : reason!,
          ]),
        ),
      );
      output.line('\nModels:');
      output.line(table(models.map(({ name, source, kind, path }) => [name, `${source}, ${kind}: ${path}`])));
    }
    return chosen === undefined ? 1 : 0;
  },
});

/** Instruction sets that the native addon runs here; none without it. */
async function nativeInstructionSets(): Promise<readonly string[]> {
  const { loadNative } = await import('../engine/cpu/native.ts');
  const native = await loadNative();
  return 'addon' in native ? native.addon.isas().usable : [];
}

/** Linux tells; elsewhere only what the architecture implies. */
function cpuFeatures(): string[] {
  let text = '';
  try {
    text = readFileSync('/proc/cpuinfo', 'utf8');
  } catch {
    return process.arch === 'arm64' ? ['asimd'] : [];
  }
  const flags = new Set(/^(?:flags|Features)\s*:(.*)$/m.exec(text)?.[1]?.trim().split(/\s+/));
  return CPU_FLAGS.filter((flag) => flags.has(flag));
}
