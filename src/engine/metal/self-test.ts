// Whether Metal is used at all depends on its agreement with the reference: within a tolerance where float operations may be
// fused, bit for bit where a program has to have the same logits everywhere.

import type { Executable } from '../backend.ts';
import { runSelfTest, selfTestDifference, WRONG_TOP } from '../gpu/self-test.ts';
import {
  groupedSelfTestProgram,
  HYBRID_STEPS,
  hybridSelfTestProgram,
  STEPS,
  selfTestProgram,
} from '../gpu/self-test-programs.ts';
import { jsBackend } from '../js/backend.ts';
import type { Program } from '../program.ts';

/** Largest difference of a logit, as a share of the largest logit: float32 noise is a hundred times smaller. */
export const SELF_TEST_TOLERANCE = 1e-4;

/** Undefined when the executable computes what the reference computes; else one sentence. */
export async function selfTest(
  load: (program: Program) => Promise<Executable>,
  program: Program = selfTestProgram(),
): Promise<string | undefined> {
  using reference = await jsBackend.load(program, {});
  using executable = await load(program);
  const { logits: expected } = await runSelfTest(reference);
  const { logits: actual, isTopRight } = await runSelfTest(executable);
  let largest = 0;
  let worst = 0;
  expected.forEach((logits, step) => {
    logits.forEach((value, i) => {
      largest = Math.max(largest, Math.abs(value));
      // A NaN stays, and is not within tolerance.
      worst = Math.max(worst, Math.abs(value - actual[step]![i]!));
    });
  });
  if (worst <= SELF_TEST_TOLERANCE * largest) return isTopRight ? undefined : WRONG_TOP;
  return `its self-test differs from the reference by ${worst.toPrecision(3)} (logits up to ${largest.toPrecision(3)})`;
}

/** Undefined when the executable has the reference's very bits, as a group-scaled program must; else one sentence. */
export function groupedSelfTest(
  load: (program: Program) => Promise<Executable>,
  program: Program = groupedSelfTestProgram(),
): Promise<string | undefined> {
  return selfTestDifference(load, program, STEPS, 'group-scaled');
}

/** The same for what hybrid programs need beyond that. */
export function hybridSelfTest(
  load: (program: Program) => Promise<Executable>,
  program: Program = hybridSelfTestProgram(),
): Promise<string | undefined> {
  return selfTestDifference(load, program, HYBRID_STEPS, 'hybrid');
}
