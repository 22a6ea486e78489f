// Worlds from a terminal: what morphism_step left in the store, and what changed from one to another.

import { ArgumentError } from '../errors.ts';
import { tritSymbol } from '../gf3/trit.ts';
import { worldRecordToJson } from '../tools/world-json.ts';
import type { WorldRecord } from '../world/world-store.ts';
import { type CommandInput, defineCommand } from './command.ts';
import { openProgressBar } from './progress-bar.ts';

const FLAGS = {
  layer: { type: 'string', placeholder: 'NAME', description: 'diff: the layer to draw' },
  out: {
    type: 'string',
    short: 'o',
    placeholder: 'PATH',
    description: "diff: PNG of one layer's flips; export: folder of the model",
  },
  seed: { type: 'seed', default: 1069n, placeholder: 'S', description: 'diff: color stream of the picture' },
  descendants: { type: 'boolean', description: 'delete: also the worlds that came from it' },
} as const;

const ACTIONS = ['list', 'log', 'diff', 'delete', 'export'] as const;
type Action = (typeof ACTIONS)[number];
/** Ids that each action takes. */
const IDS: Readonly<Record<Action, number>> = { list: 0, log: 1, diff: 2, delete: 1, export: 1 };

export const command = defineCommand({
  name: 'world',
  summary: 'List, log, compare, export or delete the worlds of morphism_step',
  positionals: [
    { name: 'ACTION', description: ACTIONS.join(', ') },
    { name: 'WORLD', description: 'id, its first digits, or latest', optional: true },
    { name: 'OTHER', description: 'diff: the world to compare with', optional: true },
  ],
  flags: FLAGS,
  examples: [
    'world list',
    'world log latest',
    'world diff 3f9c21 8ab04e --layer model.layers.0.mlp.gate_proj -o flips.png',
    'world export latest --out my-model',
    'world delete 8ab04e',
  ],
  notes: 'BITNET_WORLDS names the folder of the store. Worlds are begun and stepped with the MCP tool morphism_step.',
  run,
});

type Input = CommandInput<typeof FLAGS>;

async function run(input: Input): Promise<number> {
  const [action, ...ids] = input.positionals;
  if (!isAction(action)) {
    throw new ArgumentError({ what: `world has no action "${action}"`, fix: `one of ${ACTIONS.join(', ')}` });
  }
  if (ids.length !== IDS[action]) {
    throw new ArgumentError({
      what: `world ${action} takes ${IDS[action]} ids, got ${ids.length}`,
      fix: 'see `world list` for the ids',
    });
  }
  const { Worlds } = await import('../world/worlds.ts');
  const worlds = await Worlds.open();
  const { json, output } = input;
  switch (action) {
    case 'list':
    case 'log': {
      const { records, broken } =
        action === 'list' ? await worlds.store.survey() : { records: await worlds.log(ids[0]!), broken: [] };
      if (json) output.json(records.map(worldRecordToJson));
      else if (records.length === 0) output.line('no worlds yet: call morphism_step');
      else for (const record of records) output.line(describe(record));
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

async function diff(
  { flags, json, output, signal }: Input,
  worlds: Worlds,
  [from, to]: [string, string],
): Promise<void> {
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
      layers: layers.map(({ name, shape, flips: count, tritDeltaSum, kinds }) => ({
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
    output.line(`${name}  ${count} (${share} %)  sum ${signed(tritDeltaSum)}  ${parts.join('  ')}`);
  }
  const residue = ((sum % 3) + 3) % 3;
  output.line(
    `${flips} trits differ; their changes sum to ${sum} mod 3 = ${residue} ${residue === 0 ? '✓ CONSERVED' : ''}`,
  );
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

function signed(value: number): string {
  return value > 0 ? `+${value}` : `${value}`;
}
