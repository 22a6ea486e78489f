// A training run: data in, model folder out. Same data, model and settings give the same bits, whatever the threads, and
// however often the run was interrupted.

import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { makeFolder } from '../formats/make-folder.ts';
import { type Batch, makeBatch, type Sequence } from './batch.ts';
import { BatchDealer, type Cursor, DatasetError } from './dataset.ts';
import { exportModel } from './export-model.ts';
import type { TrainKernels } from './kernels.ts';
import { Network } from './network.ts';
import { DEFAULT_OPTIMIZER, type OptimizerSettings, optimizerStep, zeroOptimizerState } from './optimizer.ts';
import { type LogEntry, RunLog } from './run-log.ts';
import { readRunState, writeRunState } from './run-state.ts';
import { ratesAt, type ScheduleSettings } from './schedule.ts';
import { hashOf, type TrainableModel } from './trainable-model.ts';

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
  /** Steps between saved states. */
  readonly saveEvery: number;
};

export type TrainProgress = {
  readonly step: number;
  readonly steps: number;
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
};

export type TrainResult = {
  readonly step: number;
  /** Every step was taken; false when the signal ended the run early. */
  readonly finished: boolean;
  /** Held-out loss before the first step and now; undefined without held-out data. */
  readonly evalBefore: number | undefined;
  readonly evalAfter: number | undefined;
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
  saveEvery: 50,
} as const;

/** Held-out data beyond this many tokens is left out of the looks, so that they stay short. */
const MAX_EVAL_TOKENS = 32_768;

/** Comparing all trits takes a few percent of a step. */
const COUNT_FLIPS_EVERY = 10;

/** Everything the result depends on, and nothing it does not: threads, part size and saving may differ. */
function runHash(request: TrainRequest): string {
  const { model, settings, train, heldOut } = request;
  const { schedule, optimizer, batchTokens, context, seed, evalEvery } = settings;
  const facts = { schedule, optimizer, batchTokens, context, seed: `${seed}`, evalEvery };
  const texts = [JSON.stringify(facts), JSON.stringify(model.configJson), hashSequences(train), hashSequences(heldOut)];
  return hashOf('bitnet-gf3 run 1', ...texts, model.latents);
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

export async function runTraining(request: TrainRequest): Promise<TrainResult> {
  const { model, settings, out, kernels, signal } = request;
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
  const saved = request.restart ? undefined : await readRunState(out, run, plan.length);
  if (saved !== undefined) request.onResume?.(saved.step);
  const log = await RunLog.open(join(out, LOG_FILE), saved?.logBytes ?? 0);

  const latents = saved?.latents ?? model.latents.slice();
  const optimizer = saved?.optimizer ?? zeroOptimizerState(plan);
  let cursor: Cursor = saved?.cursor ?? { epoch: 0, next: 0 };
  let step = saved?.step ?? 0;
  const started = performance.now();
  const seconds = () => (saved?.seconds ?? 0) + (performance.now() - started) / 1000;
  const dealer = new BatchDealer(request.train, { tokens: settings.batchTokens, seed: settings.seed });
  const evalBatches = batchesOf(limitTokens(request.heldOut, MAX_EVAL_TOKENS), settings.batchTokens);
  const { steps } = settings.schedule;
  const save = async () => {
    await writeRunState(out, { run, step, cursor, latents, optimizer, logBytes: log.bytes, seconds: seconds() });
  };

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

  network.quantize(latents);
  if (saved === undefined) {
    const evalLoss = evaluate();
    await log.append({ step: 0, ...(evalLoss !== undefined && { evalLoss }) });
    await save();
  }
  let trainedTokens = 0;
  let evalLoss: number | undefined;
  while (step < steps && !signal?.aborted) {
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
    const look = step % settings.evalEvery === 0 || step === steps;
    evalLoss = look ? evaluate() : undefined;
    await log.append({
      step,
      loss,
      lr: rates.lr,
      weightDecay: rates.weightDecay,
      gradientNorm: norm,
      ...(flipShare !== undefined && { flipShare }),
      tokens: batch.tokens.length,
      ...(evalLoss !== undefined && { evalLoss }),
    });
    if (step % settings.saveEvery === 0 && step < steps) await save();
    const spent = (performance.now() - started) / 1000;
    request.onProgress?.({
      step,
      steps,
      loss,
      evalLoss,
      tokensPerSecond: trainedTokens / spent,
      secondsLeft: (spent / (step - (saved?.step ?? 0))) * (steps - step),
    });
    // Lets a Ctrl-C in.
    await new Promise<void>((resolve) => setImmediate(resolve));
  }
  await save();
  const entries = await log.entries();
  const evalAfter = evalLoss ?? evaluate();
  await exportModel(out, { configJson: model.configJson, plan, latents, companions: model.folder });
  return {
    step,
    finished: step === steps,
    evalBefore: entries.find((entry) => entry.step === 0)?.evalLoss,
    evalAfter,
    trainedTokens,
    seconds: seconds(),
    log: entries,
  };
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
