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
    const { minus, ergodic, plus } = tritColors({ seed: flags.seed });
    const hexes = [minus.hex, ergodic.hex, plus.hex] as const;
    const style = styleFor(layers, { hexes, depth: output.colorDepth, room: output.width });
    output.line(headLine(style));
    for (const layer of layers) output.line(statsRow(layer, style));
    output.line(statsRow({ ...total, name: 'total' }, style));
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
  /** Of the names' column. */
  readonly width: number;
  /** Characters of a layer's name that are left out at its start, and an ending that is. */
  readonly prefix: string;
  readonly suffix: string;
  readonly hasShape: boolean;
  readonly hasScale: boolean;
  readonly hexes: readonly [string, string, string];
  readonly depth: ColorDepth;
  /** Some layer has several scales, and there is room to tell of them. */
  readonly hasScales: boolean;
};

/** Shares, sum and residue with the gaps before them; shape; scale and bits; bar. */
const CELLS = { shares: 39, shape: 15, scale: 18, scales: 18 + 11 * SCALE_COLUMNS.length, bar: 2 + BAR_CELLS };

/** What a line has room for. The bar goes first, then scale and bits, then what all names have in common, then the shape. */
function styleFor(
  layers: readonly Stats[],
  { hexes, depth, room }: Pick<RowStyle, 'hexes' | 'depth'> & { readonly room: number },
): RowStyle {
  const names = layers.map(({ name }) => name);
  const widthOf = (prefix: string, suffix: string) =>
    Math.max('total'.length, ...names.map((name) => name.length - prefix.length - suffix.length));
  const width = widthOf('', '');
  const hasScales = layers.some(({ scales }) => scales !== undefined);
  const whole = { width, prefix: '', suffix: '', hasShape: true, hasScale: true, hasScales, hexes, depth };
  const full = { ...whole, hasScales: false };
  const bare = { ...full, depth: 'none' as const };
  const plain = { ...bare, hasScale: false };
  const prefix = commonStart(names);
  const suffix = names.every((name) => name.endsWith('.weight')) ? '.weight' : '';
  const short = { ...plain, prefix, suffix, width: widthOf(prefix, suffix) };
  const styles: readonly RowStyle[] = [
    whole,
    { ...whole, depth: 'none' },
    full,
    bare,
    plain,
    short,
    { ...short, hasShape: false },
  ];
  const cells = (style: RowStyle) =>
    style.width +
    CELLS.shares +
    (style.hasShape ? CELLS.shape : 0) +
    (style.hasScale ? CELLS.scale : 0) +
    (style.hasScales ? CELLS.scales : 0) +
    (style.depth === 'none' ? 0 : CELLS.bar);
  return styles.find((style) => cells(style) <= room) ?? styles.at(-1)!;
}

/** The whole parts, each with its dot, with which all names begin; none of a single name. */
function commonStart(names: readonly string[]): string {
  const [first = '', ...others] = names;
  if (others.length === 0) return '';
  let length = 0;
  for (let end = first.indexOf('.') + 1; end > 0; end = first.indexOf('.', end) + 1) {
    if (!others.every((name) => name.startsWith(first.slice(0, end)))) break;
    length = end;
  }
  return first.slice(0, length);
}

function headLine({ width, hasShape, hasScale, hasScales }: RowStyle): string {
  return [
    'layer'.padEnd(width),
    ...(hasShape ? ['shape'.padStart(13)] : []),
    '-1'.padStart(6),
    '0'.padStart(6),
    '+1'.padStart(6),
    `${'sum'.padStart(8)} mod3`,
    ...(hasScale ? ['scale'.padStart(9), 'bits '] : []),
    ...(hasScales ? ['scales'.padStart(7), ...SCALE_COLUMNS.map((key) => key.padStart(9)), 'of 0'.padStart(7)] : []),
  ]
    .join('  ')
    .trimEnd();
}

function statsRow(stats: Stats, style: RowStyle): string {
  const { width, prefix, suffix, hasShape, hasScale, hasScales, hexes, depth } = style;
  const isTotal = stats.name === 'total';
  const percent = (value: number) => `${value.toFixed(2)}%`.padStart(6);
  const shape = isTotal ? `${stats.shape[0]}` : stats.shape.join(' x ');
  const name = isTotal ? stats.name : stats.name.slice(prefix.length, stats.name.length - suffix.length);
  const columns = [
    name.padEnd(width),
    ...(hasShape ? [shape.padStart(13)] : []),
    percent(stats.minus_pct),
    percent(stats.ergodic_pct),
    percent(stats.plus_pct),
    `${`${stats.trit_sum}`.padStart(8)} ${`${stats.gf3_residue} ${stats.gf3_residue === 0 ? '✓' : '✗'}`.padStart(4)}`,
    ...(hasScale ? [stats.scale.toPrecision(4).padStart(9), stats.entropy_bits.toFixed(3)] : []),
    ...(hasScales ? scaleColumns(stats.scales) : []),
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
