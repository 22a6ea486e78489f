// A training run: data in, model folder out. Same data, model and settings give the same bits, whatever the threads, and
// however often the run was interrupted. It ends when its steps are taken or held-out loss no longer falls; the checkpoint
// with the lowest held-out loss is the one that is written.

import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { makeFolder } from '../formats/make-folder.ts';
import { type Batch, makeBatch, type Sequence } from './batch.ts';
import { checkOptimizer, checkSchedule } from './check-rates.ts';
import { BatchDealer, type Cursor, DatasetError } from './dataset.ts';
import { exportModel } from './export-model.ts';
import type { TrainKernels } from './kernels.ts';
import { Network } from './network.ts';
import { DEFAULT_OPTIMIZER, type OptimizerSettings, optimizerStep, zeroOptimizerState } from './optimizer.ts';
import { type LogEntry, RunLog } from './run-log.ts';
import {
  type Done,
  forgetDone,
  NOTHING_WATCHED,
  readDone,
  readRunState,
  type Watch,
  writeDone,
  writeRunState,
} from './run-state.ts';
import { ratesAt, type ScheduleSettings } from './schedule.ts';
import { hashOf, MASTER_FOLDER, type TrainableModel } from './trainable-model.ts';
import { onPlateau, watchLook } from './watch.ts';

export type TrainSettings = {
  readonly schedule: ScheduleSettings;
  readonly optimizer: OptimizerSettings;
  /** Tokens of one step. */
  readonly batchTokens: number;
  /** Rows that go through the network at once: memory, not bits. */
  readonly partRows: number;
  /** Longest sequence. */
  readonly context: number;
  readonly seed: bigint;
  /** Steps between looks at the held-out data. */
  readonly evalEvery: number;
  /** Looks in a row without a clear fall of the held-out loss that end the run; 0: it takes all its steps. */
  readonly patience: number;
  /** Steps between saved states. */
  readonly saveEvery: number;
};

export type TrainProgress = {
  readonly step: number;
  readonly steps: number;
  /** Passes over the data so far: 2.5 is halfway through the third. */
  readonly epochs: number;
  readonly loss: number;
  readonly evalLoss: number | undefined;
  readonly tokensPerSecond: number;
  readonly secondsLeft: number;
};

export type TrainRequest = {
  readonly model: TrainableModel;
  readonly train: readonly Sequence[];
  readonly heldOut: readonly Sequence[];
  readonly settings: TrainSettings;
  readonly out: string;
  readonly kernels: TrainKernels;
  /** Begin anew even if `out` holds a state of this run. */
  readonly restart?: boolean;
  readonly signal?: AbortSignal;
  readonly onProgress?: (progress: TrainProgress) => void;
  readonly onResume?: (step: number) => void;
  /** Writes what belongs beside the model. The run counts as done only after it, so a crash in it is made up for. */
  readonly onExported?: (result: TrainResult) => Promise<void>;
};

export type TrainResult = {
  readonly step: number;
  /** `stopped`: by the signal; the same request goes on. `plateau`: held-out loss no longer fell. */
  readonly ended: 'steps' | 'plateau' | 'stopped';
  /** The folder held this very run, done; nothing was trained or written. */
  readonly alreadyDone: boolean;
  readonly epochs: number;
  /** Held-out loss before the first step and of the model that was written; undefined without held-out data. */
  readonly evalBefore: number | undefined;
  readonly evalAfter: number | undefined;
  /** Step of the model that was written: that of the lowest held-out loss; the last one without held-out data. */
  readonly bestStep: number;
  readonly trainedTokens: number;
  readonly seconds: number;
  readonly log: readonly LogEntry[];
};

export const LOG_FILE = 'train.jsonl';

export const DEFAULT_SETTINGS = {
  optimizer: DEFAULT_OPTIMIZER,
  batchTokens: 1024,
  partRows: 4096,
  evalEvery: 50,
  patience: 5,
  saveEvery: 50,
} as const;

/** Held-out data beyond this many tokens is left out of the looks, so that they stay short. */
const MAX_EVAL_TOKENS = 32_768;

/** Comparing all trits takes a few percent of a step. */
const COUNT_FLIPS_EVERY = 10;

/** Everything the result depends on, and nothing it does not: threads, part size and saving may differ. */
function runHash(request: TrainRequest): string {
  const { model, settings, train, heldOut } = request;
  const { schedule, optimizer, batchTokens, context, seed, evalEvery, patience } = settings;
  const facts = { schedule, optimizer, batchTokens, context, seed: `${seed}`, evalEvery, patience };
  const texts = [JSON.stringify(facts), JSON.stringify(model.configJson), hashSequences(train), hashSequences(heldOut)];
  return hashOf('bitnet-gf3 run 2', ...texts, model.latents);
}

function hashSequences(sequences: readonly Sequence[]): string {
  const hash = createHash('sha256');
  for (const { tokens, targets } of sequences) {
    hash.update(`${tokens.length}:`);
    hash.update(Int32Array.from(tokens));
    hash.update(Int32Array.from(targets));
  }
  return hash.digest('hex');
}

/** Throws ArgumentError for settings that cannot be trained with, DatasetError for no data, RunStateError for a folder in use. */
export async function runTraining(request: TrainRequest): Promise<TrainResult> {
  const { model, settings, out, kernels, signal } = request;
  checkSchedule(settings.schedule);
  checkOptimizer(settings.optimizer);
  if (request.train.length === 0) {
    throw new DatasetError({
      what: 'no sequences are left to train on',
      fix: 'give more data, or hold less of it out',
    });
  }
  await makeFolder(out);
  const network = new Network(model.config, kernels, { context: settings.context, partRows: settings.partRows });
  const { plan } = network;
  const run = runHash(request);
  const done = request.restart ? undefined : await readDone(out, run);
  if (done !== undefined && hasModel(out)) return finishedBefore(out, done);
  const saved = request.restart ? undefined : await readRunState(out, run, plan.length);
  await forgetDone(out);
  if (saved !== undefined) request.onResume?.(saved.step);
  const log = await RunLog.open(join(out, LOG_FILE), saved?.logBytes ?? 0);

  const latents = saved?.latents ?? model.latents.slice();
  const optimizer = saved?.optimizer ?? zeroOptimizerState(plan);
  let cursor: Cursor = saved?.cursor ?? { epoch: 0, next: 0 };
  let step = saved?.step ?? 0;
  let watch: Watch = saved?.watch ?? NOTHING_WATCHED;
  const started = performance.now();
  const seconds = () => (saved?.seconds ?? 0) + (performance.now() - started) / 1000;
  const dealer = new BatchDealer(request.train, { tokens: settings.batchTokens, seed: settings.seed });
  const evalBatches = batchesOf(limitTokens(request.heldOut, MAX_EVAL_TOKENS), settings.batchTokens);
  const { steps } = settings.schedule;
  const save = async () => {
    const logBytes = log.bytes;
    await writeRunState(out, { run, step, cursor, latents, optimizer, watch, logBytes, seconds: seconds() });
  };
  const epochs = () => cursor.epoch + cursor.next / request.train.length;

  const gradients = new Float32Array(plan.length);
  const ternary = plan.all.filter(({ kind }) => kind === 'ternary');
  const trits = ternary.map(({ length }) => new Int8Array(length));
  const weights = ternary.reduce((sum, { length }) => sum + length, 0);
  /** Takes the new trits; returns the share that changed. */
  const quantizeCounting = (): number => {
    ternary.forEach((parameter, i) => {
      trits[i]!.set(network.ternary(parameter).trits);
    });
    network.quantize(latents);
    let flips = 0;
    ternary.forEach((parameter, i) => {
      flips += countDifferent(trits[i]!, network.ternary(parameter).trits);
    });
    return flips / weights;
  };
  const evaluate = (): number | undefined => {
    if (evalBatches.length === 0) return undefined;
    let sum = 0;
    let count = 0;
    for (const batch of evalBatches) {
      sum += network.loss(latents, batch).loss * batch.targetCount;
      count += batch.targetCount;
    }
    return sum / count;
  };

  /** Looks at the held-out data and remembers what did best there. */
  const look = (): number | undefined => {
    const loss = evaluate();
    if (loss !== undefined) watch = watchLook(watch, { step, loss, latents });
    return loss;
  };

  network.quantize(latents);
  if (saved === undefined) {
    const evalLoss = look();
    await log.append({ step: 0, ...(evalLoss !== undefined && { evalLoss }) });
    await save();
  }
  let trainedTokens = 0;
  let ended: TrainResult['ended'] = step === steps ? 'steps' : 'stopped';
  while (ended === 'stopped' && !signal?.aborted) {
    const dealt = dealer.deal(cursor);
    const batch = makeBatch(dealt.sequences);
    const rates = ratesAt(settings.schedule, step);
    const { loss } = network.lossAndGradients(latents, batch, gradients);
    const norm = optimizerStep(kernels, plan, settings.optimizer, rates, latents, gradients, optimizer);
    step += 1;
    const flipShare = step % COUNT_FLIPS_EVERY === 0 ? quantizeCounting() : undefined;
    if (flipShare === undefined) network.quantize(latents);
    cursor = dealt.cursor;
    trainedTokens += batch.tokens.length;
    const evalLoss = step % settings.evalEvery === 0 || step === steps ? look() : undefined;
    await log.append({
      step,
      epoch: Math.round(1000 * epochs()) / 1000,
      loss,
      lr: rates.lr,
      weightDecay: rates.weightDecay,
      gradientNorm: norm,
      ...(flipShare !== undefined && { flipShare }),
      tokens: batch.tokens.length,
      ...(evalLoss !== undefined && { evalLoss }),
    });
    if (step === steps) ended = 'steps';
    else if (evalLoss !== undefined && onPlateau(watch, settings.patience)) ended = 'plateau';
    if (step % settings.saveEvery === 0 && ended === 'stopped') await save();
    const spent = (performance.now() - started) / 1000;
    request.onProgress?.({
      step,
      steps,
      epochs: epochs(),
      loss,
      evalLoss,
      tokensPerSecond: trainedTokens / spent,
      secondsLeft: (spent / (step - (saved?.step ?? 0))) * (steps - step),
    });
    // Lets a Ctrl-C in.
    await new Promise<void>((resolve) => setImmediate(resolve));
  }
  if (ended === 'stopped') await save();
  // Stopped between two looks, the newest may be the best; the state does not know, lest a resumed run decides otherwise.
  const now = ended === 'stopped' && step % settings.evalEvery !== 0 ? evaluate() : undefined;
  const { best } = watch;
  const isNewest = best === undefined || (now !== undefined && now < best.loss);
  const evalAfter = isNewest ? now : best.loss;
  const bestStep = isNewest ? step : best.step;
  const kept = isNewest ? latents : best.latents;
  await exportModel(out, { configJson: model.configJson, plan, latents: kept, companions: model.folder });
  const entries = await log.entries();
  const result: TrainResult = {
    step,
    ended,
    alreadyDone: false,
    epochs: epochs(),
    evalBefore: evalBeforeOf(entries),
    evalAfter,
    bestStep,
    trainedTokens,
    seconds: seconds(),
    log: entries,
  };
  await request.onExported?.(result);
  if (ended !== 'stopped') {
    const { epochs, seconds } = result;
    await writeDone(out, { run, step, ended, epochs, seconds, bestStep, evalAfter });
  }
  return result;
}

function evalBeforeOf(log: readonly LogEntry[]): number | undefined {
  return log.find((entry) => entry.step === 0)?.evalLoss;
}

/** Whether what a finished run wrote is still there. */
function hasModel(out: string): boolean {
  return [out, join(out, MASTER_FOLDER)].every((folder) => existsSync(join(folder, 'model.safetensors')));
}

async function finishedBefore(out: string, done: Done): Promise<TrainResult> {
  // Removes a state that a crash after the last step left.
  await writeDone(out, done);
  const { size } = await stat(join(out, LOG_FILE)).catch(() => ({ size: 0 }));
  const log = await (await RunLog.open(join(out, LOG_FILE), size)).entries();
  const { step, ended, epochs, bestStep, evalAfter, seconds } = done;
  const evalBefore = evalBeforeOf(log);
  return { step, ended, alreadyDone: true, epochs, evalBefore, evalAfter, bestStep, trainedTokens: 0, seconds, log };
}

function limitTokens(sequences: readonly Sequence[], tokens: number): Sequence[] {
  const kept: Sequence[] = [];
  let count = 0;
  for (const sequence of sequences) {
    if (kept.length > 0 && count + sequence.tokens.length > tokens) break;
    kept.push(sequence);
    count += sequence.tokens.length;
  }
  return kept;
}

/** All sequences in their order, in batches of about `tokens` tokens. */
export function batchesOf(sequences: readonly Sequence[], tokens: number): Batch[] {
  const batches: Batch[] = [];
  let current: Sequence[] = [];
  let count = 0;
  for (const sequence of sequences) {
    if (current.length > 0 && count + sequence.tokens.length > tokens) {
      batches.push(makeBatch(current));
      current = [];
      count = 0;
    }
    current.push(sequence);
    count += sequence.tokens.length;
  }
  if (current.length > 0) batches.push(makeBatch(current));
  return batches;
}

function countDifferent(a: Int8Array, b: Int8Array): number {
  let count = 0;
  for (let i = 0; i < a.length; i += 1) count += a[i] === b[i] ? 0 : 1;
  return count;
}
