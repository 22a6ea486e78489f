import { defineCommand } from './command.ts';
import { EXIT } from './exit-status.ts';
import { BACKEND_FLAGS, backendOptions, threadCount } from './model-flags.ts';
import { openProgressBar } from './progress-bar.ts';

export const command = defineCommand({
  name: 'verify',
  summary: 'Compare a checkpoint with what reference code computed from it',
  positionals: [
    {
      name: 'CASE_DIR',
      description: 'folder with config.json, model.safetensors, expected.json and expected.safetensors',
    },
  ],
  flags: BACKEND_FLAGS,
  examples: ['verify test/golden/model/bitnet_packed_a_s111', 'verify CASE_DIR --backend js --json'],
  notes:
    'Ok means: logits (and log-probabilities, where the case has them) within the tolerance that expected.json ' +
    'requires, the first greedy_certain greedy tokens equal, and the same bits however the prompt is cut. The head has ' +
    "the checkpoint's own precision unless --head says otherwise. Exit status 1 when not ok.\n" +
    'A case of one training step is computed and compared likewise: loss, gradients, SGD and AdamW updates, a short run.',
  run: async ({ positionals, flags, json, output, signal }) => {
    const folder = positionals[0]!;
    const { caseKind, verifyCase } = await import('../generate/verify.ts');
    if ((await caseKind(folder)) === 'qat') {
      const { verifyTraining } = await import('./verify-training.ts');
      return verifyTraining(
        folder,
        { backend: flags.backend, threads: threadCount(flags.threads), json, signal },
        output,
      );
    }
    using bar = openProgressBar({ output, json }, 'verify');
    const report = await verifyCase(folder, { ...backendOptions(flags), signal, onProgress: bar.update });
    bar[Symbol.dispose]();
    if (json) {
      output.json({
        case: report.case,
        backend: report.backend,
        max_abs_err: report.maxAbsErr,
        max_rel_err: report.maxRelErr,
        tolerance: report.tolerance,
        greedy_match: report.greedyMatch,
        greedy_total: report.greedyTotal,
        greedy_certain: report.greedyCertain,
        chunked_equal: report.chunkedEqual,
        ...(report.nll && {
          nll: {
            max_abs_err: report.nll.maxAbsErr,
            mean_abs_err: report.nll.meanAbsErr,
            max_tolerance: report.nll.maxTolerance,
            mean_tolerance: report.nll.meanTolerance,
          },
        }),
        ok: report.ok,
      });
    } else {
      const { maxAbsErr, maxRelErr, tolerance, greedyMatch, greedyTotal, greedyCertain, chunkedEqual, nll } = report;
      const mark = (good: boolean) => (good ? '✓' : '✗');
      const number = (value: number) => value.toExponential(2);
      output.line(
        `${mark(maxAbsErr <= tolerance)} logits: largest error ${number(maxAbsErr)} (limit ${number(tolerance)}), relative ${number(maxRelErr)}`,
      );
      output.line(
        `${mark(greedyMatch >= greedyCertain)} greedy tokens: ${greedyMatch} of ${greedyTotal} equal (${greedyCertain} required)`,
      );
      output.line(`${mark(chunkedEqual)} the same bits however the prompt is cut`);
      if (nll !== undefined) {
        const good = nll.maxAbsErr <= nll.maxTolerance && nll.meanAbsErr <= nll.meanTolerance;
        output.line(
          `${mark(good)} -ln p: largest error ${number(nll.maxAbsErr)} (limit ${number(nll.maxTolerance)}), of the mean ${number(nll.meanAbsErr)} (limit ${number(nll.meanTolerance)})`,
        );
      }
      output.line(`${report.ok ? 'ok' : 'NOT ok'} on backend ${report.backend}`);
    }
    return report.ok ? EXIT.ok : EXIT.jobFailed;
  },
});
