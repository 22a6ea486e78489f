import { z } from 'zod';
import { colorAt } from '../color/palette.ts';
import { defineTool } from './define-tool.ts';
import { colorFields, schemeField, seedField } from './fields.ts';
import { inTurn, isLongWalk, numberIn } from './in-turn.ts';

export const colorAtTool = defineTool({
  name: 'color_at',
  title: 'Color at an index',
  description:
    'The color, GF(3) trit and role at one index of a seeded color stream. The same seed, index and scheme always give ' +
    'the same color. For several, call palette once.',
  input: z.strictObject({
    index: z.int().min(0).describe('Position in the stream; sequences start at 1'),
    seed: seedField,
    scheme: schemeField,
  }),
  output: z.strictObject({ index: z.int(), seed: z.string().describe('Decimal'), scheme: z.string(), ...colorFields }),
  hints: { readOnly: true, idempotent: true },
  // The walk of gay-mcp may need a turn.
  isInstant: ({ scheme }) => scheme !== 'gay-mcp',
  isAside: ({ index, scheme }) => scheme === 'gay-mcp' && isLongWalk('gay-mcp', numberIn(index)),
  example: { index: 1 },
  run: ({ index, seed, scheme }, context) => {
    const compute = () => {
      const { index: _, ...color } = colorAt({ seed, index, scheme });
      return { index, seed: `${seed}`, scheme, ...color };
    };
    return isLongWalk(scheme, index) ? inTurn('server', context, compute) : compute();
  },
  summarize: ({ index, seed, hex, trit, role }) => `color ${index} of seed ${seed}: ${hex}, trit ${trit} (${role})`,
});
