import { z } from 'zod';
import { gf3Residue } from '../gf3/sums.ts';
import { worldExpectedValue } from '../world/morphism.ts';
import { defineTool } from './define-tool.ts';
import { residue } from './fields.ts';
import { worldService } from './services.ts';

export const morphismInvertTool = defineTool({
  name: 'morphism_invert',
  title: 'Take a training step back',
  description:
    "The inverse of morphism_step: World' -> World. Give the id of a world that a step led to; returns the world it came " +
    'from, exactly as it was, and what going back costs or gains (wev). Nothing is deleted.',
  input: z.strictObject({
    world: z.string().min(1).describe('World to go back from: an id, its first digits, or "latest"'),
  }),
  output: z.strictObject({
    world: z.string().describe('The world it came from'),
    inverted: z.string().describe('The world given'),
    step_count: z.int().describe('Gradient steps behind it now'),
    morphism: z
      .strictObject({
        text: z.array(z.string()).optional(),
        tokens: z.array(z.array(z.int())).optional(),
        lr: z.number(),
        optimizer: z.enum(['sgd', 'adamw']),
        steps: z.int(),
        conserve: z.boolean(),
      })
      .describe('To take the step again: morphism_step with these and world'),
    loss_before: z.number(),
    loss_after: z.number(),
    wev: z.number(),
    wev_ratio: z.number(),
    flips: z.int(),
    trit_delta_sum: z.int(),
    gf3_residue: residue,
    conserved: z.boolean(),
  }),
  hints: { readOnly: true, idempotent: true },
  example: { world: 'latest' },
  run: async ({ world }, { services }) => {
    const { from, to } = await worldService(services).invert(world);
    // A world that came from another has both.
    const morphism = from.morphism!;
    const report = from.report!;
    const { wev, wevRatio } = worldExpectedValue(report.lossAfter, report.lossBefore);
    // + 0: the negative of 0 is written as 0.
    const sum = -report.tritDeltaSum + 0;
    return {
      world: to.id,
      inverted: from.id,
      step_count: to.stepCount,
      morphism: {
        ...(morphism.text && { text: [...morphism.text] }),
        ...(morphism.tokens && { tokens: morphism.tokens.map((ids) => [...ids]) }),
        lr: morphism.lr,
        optimizer: morphism.optimizer,
        steps: morphism.steps,
        conserve: morphism.conserve,
      },
      loss_before: report.lossAfter,
      loss_after: report.lossBefore,
      wev,
      wev_ratio: wevRatio,
      flips: report.flips,
      trit_delta_sum: sum,
      gf3_residue: gf3Residue(sum),
      conserved: gf3Residue(sum) === 0,
    };
  },
  summarize: ({ world, inverted, flips, wev, loss_before, loss_after }) =>
    [
      `${inverted.slice(0, 12)} -> ${world.slice(0, 12)}: back where the step began, ${flips} trits differ`,
      `loss ${loss_before.toFixed(4)} -> ${loss_after.toFixed(4)}, WEV ${wev >= 0 ? '+' : ''}${wev.toFixed(4)}`,
      `world: ${world}`,
    ].join('\n'),
});
