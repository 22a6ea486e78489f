import { z } from 'zod';
import { ArgumentError } from '../errors.ts';
import { OPTIMIZERS } from '../train/optimizer.ts';
import { MAX_STEPS, worldExpectedValue } from '../world/morphism.ts';
import { morphismColor } from '../world/morphism-color.ts';
import { defineTool } from './define-tool.ts';
import { colorFields, residue, seedField } from './fields.ts';
import { inTurn } from './in-turn.ts';
import { worldService } from './services.ts';

/**
 * Rates at which several steps on one paragraph keep lowering the loss of the embedded model. AdamW's first steps move
 * every weight by about the rate, so its rate is small.
 */
const DEFAULT_LR = { sgd: 0.02, adamw: 0.00003 } as const;

export const layerChange = z.strictObject({
  name: z.string(),
  flips: z.int().describe('Trits that changed'),
  trit_delta_sum: z.int(),
});

export const morphismStepTool = defineTool({
  name: 'morphism_step',
  title: 'Take a training step',
  description:
    "One quantization-aware training step on a ternary model, as a morphism World -> World'. Give model to begin a " +
    "world or world (an id) to go on from one, and a batch as text or tokens. Returns the new world's id, the loss " +
    "before and after on the same batch, what that gained (wev), and which layers' trits flipped. Worlds are stored; " +
    'the model itself is never changed. morphism_invert takes the step back. Takes seconds.',
  input: z.strictObject({
    world: z.string().min(1).optional().describe('World to step from: an id, its first digits, or "latest"'),
    model: z.string().min(1).optional().describe('Model to begin a world from; "default" is the embedded one'),
    text: z.array(z.string().min(1)).min(1).max(256).optional().describe('The batch as texts'),
    tokens: z
      .array(z.array(z.int().min(0)).min(2))
      .min(1)
      .max(256)
      .optional()
      .describe('The batch as token ids'),
    lr: z.number().gt(0).max(10).optional().describe('Above 0; default 0.00003 for adamw, 0.02 for sgd'),
    optimizer: z.enum(OPTIMIZERS).default('adamw'),
    steps: z.int().min(1).max(MAX_STEPS).default(1).describe('Steps on the same batch'),
    conserve: z
      .boolean()
      .default(false)
      .describe('Flip the fewest, least certain trits for trit changes that sum to 0 mod 3'),
    seed: seedField,
  }),
  output: z.strictObject({
    world_before: z.string(),
    world_after: z.string(),
    loss_before: z.number().describe('Nats per token'),
    loss_after: z.number().describe('On the same batch'),
    wev: z.number().describe('loss_before - loss_after'),
    wev_ratio: z.number().describe('loss_before / loss_after - 1'),
    layers: z.array(layerChange).describe('Those in which trits changed'),
    unchanged_layers: z.int().describe('How many others there are'),
    trit_delta_sum: z.int(),
    gf3_residue: residue,
    conserved: z.boolean(),
    morphism_color: z.strictObject({ index: z.int(), ...colorFields }),
  }),
  // The store grows by a world; the same call again lands on the same ids.
  hints: { readOnly: false, idempotent: true, destructive: false },
  example: { model: 'default', text: ['The little fox ran home.'], conserve: true },
  run: async (args, context) => {
    const { services, signal, progress } = context;
    const { text, tokens } = args;
    if ((text === undefined) === (tokens === undefined)) {
      throw new ArgumentError({
        what: `morphism_step: ${text === undefined ? 'neither text nor tokens' : 'text and tokens together'}`,
        fix: 'give exactly one of text (a list of strings) and tokens (a list of lists of ids)',
      });
    }
    if (args.world !== undefined && args.model !== undefined) {
      throw new ArgumentError({
        what: 'morphism_step: world and model together',
        fix: 'give world to go on, or model to begin; a world knows its model',
      });
    }
    const request = {
      ...(args.world === undefined ? { model: args.model ?? 'default' } : { world: args.world }),
      ...(text !== undefined && { text }),
      ...(tokens !== undefined && { tokens }),
      lr: args.lr ?? DEFAULT_LR[args.optimizer],
      optimizer: args.optimizer,
      steps: args.steps,
      conserve: args.conserve,
    };
    const hooks = { ...(signal && { signal }), ...(progress && { onProgress: progress }) };
    const worlds = worldService(services);
    const { before, after, report } = await inTurn('worlds', context, () => worlds.step(request, hooks));
    const { lossBefore, lossAfter } = report;
    const { wev, wevRatio } = worldExpectedValue(lossBefore, lossAfter);
    const changed = report.layers.filter(({ flips }) => flips > 0);
    return {
      world_before: before.id,
      world_after: after.id,
      loss_before: lossBefore,
      loss_after: lossAfter,
      wev,
      wev_ratio: wevRatio,
      layers: changed.map(({ name, flips, tritDeltaSum }) => ({ name, flips, trit_delta_sum: tritDeltaSum })),
      unchanged_layers: report.layers.length - changed.length,
      trit_delta_sum: report.tritDeltaSum,
      gf3_residue: report.gf3Residue,
      conserved: report.conserved,
      morphism_color: morphismColor(text ?? tokens!, args.seed),
    };
  },
  summarize: ({
    world_before,
    world_after,
    loss_before,
    loss_after,
    wev,
    layers,
    unchanged_layers,
    trit_delta_sum,
    gf3_residue,
    conserved,
    morphism_color,
  }) => {
    const flips = layers.reduce((sum, layer) => sum + layer.flips, 0);
    return [
      `${world_before.slice(0, 12)} -> ${world_after.slice(0, 12)}  ${morphism_color.hex}`,
      `loss ${loss_before.toFixed(4)} -> ${loss_after.toFixed(4)}, WEV ${wev >= 0 ? '+' : ''}${wev.toFixed(4)}`,
      `${flips} trits flipped in ${layers.length} of ${layers.length + unchanged_layers} layers; their changes sum to ${trit_delta_sum} mod 3 = ${gf3_residue}, ${conserved ? 'conserved' : 'not conserved'}`,
      ...(flips > 0
        ? []
        : [
            'No latent crossed a rounding boundary, so only embedding, norms and scales moved. For flips give a larger lr or more ' +
              'steps; a model without float masters (a folder master/ in its own) begins far from every boundary.',
          ]),
      `to go on: {"world": "${world_after}"}; to take it back: morphism_invert {"world": "${world_after}"}`,
    ].join('\n');
  },
});
