// Worlds from a terminal: steps and their inverses, the worlds in the store, and what changed from one to another.

import { ansiSwatch } from '../color/terminal.ts';
import { ArgumentError } from '../errors.ts';
import { tritSymbol } from '../gf3/trit.ts';
import { callTool } from '../tools/call-tool.ts';
import type { Tool } from '../tools/define-tool.ts';
import { morphismInvertTool } from '../tools/morphism-invert.ts';
import { morphismStepTool } from '../tools/morphism-step.ts';
import { nearest } from '../tools/nearest.ts';
import { worldRecordToJson } from '../tools/world-json.ts';
import type { WorldRecord } from '../world/world-store.ts';
import { conservationVerdict } from './color-line.ts';
import { type CommandInput, defineCommand, type FlagSpec, type FlagSpecs } from './command.ts';
import { openProgressBar } from './progress-bar.ts';
import { NO_SERVICES, toolFlags } from './tool-command.ts';
import { wrap } from './wrap.ts';
import { refuseOtherThanPng } from './write-output.ts';

/** Fields of morphism_step that are flags of `world step` by the same name. */
const STEP_FIELDS = ['lr', 'optimizer', 'steps', 'conserve'] as const;

const FLAGS = {
  text: { type: 'strings', placeholder: 'TEXT', description: 'step: a text of the batch (may be repeated)' },
  model: {
    type: 'string',
    placeholder: 'M',
    description: 'step: model to begin from (default, a folder, a hub id) when no WORLD is given; default: default',
  },
  ...(Object.fromEntries(
    Object.entries(toolFlags(morphismStepTool, STEP_FIELDS)).map(([name, spec]) => [
      name,
      { ...spec, description: `step: ${spec.description || 'which one'}` },
    ]),
  ) as Record<never, never>),
  layer: { type: 'string', placeholder: 'NAME', description: 'diff: the layer to draw' },
  out: {
    type: 'string',
    short: 'o',
    placeholder: 'PATH',
    description: "diff: PNG of one layer's flips; export: folder of the model",
  },
  seed: { type: 'seed', default: 1069n, placeholder: 'S', description: 'step, diff: color stream' },
  descendants: { type: 'boolean', description: 'delete: also the worlds that came from it' },
} as const;

/** Ids that each action takes: at least, at most. */
const IDS = {
  list: [0, 0],
  step: [0, 1],
  invert: [1, 1],
  log: [1, 1],
  diff: [2, 2],
  export: [1, 1],
  delete: [1, 1],
} as const satisfies Record<string, readonly [number, number]>;
type Action = keyof typeof IDS;
const ACTIONS = Object.keys(IDS) as Action[];

export const command = defineCommand({
  name: 'world',
  summary: 'Take training steps and take them back; list, log, compare, export or delete worlds',
  positionals: [
    { name: 'ACTION', description: ACTIONS.join(', '), choices: ACTIONS },
    { name: 'WORLD', description: 'id, its first digits, or latest', optional: true },
    { name: 'OTHER', description: 'diff: the world to compare with', optional: true },
  ],
  flags: FLAGS,
  examples: [
    'world step --text "The little fox ran home." --conserve',
    'world step latest --text "The little fox ran home."',
    'world invert latest',
    'world list',
    'world log latest',
    'world diff 8f8afb 4e9543 --layer model.layers.0.mlp.gate_proj.weight -o flips.png',
    'world export latest --out my-model',
    'world delete 8f8afb --descendants',
  ],
  notes:
    'A step goes from one world to the next, and invert goes back; the model itself is never changed. BITNET_WORLDS names ' +
    'the folder of the store. The MCP tools morphism_step and morphism_invert do the same to the same store.',
  run,
});

type Input = CommandInput<typeof FLAGS>;

async function run(input: Input): Promise<number> {
  const [action, ...ids] = input.positionals;
  if (!isAction(action)) {
    const guess = nearest(action!, ACTIONS);
    throw new ArgumentError({
      what: `world has no action "${action}"`,
      fix: `${guess === undefined ? '' : `did you mean ${guess}? `}one of ${ACTIONS.join(', ')}`,
    });
  }
  const [least, most] = IDS[action];
  if (ids.length < least || ids.length > most) {
    const takes = least === most ? `${most}` : `at most ${most}`;
    throw new ArgumentError({
      what: `world ${action} takes ${takes} ${most === 1 ? 'id' : 'ids'}, got ${ids.length}`,
      fix: 'see `world list` for the ids',
    });
  }
  refuseFlagsOfOthers(input, action);
  const { Worlds } = await import('../world/worlds.ts');
  const worlds = await Worlds.open();
  const { json, output } = input;
  switch (action) {
    case 'step':
      await step(input, worlds, ids[0]);
      return 0;
    case 'invert':
      await invert(input, worlds, ids[0]!);
      return 0;
    case 'list':
    case 'log': {
      const { records, broken } =
        action === 'list' ? await worlds.store.survey() : { records: await worlds.log(ids[0]!), broken: [] };
      if (json) output.json(records.map(worldRecordToJson));
      else if (records.length === 0) output.line('no worlds yet: bitnet-gf3 world step begins one');
      else for (const record of records) output.line(wrap(describe(record), output.width, '  '));
      if (broken.length > 0) {
        output.note(`${broken.length} ${broken.length === 1 ? 'record is' : 'records are'} broken and left out:`);
        for (const { message } of broken.slice(0, 5)) output.note(`  ${message}`);
      }
      return 0;
    }
    case 'delete': {
      const gone = await worlds.delete(ids[0]!, { descendants: input.flags.descendants });
      if (json) output.json({ deleted: gone });
      else output.line(`deleted ${gone.length === 1 ? gone[0] : `${gone.length} worlds`}`);
      return 0;
    }
    case 'diff':
      await diff(input, worlds, ids as [string, string]);
      return 0;
    case 'export':
      await exportWorld(input, worlds, ids[0]!);
      return 0;
  }
}

function isAction(text: string | undefined): text is Action {
  return ACTIONS.some((action) => action === text);
}

type Worlds = Awaited<ReturnType<typeof import('../world/worlds.ts').Worlds.open>>;

/** What an action would not look at is a misunderstanding, not a detail. */
function refuseFlagsOfOthers({ flags }: Input, action: Action): void {
  const of: Readonly<Record<string, readonly Action[]>> = {
    text: ['step'],
    model: ['step'],
    ...Object.fromEntries(STEP_FIELDS.map((name) => [name, ['step']])),
    layer: ['diff'],
    out: ['diff', 'export'],
    descendants: ['delete'],
  };
  const given = flags as Readonly<Record<string, unknown>>;
  for (const [name, actions] of Object.entries(of)) {
    const { type, default: standard }: FlagSpec = (FLAGS as FlagSpecs)[name]!;
    const isGiven = given[name] !== (type === 'boolean' ? false : standard);
    if (isGiven && !actions.includes(action)) {
      throw new ArgumentError({
        what: `world ${action} takes no --${name}`,
        fix: `leave it out; it goes with ${actions.map((one) => `world ${one}`).join(', ')}`,
      });
    }
  }
}

type StepJson = {
  readonly world_before: string;
  readonly world_after: string;
  readonly loss_before: number;
  readonly loss_after: number;
  readonly wev: number;
  readonly layers: readonly { readonly name: string; readonly flips: number; readonly trit_delta_sum: number }[];
  readonly trit_delta_sum: number;
  readonly gf3_residue: number;
  readonly morphism_color: { readonly index: number; readonly hex: string };
};

const short = (id: string) => id.slice(0, 12);

/** Runs one of the morphisms' tools on the store of this process. */
async function callOn(
  worlds: Worlds,
  tool: Tool,
  args: Record<string, unknown>,
  { json, output, signal }: Input,
): Promise<Record<string, unknown>> {
  using bar = openProgressBar({ output, json }, tool === morphismStepTool ? 'step' : 'invert');
  const { structured } = await callTool(tool, args, {
    services: { ...NO_SERVICES, worlds },
    signal,
    progress: (done, total = 0, message) => bar.update(done, total, message),
  });
  return structured;
}

async function step(input: Input, worlds: Worlds, world: string | undefined): Promise<void> {
  const { flags, json, output } = input;
  if (flags.text === undefined) {
    throw new ArgumentError({
      what: 'world step needs --text',
      fix: 'for example: bitnet-gf3 world step --text "The little fox ran home."',
    });
  }
  const chosen = flags as Readonly<Record<string, unknown>>;
  const args = {
    text: flags.text,
    ...(world !== undefined && { world }),
    ...(flags.model !== undefined && { model: flags.model }),
    seed: `${flags.seed}`,
    ...Object.fromEntries(STEP_FIELDS.flatMap((name) => (chosen[name] === undefined ? [] : [[name, chosen[name]]]))),
  };
  const result = await callOn(worlds, morphismStepTool, args, input);
  const { layers, ...rest } = result as StepJson;
  const changed = layers.filter(({ flips }) => flips > 0);
  if (json) {
    output.json({ ...rest, layers: changed });
    return;
  }
  const { world_before: before, world_after: after, wev, morphism_color: color } = rest;
  const flips = changed.reduce((sum, layer) => sum + layer.flips, 0);
  const swatch = ansiSwatch(color.hex, output.colorDepth);
  const lines = [
    `${short(before)} -> ${short(after)}  ${swatch === '' ? '' : `${swatch} `}${color.hex}`,
    `loss ${rest.loss_before.toFixed(4)} -> ${rest.loss_after.toFixed(4)} nats per token on these texts, gained ${signed(wev, 4)}`,
    `${flips} trits flipped in ${changed.length} ${changed.length === 1 ? 'matrix' : 'matrices'}; their changes sum to ${conservationVerdict(rest.trit_delta_sum, rest.gf3_residue)}`,
  ];
  for (const line of lines) output.line(wrap(line, output.width, '  '));
  if (flips === 0) {
    output.note('no trit flipped, so only embedding, norms and scales moved; a larger --lr or more --steps give flips');
  }
  output.note(
    `which ones: bitnet-gf3 world diff ${short(before)} ${short(after)}; back: bitnet-gf3 world invert ${short(after)}`,
  );
}

async function invert(input: Input, worlds: Worlds, world: string): Promise<void> {
  const { json, output } = input;
  const result = await callOn(worlds, morphismInvertTool, { world }, input);
  if (json) {
    output.json(result);
    return;
  }
  const {
    world: to,
    inverted,
    ...told
  } = result as unknown as StepJson & {
    readonly world: string;
    readonly inverted: string;
    readonly flips: number;
    readonly step_count: number;
  };
  const { flips, step_count: steps } = told;
  const lines = [
    `${short(inverted)} -> ${short(to)}: back where the step began, ${steps} ${steps === 1 ? 'step' : 'steps'} from the model`,
    `loss ${told.loss_before.toFixed(4)} -> ${told.loss_after.toFixed(4)} nats per token on its texts, gained ${signed(told.wev, 4)}`,
    `${flips} trits differ; their changes sum to ${conservationVerdict(told.trit_delta_sum, told.gf3_residue)}`,
  ];
  for (const line of lines) output.line(wrap(line, output.width, '  '));
  output.note(`nothing is deleted: ${short(inverted)} is still there (bitnet-gf3 world list)`);
}

async function diff(
  { flags, json, output, signal }: Input,
  worlds: Worlds,
  [from, to]: [string, string],
): Promise<void> {
  if (flags.out !== undefined) refuseOtherThanPng(flags.out);
  const hooks = { signal };
  using bar = openProgressBar({ output, json }, 'replay');
  const layers = await worlds.diff(from, to, {
    ...hooks,
    onProgress: (done, total, message) => bar.update(done, total, message),
  });
  const changed = layers.filter(({ flips }) => flips > 0);
  const flips = changed.reduce((sum, layer) => sum + layer.flips, 0);
  const sum = changed.reduce((total, layer) => total + layer.tritDeltaSum, 0);
  if (flags.out !== undefined) {
    const layer = flags.layer ?? [...changed].sort((a, b) => b.flips - a.flips)[0]?.name ?? layers[0]!.name;
    const { shape, signs } = await worlds.changes(from, to, layer, hooks);
    const { tritMapPng } = await import('../image/trit-map.ts');
    const { pictureColors } = await import('../color/picture-colors.ts');
    const { writeFileAtomically } = await import('../formats/atomic-file.ts');
    const [rows, columns] = shape;
    const png = await tritMapPng({
      name: `changes of ${layer}`,
      rows,
      columns,
      readRows: (start, end) => signs.subarray(start * columns, end * columns),
      ...pictureColors({ seed: flags.seed }),
      labels: { minus: 'fell', ergodic: 'stayed', plus: 'rose' },
    });
    await writeFileAtomically(flags.out, (sink) => sink.write(png));
    output.note(`wrote ${flags.out}: where trits of ${layer} fell, stayed and rose`);
  }
  if (json) {
    output.json({
      flips,
      trit_delta_sum: sum,
      layers: changed.map(({ name, shape, flips: count, tritDeltaSum, kinds }) => ({
        name,
        shape,
        flips: count,
        trit_delta_sum: tritDeltaSum,
        kinds,
      })),
    });
    return;
  }
  for (const { name, shape, flips: count, tritDeltaSum, kinds } of changed) {
    const share = ((100 * count) / (shape[0] * shape[1])).toFixed(3);
    const parts = Object.entries(kinds).map(([kind, n]) => `${kind[0]}>${kind[1]} ${n}`);
    const line = `${name}  ${count} (${share} %)  sum ${signed(tritDeltaSum)}  ${parts.join('  ')}`;
    output.line(wrap(line, output.width, '  '));
  }
  const residue = ((sum % 3) + 3) % 3;
  const line = `${flips} trits differ; their changes sum to ${conservationVerdict(sum, residue)}`;
  output.line(wrap(line, output.width, '  '));
}

async function exportWorld({ flags, json, output, signal }: Input, worlds: Worlds, world: string): Promise<void> {
  const out = flags.out;
  if (out === undefined) {
    throw new ArgumentError({ what: 'world export needs --out', fix: 'name the folder of the model' });
  }
  const state = await worlds.state(world, { signal });
  const [record] = await worlds.log(world);
  const model = await worlds.modelOf(record!);
  const { exportModel, refuseOwnFolder } = await import('../train/export-model.ts');
  const { configJson, plan, folder } = model;
  await refuseOwnFolder(folder, out);
  await exportModel(out, { configJson, plan, latents: state.latents, companions: folder });
  if (json) output.json({ world: record!.id, out });
  else output.line(`wrote ${out}: packed model, and masters in ${out}/master`);
}

function describe(record: WorldRecord): string {
  const { id, parent, base, stepCount, morphism, report } = record;
  const head = `${id.slice(0, 12)}  step ${stepCount}`;
  if (morphism === undefined || report === undefined) return `${head}  begins from ${base.model}`;
  const batch = morphism.text?.join(' | ') ?? JSON.stringify(morphism.tokens);
  const shown = batch.length > 40 ? `${batch.slice(0, 37)}...` : batch;
  const trit = ((((report.tritDeltaSum % 3) + 4) % 3) - 1) as -1 | 0 | 1;
  return [
    head,
    `from ${parent!.slice(0, 12)}`,
    `loss ${report.lossBefore.toFixed(4)} -> ${report.lossAfter.toFixed(4)}`,
    `${report.flips} flips [${tritSymbol(trit)}]`,
    `${morphism.optimizer} ${morphism.lr}${morphism.conserve ? ' conserved' : ''}`,
    JSON.stringify(shown),
  ].join('  ');
}

function signed(value: number, digits = 0): string {
  return `${value > 0 ? '+' : ''}${value.toFixed(digits)}`;
}
