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
    const grouped = layers.some(({ scales }) => scales !== undefined);
    const row = (stats: Stats) => statsRow(stats, { width, hexes, grouped, depth: output.colorDepth });
    output.line(
      `${'layer'.padEnd(width)}  ${'shape'.padStart(13)}  ${'-1'.padStart(6)}  ${'0'.padStart(6)}  ${'+1'.padStart(6)}  ${'sum'.padStart(8)} mod3  ${'scale'.padStart(9)}  bits ${grouped ? `  ${'scales'.padStart(7)}  ${SCALE_COLUMNS.map((key) => key.padStart(9)).join('  ')}  ${'of 0'.padStart(7)}` : ''}`.trimEnd(),
    );
    for (const layer of layers) output.line(row(layer));
    output.line(row({ ...total, name: 'total' }));
    output.line(conservationLine(total.trit_sum, total.gf3_residue));
    if (total.plus_two) {
      output.line(
        `+2: ${total.plus_two} weights of +2 times their scale, no trits: the shares, sums and bits leave them out`,
      );
    }
    for (const warning of warnings) output.note(warning);
    return 0;
  },
});

const SCALE_COLUMNS = ['min', 'median', 'max'] as const;

/** What is said of the scales of layers that have several; blank for one that has not. */
function scaleColumns(scales: Stats['scales']): string[] {
  if (scales === undefined) return ['', '', '', '', ''].map((text, i) => text.padStart(i === 0 || i === 4 ? 7 : 9));
  return [
    `${scales.count}`.padStart(7),
    ...SCALE_COLUMNS.map((key) => scales[key]!.toPrecision(4).padStart(9)),
    `${scales.zero}`.padStart(7),
  ];
}

type RowStyle = {
  readonly width: number;
  readonly hexes: readonly [string, string, string];
  readonly depth: ColorDepth;
  /** Some layer has several scales. */
  readonly grouped: boolean;
};

function statsRow(stats: Stats, { width, hexes, depth, grouped }: RowStyle): string {
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
    ...(grouped ? scaleColumns(stats.scales) : []),
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
