// Quantization-aware training from a terminal: data and a model (or a shape) in, a model folder out.

import { readFile } from 'node:fs/promises';
import { basename, join, resolve } from 'node:path';
import { ArgumentError } from '../errors.ts';
import { JsonError, parseJson } from '../formats/strict-json.ts';
import type { DatasetRecord } from '../train/dataset.ts';
import { OPTIMIZERS, type OptimizerKind } from '../train/optimizer.ts';
import { SCHEDULES, type ScheduleKind } from '../train/schedule.ts';
import type { TrainableModel } from '../train/trainable-model.ts';
import { DEFAULT_SETTINGS, type TrainResult, type TrainSettings } from '../train/trainer.ts';
import { type CommandInput, defineCommand } from './command.ts';
import { EXIT } from './exit-status.ts';
import { commandLine } from './next-command.ts';
import type { Output } from './output.ts';
import { openProgressBar } from './progress-bar.ts';

/** A trained model is moved gently, lest it forgets; a new one has nothing to lose. */
const LR_GO_ON = 0.0003;
const LR_NEW = 0.002;

const FLAGS = {
  dataset: {
    type: 'string',
    placeholder: 'FILE',
    description: '.jsonl of {"text"}, {"prompt","completion"} or {"messages"}, or a .txt',
  },
  qat: { type: 'boolean', description: 'Quantization-aware training: the only kind there is' },
  model: {
    type: 'string',
    placeholder: 'M',
    description: 'Model to go on from: default (embedded), a folder, a hub id',
  },
  preset: {
    type: 'string',
    choices: ['tiny', 'small', 'medium'],
    placeholder: 'SHAPE',
    description: 'Begin a new model of this shape, with a tokenizer learned from the data',
  },
  config: { type: 'string', placeholder: 'FILE', description: 'Begin a new model with the shape of this config.json' },
  vocab: {
    type: 'integer',
    min: 259,
    max: 262_144,
    default: 4096,
    placeholder: 'N',
    description: 'Tokens of a new tokenizer',
  },
  context: {
    type: 'integer',
    min: 8,
    max: 32_768,
    placeholder: 'N',
    description: 'Longest sequence (default 256, or less if the model is)',
  },
  out: {
    type: 'string',
    short: 'o',
    default: 'bitnet-trained',
    placeholder: 'DIR',
    description: 'Folder of the trained model',
  },
  steps: {
    type: 'integer',
    min: 1,
    max: 10_000_000,
    default: 300,
    placeholder: 'N',
    description: 'Optimizer steps, at most: see --patience',
  },
  lr: {
    type: 'number',
    min: 0,
    max: 10,
    placeholder: 'X',
    description: `Highest learning rate (default ${LR_GO_ON}, for a new model ${LR_NEW})`,
  },
  schedule: {
    type: 'string',
    choices: SCHEDULES,
    default: 'two-stage',
    placeholder: 'KIND',
    description: 'two-stage drops the rate, and the decay to 0, at half time',
  },
  warmup: { type: 'integer', min: 0, placeholder: 'N', description: 'Steps of rising rate (default 5% of them)' },
  'weight-decay': {
    type: 'number',
    min: 0,
    max: 1,
    default: 0.1,
    placeholder: 'X',
    description: 'Decoupled, on matrices',
  },
  optimizer: { type: 'string', choices: OPTIMIZERS, default: 'adamw', placeholder: 'O', description: 'adamw or sgd' },
  clip: { type: 'number', min: 0, default: 1, placeholder: 'X', description: 'Largest gradient norm; 0 is no limit' },
  'batch-tokens': {
    type: 'integer',
    min: 8,
    max: 4_194_304,
    default: DEFAULT_SETTINGS.batchTokens,
    placeholder: 'N',
    description: 'Tokens of a step',
  },
  'micro-tokens': {
    type: 'integer',
    min: 1,
    default: DEFAULT_SETTINGS.partRows,
    placeholder: 'N',
    description: 'Tokens that go through at once: less memory, the same result',
  },
  seed: { type: 'seed', default: 1069n, placeholder: 'S', description: 'Order of the data, new weights' },
  'eval-share': {
    type: 'number',
    min: 0,
    max: 0.5,
    default: 0.05,
    placeholder: 'X',
    description: 'Share of the data held out',
  },
  'eval-dataset': { type: 'string', placeholder: 'FILE', description: 'Held-out data of its own' },
  'eval-every': {
    type: 'integer',
    min: 1,
    placeholder: 'N',
    description: 'Steps between looks at it (default: 20 looks)',
  },
  patience: {
    type: 'integer',
    min: 0,
    max: 1_000_000,
    default: DEFAULT_SETTINGS.patience,
    placeholder: 'N',
    description: 'Looks without a fall of 0.1% that end the run; 0 takes all steps',
  },
  'save-every': { type: 'integer', min: 1, default: 50, placeholder: 'N', description: 'Steps between saved states' },
  restart: { type: 'boolean', description: 'Begin anew even if --out holds this run' },
  backend: {
    type: 'string',
    choices: ['auto', 'native', 'js'],
    default: 'auto',
    placeholder: 'B',
    description: 'What computes; all give the same bits',
  },
  threads: { type: 'integer', min: 1, max: 256, placeholder: 'N', description: 'Default: one a core' },
} as const;

/** Sequences are no longer than this unless asked for: attention costs by the square. */
const DEFAULT_CONTEXT = 256;

export const command = defineCommand({
  name: 'train',
  summary: 'Train a ternary model on a text (quantization-aware)',
  positionals: [],
  flags: FLAGS,
  examples: [
    'train --dataset data.jsonl --qat --model default --steps 300 --out my-model',
    'train --dataset story.txt --qat --preset tiny --vocab 1024 --steps 2000 --out tiny-model',
  ],
  notes:
    'Run the same command again to resume a run that was stopped or killed: the result is the same. --out gets the packed ' +
    'model (config.json, model.safetensors, tokenizer), its float masters in master/, a model card README.md, the log ' +
    'train.jsonl, the curve loss.png and, until the run is done, the state to resume from, which is larger than the model. ' +
    'The model that is kept is the one with the lowest held-out loss, not the last; the run ends early when that loss has ' +
    'not fallen in --patience looks. Try it: bitnet-gf3 infer "Once upon a time" --model my-model',
  run,
});

async function run({ flags, json, output, signal }: CommandInput<typeof FLAGS>): Promise<number> {
  if (flags.dataset === undefined) {
    throw new ArgumentError({ what: 'train needs --dataset', fix: 'for example: train --dataset data.jsonl --qat' });
  }
  const beginnings = (['model', 'preset', 'config'] as const).filter((name) => flags[name] !== undefined);
  if (beginnings.length > 1) {
    throw new ArgumentError({
      what: `${beginnings.map((name) => `--${name}`).join(' and ')} together`,
      fix: 'give one: --model to go on from a model, --preset or --config to begin a new one',
    });
  }
  const out = resolve(flags.out);
  const { readDataset, sequencesOf, splitHeldOut } = await import('../train/dataset.ts');
  const records = await readDataset(flags.dataset);
  const model = await openModel(flags, records, out, output);
  const context = Math.min(flags.context ?? DEFAULT_CONTEXT, model.config.maxPositionEmbeddings);
  const { loadTokenizer } = await import('../tokenizer/load-tokenizer.ts');
  const tokenizer = await loadTokenizer(model.folder);
  for (const warning of tokenizer.warnings) output.note(`warning: ${warning}`);
  const sequences = records.map((record) => sequencesOf(record, tokenizer, context));
  const evalRecords = flags['eval-dataset'] === undefined ? undefined : await readDataset(flags['eval-dataset']);
  const share = evalRecords === undefined ? flags['eval-share'] : 0;
  const split = splitHeldOut(sequences, { share, seed: flags.seed });
  const heldOut = evalRecords?.flatMap((record) => sequencesOf(record, tokenizer, context)) ?? split.heldOut;

  const { loadTrainKernels } = await import('../train/native-kernels.ts');
  const kernels = await loadTrainKernels({
    kernels: flags.backend as 'auto' | 'native' | 'js',
    ...(flags.threads !== undefined && { threads: flags.threads }),
    onFallback: (reason) => output.note(`training in JavaScript, which is slow: ${reason}`),
  });
  const count = (list: typeof heldOut) => list.reduce((sum, { tokens }) => sum + tokens.length, 0);
  const [trainTokens, heldOutTokens] = [count(split.train), count(heldOut)];
  output.note(
    `${trainTokens} tokens to train on, ${heldOutTokens} held out; ` +
      `${(model.plan.length / 1e6).toFixed(1)} M parameters from ${model.from}; ${kernels.name} ${kernels.isa}, ${kernels.threads} threads`,
  );
  const batchTokens = flags['batch-tokens'];
  if (trainTokens < batchTokens) {
    output.note(
      `the data is smaller than a batch (${trainTokens} of ${batchTokens} tokens): each step sees all of it, so ${flags.steps} steps ` +
        'are as many epochs, and it is learned by heart; give more data, fewer --steps or smaller --batch-tokens',
    );
  }
  if (heldOutTokens === 0) {
    output.note(
      'nothing is held out: no plateau is seen, all steps are taken and the last model is kept; for more than one text, or ' +
        'with --eval-dataset, it is otherwise',
    );
  }

  if (model.from === 'trits') {
    output.note(
      'this model has no float masters (master/): its latents are made up from trits and lie far from every rounding ' +
        'boundary, so at small rates no trit flips and only embedding, norms and scales learn; raise --lr or --steps for flips',
    );
  }

  const { runTraining } = await import('../train/trainer.ts');
  const { steps } = flags;
  const isNew = flags.preset !== undefined || flags.config !== undefined;
  const settings: TrainSettings = {
    schedule: {
      kind: flags.schedule as ScheduleKind,
      lr: flags.lr ?? (isNew ? LR_NEW : LR_GO_ON),
      weightDecay: flags['weight-decay'],
      warmup: flags.warmup ?? Math.round(steps / 20),
      steps,
    },
    optimizer: {
      ...withoutClip(DEFAULT_SETTINGS.optimizer),
      kind: flags.optimizer as OptimizerKind,
      ...(flags.clip > 0 && { clipNorm: flags.clip }),
    },
    batchTokens,
    partRows: flags['micro-tokens'],
    context,
    seed: flags.seed,
    evalEvery: flags['eval-every'] ?? Math.max(1, Math.round(steps / 20)),
    patience: flags.patience,
    saveEvery: flags['save-every'],
  };
  const dataset = basename(flags.dataset);
  let result: TrainResult;
  {
    using bar = openProgressBar({ output, json }, 'train');
    let evalLoss: number | undefined;
    let shown = 0;
    result = await runTraining({
      model,
      train: split.train,
      heldOut,
      out,
      kernels,
      restart: flags.restart,
      signal,
      settings,
      onExported: async (exported) => {
        await drawCurve(join(out, 'loss.png'), exported);
        const { writeModelCard } = await import('../train/model-card.ts');
        await writeModelCard(out, {
          name: basename(out),
          base: isNew ? undefined : (flags.model ?? 'default'),
          from: model.from,
          configJson: model.configJson,
          parameters: model.plan.length,
          ternary: model.plan.all.reduce((sum, { kind, length }) => sum + (kind === 'ternary' ? length : 0), 0),
          dataset,
          trainTokens,
          heldOutTokens,
          settings,
          result: exported,
        });
      },
      onResume: (step) => output.note(`resuming at step ${step} of ${steps}`),
      onProgress: (progress) => {
        evalLoss = progress.evalLoss ?? evalLoss;
        shown = shown === 0 ? progress.loss : 0.9 * shown + 0.1 * progress.loss;
        const held = evalLoss === undefined ? '' : `  held-out ${evalLoss.toFixed(3)}`;
        bar.update(
          progress.step,
          steps,
          `epoch ${progress.epochs.toFixed(1)}  loss ${shown.toFixed(3)}${held}  ${progress.tokensPerSecond.toFixed(0)} tokens/s`,
        );
      },
    });
  }
  const next =
    result.ended === 'stopped'
      ? commandLine(process.argv.slice(2))
      : commandLine(['infer', ...promptOf(records), '--model', out]);
  report(result, { out, next, json, output });
  return result.ended === 'stopped' ? EXIT.stopped : EXIT.ok;
}

const MAX_PROMPT_WORDS = 4;
const MAX_PROMPT_CHARACTERS = 60;

/** How `infer` is best asked to say something like the data: its first words, prompt or question. */
export function promptOf([first]: readonly DatasetRecord[]): readonly string[] {
  const plain = ['Once upon a time'];
  if (first === undefined) return plain;
  const said =
    first.kind === 'text' ? first.text : first.kind === 'completion' ? first.prompt : first.messages[0]!.content;
  const words = said.slice(0, 1000).split(/\s+/).filter(Boolean);
  const text = (first.kind === 'text' ? words.slice(0, MAX_PROMPT_WORDS) : words).join(' ');
  // What a shell or a terminal might take otherwise, or nobody wants to paste.
  if (text === '' || text.startsWith('-') || text.length > MAX_PROMPT_CHARACTERS || /[\p{C}"%!$`\\]/u.test(text))
    return plain;
  const isQuestion = first.kind === 'chat' && first.messages[0]!.role === 'user';
  return isQuestion ? [text, '--chat'] : first.kind === 'chat' ? plain : [text];
}

function withoutClip<T extends { readonly clipNorm?: number }>({ clipNorm: _, ...rest }: T): Omit<T, 'clipNorm'> {
  return rest;
}

async function openModel(
  flags: CommandInput<typeof FLAGS>['flags'],
  records: readonly DatasetRecord[],
  out: string,
  output: Output,
): Promise<TrainableModel> {
  if (flags.preset === undefined && flags.config === undefined) {
    const { resolveModel } = await import('../hub/resolve-model.ts');
    const { openTrainableModel, refuseFile } = await import('../train/trainable-model.ts');
    const location = await resolveModel(flags.model ?? 'default');
    if (location.kind !== 'folder') {
      return refuseFile(location, 'training starts');
    }
    const { refuseOwnFolder } = await import('../train/export-model.ts');
    await refuseOwnFolder(location.path, out);
    return openTrainableModel(location.path);
  }
  const { makeFreshModel } = await import('../train/fresh-model.ts');
  const shape =
    flags.config === undefined ? (flags.preset as 'tiny' | 'small' | 'medium') : await readConfigJson(flags.config);
  const declared = typeof shape === 'string' ? undefined : shape.max_position_embeddings;
  const contextLength = typeof declared === 'number' ? declared : Math.max(1024, flags.context ?? 0);
  const model = await makeFreshModel(out, textsOf(records), {
    shape,
    vocabSize: flags.vocab,
    contextLength,
    seed: flags.seed,
    restart: flags.restart,
  });
  output.note(`a new tokenizer of ${model.config.vocabSize} tokens`);
  return model;
}

async function readConfigJson(path: string): Promise<Record<string, unknown>> {
  const fix = 'give the config.json of a BitNet model';
  let value: unknown;
  try {
    value = parseJson(await readFile(path), { where: path });
  } catch (cause) {
    throw new ArgumentError(
      {
        what: cause instanceof JsonError ? cause.text.what : `cannot be read: ${(cause as Error).message}`,
        where: path,
        fix,
      },
      { cause },
    );
  }
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Record<string, unknown>;
  throw new ArgumentError({ what: 'expected a JSON object', where: path, fix });
}

function* textsOf(records: readonly DatasetRecord[]): Generator<string> {
  for (const record of records) {
    if (record.kind === 'text') yield record.text;
    else if (record.kind === 'completion') yield* [record.prompt, record.completion];
    else for (const message of record.messages) yield message.content;
  }
}

/** Points of the running mean: the curve is read by eye. */
const SMOOTHING = 20;

async function drawCurve(path: string, { log }: TrainResult): Promise<void> {
  const { linePlotPng } = await import('../image/line-plot.ts');
  const { writeFileAtomically } = await import('../formats/atomic-file.ts');
  const trained = log.filter(({ loss }) => loss !== undefined);
  if (trained.length === 0) return;
  const looked = log.filter(({ evalLoss }) => evalLoss !== undefined);
  const losses = trained.map(({ loss }) => loss!);
  const smooth = losses.map((_, i) => {
    const window = losses.slice(Math.max(0, i + 1 - SMOOTHING), i + 1);
    return window.reduce((sum, value) => sum + value, 0) / window.length;
  });
  const x = trained.map(({ step }) => step);
  const png = linePlotPng({
    title: 'Loss',
    xLabel: 'step',
    yLabel: 'nats per token',
    series: [
      { name: 'batch', x, y: losses, faint: true },
      { name: `mean of ${SMOOTHING}`, x, y: smooth },
      ...(looked.length === 0
        ? []
        : [{ name: 'held out', x: looked.map(({ step }) => step), y: looked.map(({ evalLoss }) => evalLoss!) }]),
    ],
  });
  await writeFileAtomically(path, (sink) => sink.write(png));
}

function report(
  result: TrainResult,
  {
    out,
    next,
    json,
    output,
  }: { readonly out: string; readonly next: string; readonly json: boolean; readonly output: Output },
): void {
  const { evalBefore, evalAfter, step, ended, alreadyDone, epochs, bestStep, trainedTokens, seconds } = result;
  const last = result.log.findLast(({ loss }) => loss !== undefined)?.loss;
  if (json) {
    output.json({
      out,
      steps: step,
      finished: ended !== 'stopped',
      ended,
      ...(alreadyDone && { already_done: true }),
      epochs,
      best_step: bestStep,
      ...(last !== undefined && { loss: last }),
      ...(evalBefore !== undefined && { eval_loss_before: evalBefore }),
      ...(evalAfter !== undefined && { eval_loss_after: evalAfter }),
      tokens: trainedTokens,
      seconds,
      next,
    });
    return;
  }
  if (evalBefore !== undefined && evalAfter !== undefined) {
    output.line(`held-out loss ${evalBefore.toFixed(4)} -> ${evalAfter.toFixed(4)} nats per token`);
  }
  const passes = `${step} steps, ${epochs.toFixed(epochs < 10 ? 2 : 0)} epochs`;
  const how = {
    steps: `trained ${passes}`,
    plateau: `the held-out loss no longer falls: ended after ${passes} (with --patience 0 --restart it takes all)`,
    stopped: `stopped after ${passes}`,
  }[ended];
  output.line(alreadyDone ? `this run was done already (${passes}); ${out} is as it was` : `${how}; wrote ${out}`);
  if (!alreadyDone && bestStep < step) {
    output.line(
      bestStep === 0
        ? 'no step lowered the held-out loss: the model written is the one that training began with; try a smaller --lr, or more data'
        : `kept: step ${bestStep}, the lowest held-out loss`,
    );
  }
  output.line(ended === 'stopped' ? 'to go on:' : 'to try it:');
  output.line(`  ${next}`);
}
