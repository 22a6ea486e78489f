import { z } from 'zod';
import { palette } from '../color/palette.ts';
import { gf3Residue, isConserved, tritSum } from '../gf3/sums.ts';
import { defineTool } from './define-tool.ts';
import { colorFields, imageField, residue, schemeField, seedField } from './fields.ts';
import { inTurn, isLongWalk, numberIn } from './in-turn.ts';
import { fitting } from './result-budget.ts';

/** Enough for any picture; keeps a result within what clients accept. */
const MAX_COLORS = 4096;
/** So many are computed and written in less than a millisecond. */
const FEW_COLORS = 64;

export const paletteTool = defineTool({
  name: 'palette',
  title: 'Palette',
  description:
    'A run of colors of a seeded stream with their trits and the GF(3) sum. Set image for a PNG of the swatches. ' +
    'Large palettes make large results: ask for what you need.',
  input: z.strictObject({
    n: z.int().min(1).max(MAX_COLORS).describe('How many colors'),
    seed: seedField,
    start: z.int().min(0).default(1).describe('Index of the first'),
    scheme: schemeField,
    image: imageField.describe('Add a PNG of the swatches'),
  }),
  output: z.strictObject({
    seed: z.string().describe('Decimal'),
    scheme: z.string(),
    start: z.int(),
    colors: z.array(z.strictObject({ index: z.int(), ...colorFields })),
    trit_sum: z.int(),
    gf3_residue: residue,
    conserved: z.boolean(),
    next: z.strictObject({ start: z.int(), n: z.int() }).optional().describe('Arguments for the rest, if it was cut'),
  }),
  hints: { readOnly: true, idempotent: true },
  isInstant: ({ n, scheme, image }) =>
    typeof n === 'number' && n <= FEW_COLORS && scheme !== 'gay-mcp' && (image === undefined || image === false),
  isAside: ({ n, scheme, image }) => numberIn(n) > FEW_COLORS || (image ?? false) !== false || scheme === 'gay-mcp',
  example: { n: 12 },
  run: async (args, context) => {
    const { n, seed, start, scheme, image } = args;
    const { addImage, resultBudget } = context;
    const draw = async () => {
      const colors = palette({ seed, start, n, scheme });
      if (image) {
        const { swatchPng } = await import('../image/swatches.ts');
        addImage({
          png: swatchPng(colors),
          caption: `${n} swatches of seed ${seed} (${scheme}) from index ${start}`,
        });
      }
      return colors;
    };
    const all = image || isLongWalk(scheme, start + n) ? await inTurn('server', context, draw) : await draw();
    // A page is what a smaller n would have given, sums included; the picture shows everything.
    const shown = fitting(all, resultBudget);
    const colors = all.slice(0, shown);
    const sum = tritSum(colors.map(({ trit }) => trit));
    return {
      seed: `${seed}`,
      scheme,
      start,
      colors,
      trit_sum: sum,
      gf3_residue: gf3Residue(sum),
      conserved: isConserved(sum),
      ...(shown < n && { next: { start: start + shown, n: n - shown } }),
    };
  },
  summarize: ({ colors, seed, trit_sum, conserved, next }) => {
    const shown = colors.slice(0, 12).map(({ hex }) => hex);
    const rest = next === undefined ? '' : `; for the rest: {"start": ${next.start}, "n": ${next.n}}`;
    const more = colors.length > shown.length ? ` and ${colors.length - shown.length} more` : '';
    return `seed ${seed}: ${shown.join(' ')}${more}; trit sum ${trit_sum}, ${conserved ? 'conserved' : 'not conserved'} mod 3${rest}`;
  },
});
