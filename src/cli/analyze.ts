import { ansiSwatch, type ColorDepth } from '../color/terminal.ts';
import { tritColors } from '../color/trit-colors.ts';
import { analyzeLayerTool } from '../tools/analyze-layer.ts';
import { callTool } from '../tools/call-tool.ts';
import { conservationLine } from './color-line.ts';
import { defineCommand } from './command.ts';
import { openProgressBar } from './progress-bar.ts';
import { NO_SERVICES } from './tool-command.ts';

type Stats = {
  readonly name: string;
  readonly shape: readonly [number, number];
  readonly minus_pct: number;
  readonly ergodic_pct: number;
  readonly plus_pct: number;
  readonly trit_sum: number;
  readonly gf3_residue: number;
  readonly scale: number;
  readonly entropy_bits: number;
  readonly plus_two?: number;
  /** Where a layer has several. */
  readonly scales?: Readonly<Record<string, number>>;
};

type Result = { readonly layers: Stats[]; readonly total: Stats; readonly warnings?: readonly string[] };

const BAR_CELLS = 24;

export const command = defineCommand({
  name: 'analyze',
  summary: 'How the trits of every ternary layer are distributed',
  positionals: [
    { name: 'MODEL_OR_FILE', description: 'default, a model folder, a .safetensors or .gguf file, or a cached hub id' },
  ],
  flags: {
    layer: { type: 'string', placeholder: 'GLOB', description: 'Only layers that match, such as "model.layers.0.*"' },
    seed: { type: 'seed', default: 1069n, placeholder: 'S', description: 'Color stream of the bars' },
  },
  examples: ['analyze default', 'analyze default --layer "*.q_proj.*" --json'],
  run: async ({ positionals, flags, json, output, signal }) => {
    const model = positionals[0]!;
    using bar = openProgressBar({ output, json }, 'analyze');
    const args = { model, seed: `${flags.seed}`, ...(flags.layer !== undefined && { layer: flags.layer }) };
    const { structured } = await callTool(analyzeLayerTool, args, {
      services: NO_SERVICES,
      signal,
      progress: (done, total = 0, name) => bar.update(done, total, name),
    });
    bar[Symbol.dispose]();
    if (json) {
      output.json(structured);
      return 0;
    }
    const { layers, total, warnings = [] } = structured as unknown as Result;
    const width = Math.max(...layers.map(({ name }) => name.length), 'total'.length);
    const { minus, ergodic, plus } = tritColors({ seed: flags.seed });
    const hexes = [minus.hex, ergodic.hex, plus.hex] as const;
    const row = (stats: Stats) => statsRow(stats, { width, hexes, depth: output.colorDepth });
    output.line(
      `${'layer'.padEnd(width)}  ${'shape'.padStart(13)}  ${'-1'.padStart(6)}  ${'0'.padStart(6)}  ${'+1'.padStart(6)}  ${'sum'.padStart(8)} mod3  ${'scale'.padStart(9)}  bits`,
    );
    for (const layer of layers) output.line(row(layer));
    output.line(row({ ...total, name: 'total' }));
    output.line(conservationLine(total.trit_sum, total.gf3_residue));
    if (total.plus_two) {
      output.line(
        `+2: ${total.plus_two} weights of +2 times their scale, no trits: the shares, sums and bits leave them out`,
      );
    }
    for (const layer of layers) {
      for (const line of scaleLines(layer)) output.line(line);
    }
    for (const warning of warnings) output.note(warning);
    return 0;
  },
});

/** Of a layer with a scale for each group of columns. */
function scaleLines({ name, scales }: Stats): string[] {
  if (scales === undefined) return [];
  const [min, median, max] = [scales.min!, scales.median!, scales.max!].map((value) => value.toPrecision(4));
  const each = scales.group === undefined ? '' : `, one for ${scales.group} columns`;
  return [
    `scales of ${name}: ${scales.count}${each}; ${min} to ${max}, median ${median}, ${scales.zero} of 0, ` +
      `${(100 * scales.largest_share!).toFixed(1)}% the largest`,
  ];
}

type RowStyle = {
  readonly width: number;
  readonly hexes: readonly [string, string, string];
  readonly depth: ColorDepth;
};

function statsRow(stats: Stats, { width, hexes, depth }: RowStyle): string {
  const percent = (value: number) => `${value.toFixed(2)}%`.padStart(6);
  const shape = stats.name === 'total' ? `${stats.shape[0]}` : stats.shape.join(' x ');
  const columns = [
    stats.name.padEnd(width),
    shape.padStart(13),
    percent(stats.minus_pct),
    percent(stats.ergodic_pct),
    percent(stats.plus_pct),
    `${`${stats.trit_sum}`.padStart(8)} ${`${stats.gf3_residue} ${stats.gf3_residue === 0 ? '✓' : '✗'}`.padStart(4)}`,
    stats.scale.toPrecision(4).padStart(9),
    stats.entropy_bits.toFixed(3),
  ];
  return [...columns, ...bar(stats, hexes, depth)].join('  ').trimEnd();
}

/** The three shares as a bar in the seed's colors, where the terminal can. */
function bar(stats: Stats, [minus, ergodic, plus]: RowStyle['hexes'], depth: ColorDepth): string[] {
  if (depth === 'none') return [];
  const left = Math.round((stats.minus_pct / 100) * BAR_CELLS);
  const right = Math.round((stats.plus_pct / 100) * BAR_CELLS);
  const cells = [
    [minus, left],
    [ergodic, BAR_CELLS - left - right],
    [plus, right],
  ] as const;
  return [cells.map(([hex, count]) => (count <= 0 ? '' : ansiSwatch(hex, depth, ' '.repeat(count)))).join('')];
}
