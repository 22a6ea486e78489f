// A world's record in the contract's spelling. Where its model lies on this machine is left out.

import type { WorldRecord } from '../world/world-store.ts';

export function worldRecordToJson({ id, parent, base, stepCount, morphism, report, created }: WorldRecord) {
  return {
    world: id,
    parent,
    model: base.model,
    step_count: stepCount,
    created,
    ...(morphism && { morphism }),
    ...(report && {
      loss_before: report.lossBefore,
      loss_after: report.lossAfter,
      flips: report.flips,
      trit_delta_sum: report.tritDeltaSum,
    }),
  };
}
