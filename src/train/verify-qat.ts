// `verify` of a training case: one forward and backward pass, one step of each optimizer and a short run, compared with
// what a reference implementation got.

import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setImmediate as nextEvents } from 'node:timers/promises';
import { ArgumentError, BitnetError, CancelledError } from '../errors.ts';
import { openCheckpoint } from '../formats/open-checkpoint.ts';
import { SafetensorsFile } from '../formats/safetensors-file.ts';
import { readModelConfig } from '../model/open-model.ts';
import { toFloat32 } from '../quant/to-float32.ts';
import { makeBatch, nextTokenSequence } from './batch.ts';
import { checkOptimizer, checkRates } from './check-rates.ts';
import { JS_KERNELS, type TrainKernels } from './kernels.ts';
import { loadLatents } from './load-latents.ts';
import { Network } from './network.ts';
import { type OptimizerSettings, optimizerStep, zeroOptimizerState } from './optimizer.ts';
import { type Parameter, view } from './parameters.ts';

/** As CaseError of `generate/`, which this room does not know. */
export class QatCaseError extends BitnetError {
  readonly code = 'BAD_CASE';
  readonly fault = 'call';
}

export type TensorError = { readonly name: string; readonly value: number };

export type QatReport = {
  /** All figures within the case's tolerances. */
  readonly ok: boolean;
  /** What is not, one line each. */
  readonly failures: readonly string[];
  readonly kernels: string;
  readonly loss: number;
  readonly expectedLoss: number;
  readonly lossAbsErr: number;
  readonly logitsMaxAbsErr: number;
  /** |grad - expected| / |expected| of the worst tensor. */
  readonly worstGradient: TensorError;
  readonly sgdMaxAbsErr: TensorError;
  /** Where |grad| is over 1e-4 of the tensor's largest; the sign of smaller ones is noise. */
  readonly adamwMaxAbsErr: TensorError;
  /** Everywhere else. */
  readonly adamwNoiseMaxAbsErr: TensorError;
  readonly lossAfterAdamw: number;
  readonly expectedLossAfterAdamw: number;
  readonly losses: readonly number[];
  readonly expectedLosses: readonly number[];
};

type Expected = {
  readonly input_ids: readonly (readonly number[])[];
  readonly loss: number;
  readonly loss_after_adamw: number;
  readonly sgd_lr: number;
  readonly adamw: {
    readonly lr: number;
    readonly betas: readonly [number, number];
    readonly eps: number;
    readonly weight_decay: number;
  };
  readonly adamw_30_step_losses: readonly number[];
  readonly tolerance: {
    readonly loss_abs: number;
    readonly grad_relative_l2_per_tensor: number;
    readonly loss_after_adamw_abs: number;
    readonly first_five_losses_abs: number;
    readonly last_of_30_below: number;
  };
};

/** SGD and AdamW updates are compared to this (float32 values near 1). */
const UPDATE_TOLERANCE = 1e-5;

/** Whether a parsed expected.json describes a training step. */
export function isQatCase(expected: unknown): boolean {
  return typeof expected === 'object' && expected !== null && 'adamw' in expected && 'sgd_lr' in expected;
}

export type VerifyQatOptions = {
  readonly kernels?: TrainKernels;
  readonly signal?: AbortSignal;
  /** Told before each pass, with how many are done. */
  readonly onPass?: (done: number, total: number) => void;
};

/** Throws QatCaseError for a folder that is no such case, CancelledError when the signal fires between two passes. */
export async function verifyQatCase(folder: string, options: VerifyQatOptions = {}): Promise<QatReport> {
  const kernels = options.kernels ?? JS_KERNELS;
  const expected = await readExpected(join(folder, 'expected.json'));
  const config = await readModelConfig(folder);
  using reference = await SafetensorsFile.open(join(folder, 'expected.safetensors'));
  const network = new Network(config, kernels);
  const { plan } = network;
  using checkpoint = await openCheckpoint(folder);
  const latents = await loadLatents(checkpoint, config, plan);
  const batch = makeBatch(expected.input_ids.map(nextTokenSequence));
  const gradients = new Float32Array(plan.length);

  const passes = expected.adamw_30_step_losses.length;
  const beginPass = async (done: number) => {
    options.onPass?.(done, passes);
    // A pass holds the thread: a signal is heard only in between.
    await nextEvents();
    if (options.signal?.aborted) throw new CancelledError();
  };

  const tensor = async (prefix: string, { name }: Parameter): Promise<Float32Array> =>
    toFloat32(await reference.read(`${prefix}.${name}`));

  // Loss, logits and gradients.
  await beginPass(0);
  const logitsExpected = toFloat32(await reference.read('logits'));
  let logitsMaxAbsErr = 0;
  network.quantize(latents);
  const { loss } = network.lossAndGradients(latents, batch, gradients, {
    onLogits: (logits, firstRow, rows) => {
      const at = firstRow * config.vocabSize;
      for (let i = 0; i < rows * config.vocabSize; i += 1) {
        logitsMaxAbsErr = Math.max(logitsMaxAbsErr, Math.abs(logits[i]! - logitsExpected[at + i]!));
      }
    },
  });
  const worstGradient = new Worst();
  for (const parameter of plan.all) {
    const want = await tensor('grad', parameter);
    const got = view(gradients, parameter);
    let difference = 0;
    let norm = 0;
    want.forEach((value, i) => {
      difference += (got[i]! - value) ** 2;
      norm += value ** 2;
    });
    worstGradient.see(parameter.name, Math.sqrt(difference / norm));
  }

  // One step of each optimizer from the same start.
  const settings = (kind: OptimizerSettings['kind']): OptimizerSettings => ({
    kind,
    beta1: expected.adamw.betas[0],
    beta2: expected.adamw.betas[1],
    eps: expected.adamw.eps,
    decayGroups: 'all',
  });
  const afterSgd = latents.slice();
  const sgdRates = { lr: expected.sgd_lr, weightDecay: 0 };
  optimizerStep(kernels, plan, settings('sgd'), sgdRates, afterSgd, gradients, zeroOptimizerState(plan));
  const sgdMaxAbsErr = new Worst();
  for (const parameter of plan.all) {
    const got = view(afterSgd, parameter);
    (await tensor('sgd', parameter)).forEach((value, i) => {
      sgdMaxAbsErr.see(parameter.name, Math.abs(got[i]! - value));
    });
  }
  const rates = { lr: expected.adamw.lr, weightDecay: expected.adamw.weight_decay };
  const state = zeroOptimizerState(plan);
  optimizerStep(kernels, plan, settings('adamw'), rates, latents, gradients, state);
  const adamwMaxAbsErr = new Worst();
  const adamwNoiseMaxAbsErr = new Worst();
  for (const parameter of plan.all) {
    const got = view(latents, parameter);
    const grad = await tensor('grad', parameter);
    const largest = grad.reduce((max, value) => Math.max(max, Math.abs(value)), 0);
    (await tensor('adamw', parameter)).forEach((value, i) => {
      const sure = Math.abs(grad[i]!) > 1e-4 * largest;
      (sure ? adamwMaxAbsErr : adamwNoiseMaxAbsErr).see(parameter.name, Math.abs(got[i]! - value));
    });
  }

  // The run: loss before each step.
  const losses = [loss];
  while (losses.length < passes) {
    await beginPass(losses.length);
    network.quantize(latents);
    losses.push(network.lossAndGradients(latents, batch, gradients).loss);
    optimizerStep(kernels, plan, settings('adamw'), rates, latents, gradients, state);
  }

  const { tolerance } = expected;
  const failures: string[] = [];
  const require = (ok: boolean, text: string) => {
    if (!ok) failures.push(text);
  };
  const lossAbsErr = Math.abs(loss - expected.loss);
  require(lossAbsErr <= tolerance.loss_abs, `loss ${loss}, expected ${expected.loss} within ${tolerance.loss_abs}`);
  require(worstGradient.value <=
    tolerance.grad_relative_l2_per_tensor, `gradient of ${worstGradient.name}: relative error ${worstGradient.value}`);
  require(sgdMaxAbsErr.value <= UPDATE_TOLERANCE, `SGD update of ${sgdMaxAbsErr.name}: off by ${sgdMaxAbsErr.value}`);
  require(adamwMaxAbsErr.value <=
    UPDATE_TOLERANCE, `AdamW update of ${adamwMaxAbsErr.name}: off by ${adamwMaxAbsErr.value}`);
  require(adamwNoiseMaxAbsErr.value <=
    2 * rates.lr + 1e-6, `AdamW update of ${adamwNoiseMaxAbsErr.name}: off by ${adamwNoiseMaxAbsErr.value}`);
  require(Math.abs(losses[1]! - expected.loss_after_adamw) <=
    tolerance.loss_after_adamw_abs, `loss after AdamW ${losses[1]}, expected ${expected.loss_after_adamw}`);
  losses.slice(0, 5).forEach((value, i) => {
    const want = expected.adamw_30_step_losses[i]!;
    require(Math.abs(value - want) <=
      tolerance.first_five_losses_abs, `loss before step ${i + 1}: ${value}, expected ${want}`);
  });
  require(losses.at(-1)! <
    tolerance.last_of_30_below, `last loss ${losses.at(-1)}, expected below ${tolerance.last_of_30_below}`);

  return {
    ok: failures.length === 0,
    failures,
    kernels: `${kernels.name} ${kernels.isa}`,
    loss,
    expectedLoss: expected.loss,
    lossAbsErr,
    logitsMaxAbsErr,
    worstGradient: worstGradient.result,
    sgdMaxAbsErr: sgdMaxAbsErr.result,
    adamwMaxAbsErr: adamwMaxAbsErr.result,
    adamwNoiseMaxAbsErr: adamwNoiseMaxAbsErr.result,
    lossAfterAdamw: losses[1]!,
    expectedLossAfterAdamw: expected.loss_after_adamw,
    losses,
    expectedLosses: expected.adamw_30_step_losses,
  };
}

class Worst {
  name = '';
  value = 0;

  see(name: string, value: number): void {
    // Written so that a NaN is the worst of all.
    if (value <= this.value) return;
    this.name = name;
    this.value = Number.isNaN(value) ? Infinity : value;
  }

  get result(): TensorError {
    return { name: this.name, value: this.value };
  }
}

async function readExpected(path: string): Promise<Expected> {
  const json: unknown = JSON.parse(await readFile(path, 'utf8'));
  if (!isQatCase(json)) {
    throw new QatCaseError({
      what: 'this is not a training case: sgd_lr or adamw is missing',
      where: path,
      fix: 'give a folder whose expected.json has input_ids, loss, sgd_lr, adamw, adamw_30_step_losses and tolerance',
    });
  }
  const expected = json as Expected;
  checkCaseRates(expected, path);
  return expected;
}

/** Before the passes, which take long; JSON has no infinity, but 1e400 reads as one. */
function checkCaseRates({ sgd_lr, adamw }: Expected, path: string): void {
  try {
    checkRates({ lr: sgd_lr, weightDecay: 0 });
    checkRates({ lr: adamw?.lr, weightDecay: adamw?.weight_decay });
    const [beta1, beta2] = Array.isArray(adamw.betas) ? (adamw.betas as [number, number]) : [Number.NaN, Number.NaN];
    checkOptimizer({ kind: 'adamw', beta1, beta2, eps: adamw.eps, decayGroups: 'all' });
  } catch (cause) {
    if (!(cause instanceof ArgumentError)) throw cause;
    const { what } = cause.text;
    throw new QatCaseError({ what, where: path, fix: 'correct the case, or take the original again' }, { cause });
  }
}
