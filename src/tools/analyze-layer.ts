import { z } from 'zod';
import { tritColors } from '../color/trit-colors.ts';
import { ArgumentError } from '../errors.ts';
import { defineTool } from './define-tool.ts';
import { hex, imageField, modelField, residue, seedField, tritCounts } from './fields.ts';
import { inTurn } from './in-turn.ts';
import type { AnalyzedLayer } from './layer-analysis.ts';
import { fitting } from './result-budget.ts';

/** A picture of more layers than this shows nothing of any. */
const MAX_PICTURED_LAYERS = 16;
/** More say the same. */
const MAX_WARNINGS = 8;
/** Longest side of one layer's map: small enough for a chat, large enough to see structure. */
const PICTURE_SIDE = 512;

const sums = {
  name: z.string(),
  shape: z.array(z.int()).length(2),
  counts: tritCounts,
  minus_pct: z.number(),
  ergodic_pct: z.number(),
  plus_pct: z.number(),
  trit_sum: z.int(),
  gf3_residue: residue,
  conserved: z.boolean(),
  scale: z.number().describe('weight = scale * trit'),
  entropy_bits: z.number(),
  plus_two: z.int().optional().describe('Weights of 2 * scale, in no other number'),
};

const stats = z.strictObject({
  ...sums,
  // One object of numbers: its fields would be a sixteenth of all schemas.
  scales: z
    .record(z.string(), z.number())
    .optional()
    .describe('If several: group, count, min, median, max, zero, largest_share'),
  never_written: z.int().optional().describe('Bytes that no writer makes'),
});

export const analyzeLayerTool = defineTool({
  name: 'analyze_layer',
  title: 'Analyze ternary layers',
  description:
    "Counts the trits of a model's ternary matrices: shares of -1, 0 and +1, GF(3) sum, scale, entropy; plus_two are " +
    'weights of 2 * scale, in none of these. Loads no model. Name a layer or use a glob: large models have hundreds. ' +
    `image: a PNG of up to ${MAX_PICTURED_LAYERS} layers.`,
  input: z.strictObject({
    model: modelField,
    layer: z.string().min(1).max(256).optional().describe('Layer name or glob such as model.layers.0.*; default all'),
    offset: z.int().min(0).default(0).describe('Layers to skip, for the next page'),
    seed: seedField,
    image: imageField.describe('Add a PNG of the trits'),
  }),
  output: z.strictObject({
    model: z.string(),
    colors: z.strictObject({ minus: hex, ergodic: hex, plus: hex }).describe('Seed indices 1-3'),
    layers: z.array(stats),
    total: z.strictObject(sums),
    warnings: z.array(z.string()).optional(),
    next: z.strictObject({ offset: z.int() }).optional().describe('Argument for the rest, if the list was cut'),
  }),
  hints: { readOnly: true, idempotent: true },
  isAside: () => true,
  example: { layer: 'model.layers.0.*' },
  run: async (args, context) => {
    const { services, signal, progress, addImage, resultBudget } = context;
    const { model, layer, offset, seed, image } = args;
    const { layers, total, warnings } = await inTurn('server', context, async () => {
      const { openTernaryModel, selectLayers } = await import('./ternary-model.ts');
      const { analyzeLayers } = await import('./layer-analysis.ts');
      using opened = await openTernaryModel(model, { allowedRoots: services.allowedRoots });
      const chosen = selectLayers(opened.layers, layer);
      if (offset >= chosen.length) {
        throw new ArgumentError({
          what: `analyze_layer: offset ${offset} is past the last of ${chosen.length} ${chosen.length === 1 ? 'layer' : 'layers'}`,
          fix: `give an offset from 0 to ${chosen.length - 1}`,
        });
      }
      const analysis = await analyzeLayers(opened, chosen, { signal, ...(progress && { onLayer: progress }) });
      if (image) {
        const { tritPicture } = await import('./trit-pictures.ts');
        const pictured = chosen.slice(0, MAX_PICTURED_LAYERS);
        addImage({
          png: await tritPicture(opened, pictured, { seed, maxSide: PICTURE_SIDE, signal }),
          caption: `trits of ${pictured.map(({ name }) => name).join(', ')}`,
        });
      }
      return analysis;
    });
    const { minus, ergodic, plus } = tritColors({ seed });
    const rest = layers.slice(offset).map(layerToJson);
    const shown = fitting(rest, resultBudget);
    return {
      model,
      colors: { minus: minus.hex, ergodic: ergodic.hex, plus: plus.hex },
      layers: rest.slice(0, shown),
      total: sumsToJson(total),
      ...(warnings.length > 0 && { warnings: warnings.slice(0, MAX_WARNINGS) }),
      ...(shown < rest.length && { next: { offset: offset + shown } }),
    };
  },
  summarize: ({ model, layers, total, warnings = [], next }) =>
    [
      `${model}: ${layers.length} ternary ${layers.length === 1 ? 'layer' : 'layers'}, ${total.shape[0]} weights`,
      `-1 ${total.minus_pct.toFixed(2)}%, 0 ${total.ergodic_pct.toFixed(2)}%, +1 ${total.plus_pct.toFixed(2)}%, ` +
        `${total.entropy_bits.toFixed(4)} bits a weight`,
      `GF(3) trit sum ${total.trit_sum} mod 3 = ${total.gf3_residue}, ${total.conserved ? 'conserved' : 'not conserved'}`,
      ...(total.plus_two
        ? [`${total.plus_two} weights of +2 times their scale are no trits: shares, entropy and sum leave them out`]
        : []),
      ...warnings,
      ...(next === undefined ? [] : [`the total is of all layers; for more of the list: {"offset": ${next.offset}}`]),
    ].join('\n'),
});

/** The contract's spelling. */
function layerToJson(layer: AnalyzedLayer) {
  const { scales, neverWritten } = layer;
  return {
    ...sumsToJson(layer),
    ...(scales !== undefined && {
      scales: {
        ...(scales.group !== undefined && { group: scales.group }),
        count: scales.count,
        min: scales.min,
        median: scales.median,
        max: scales.max,
        zero: scales.zeros,
        largest_share: scales.largestShare,
      },
    }),
    ...(neverWritten > 0 && { never_written: neverWritten }),
  };
}

function sumsToJson({ name, shape, counts, scale, plusTwo, ...stats }: AnalyzedLayer) {
  return {
    name,
    shape,
    counts,
    minus_pct: stats.minusPct,
    ergodic_pct: stats.ergodicPct,
    plus_pct: stats.plusPct,
    trit_sum: stats.tritSum,
    gf3_residue: stats.gf3Residue,
    conserved: stats.conserved,
    scale,
    entropy_bits: stats.entropyBits,
    ...(plusTwo !== undefined && { plus_two: plusTwo }),
  };
}
