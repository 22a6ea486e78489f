// `verify` of a case of one training step: prints what `verifyQatCase` found.

import { loadTrainKernels } from '../train/native-kernels.ts';
import { verifyQatCase } from '../train/verify-qat.ts';
import { EXIT } from './exit-status.ts';
import type { Output } from './output.ts';
import { openProgressBar } from './progress-bar.ts';

type Options = {
  readonly backend: string;
  readonly threads: number | undefined;
  readonly json: boolean;
  readonly signal: AbortSignal;
};

/** `js` takes the readable kernels, anything else the native ones if they can be had. Resolves to the exit status. */
export async function verifyTraining(folder: string, options: Options, output: Output): Promise<number> {
  const kernels = await loadTrainKernels({
    kernels: options.backend === 'js' ? 'js' : 'auto',
    ...(options.threads !== undefined && { threads: options.threads }),
    onFallback: (reason) => output.note(`native training kernels are not there, using js: ${reason}`),
  });
  using bar = openProgressBar({ output, json: options.json }, 'verify');
  const report = await verifyQatCase(folder, {
    kernels,
    signal: options.signal,
    onPass: (done, total) => bar.update(done, total, `pass ${done + 1} of ${total}`),
  });
  bar[Symbol.dispose]();
  const { worstGradient, sgdMaxAbsErr, adamwMaxAbsErr, adamwNoiseMaxAbsErr } = report;
  if (options.json) {
    output.json({
      case: folder,
      backend: report.kernels,
      loss: report.loss,
      expected_loss: report.expectedLoss,
      loss_abs_err: report.lossAbsErr,
      max_abs_err: report.logitsMaxAbsErr,
      grad_relative_l2_worst: worstGradient.value,
      grad_worst_tensor: worstGradient.name,
      sgd_max_abs_err: sgdMaxAbsErr.value,
      adamw_max_abs_err: adamwMaxAbsErr.value,
      adamw_noise_max_abs_err: adamwNoiseMaxAbsErr.value,
      loss_after_adamw: report.lossAfterAdamw,
      expected_loss_after_adamw: report.expectedLossAfterAdamw,
      adamw_step_losses: report.losses,
      failures: report.failures,
      ok: report.ok,
    });
    return report.ok ? EXIT.ok : EXIT.jobFailed;
  }
  const small = (value: number) => value.toExponential(2);
  output.line(
    `loss ${report.loss.toFixed(6)}, expected ${report.expectedLoss.toFixed(6)}: off by ${small(report.lossAbsErr)}`,
  );
  output.line(`logits: largest error ${small(report.logitsMaxAbsErr)}`);
  output.line(`gradients: largest relative error ${small(worstGradient.value)} (${worstGradient.name})`);
  output.line(`SGD update: largest error ${small(sgdMaxAbsErr.value)}`);
  output.line(
    `AdamW update: largest error ${small(adamwMaxAbsErr.value)}, where the gradient is noise ${small(adamwNoiseMaxAbsErr.value)}`,
  );
  output.line(
    `losses of ${report.losses.length} steps: ${report.losses[0]!.toFixed(3)} ... ${report.losses.at(-1)!.toFixed(3)}, expected last ${report.expectedLosses.at(-1)!.toFixed(3)}`,
  );
  for (const failure of report.failures) output.line(`✗ ${failure}`);
  output.line(`${report.ok ? 'ok' : 'NOT ok'} on ${report.kernels} kernels`);
  return report.ok ? EXIT.ok : EXIT.jobFailed;
}
