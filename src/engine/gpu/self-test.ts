// What a device computes against what the reference computes, bit for bit.

import { createHash } from 'node:crypto';
import type { Executable } from '../backend.ts';
import { jsBackend } from '../js/backend.ts';
import type { Program } from '../program.ts';
import { topLogits } from '../top-logits.ts';
import { STEPS } from './self-test-programs.ts';

/** Largest logits that a self-test asks for. */
const TOP = 5;

export const WRONG_TOP =
  'in its self-test the largest logits that it told, or the sums of their weights, were not those of its logits';

export type SelfTestRun = {
  /** Of every row of each step. */
  readonly logits: readonly Float32Array[];
  /** Whether the largest logits and sums of weights that the steps told are those of these logits. */
  readonly isTopRight: boolean;
};

/** The steps, of one sequence. */
export async function runSelfTest(executable: Executable, steps = STEPS): Promise<SelfTestRun> {
  const sequence = executable.createSequence();
  const all: Float32Array[] = [];
  let isTopRight = true;
  let position = 0;
  for (const tokens of steps) {
    const { logits, top } = await executable.step({
      tokens: Int32Array.from(tokens),
      sequences: new Int32Array(tokens.length).fill(sequence),
      positions: Int32Array.from(tokens, (_, i) => position + i),
      outputRows: Int32Array.from(tokens, (_, i) => i),
      top: TOP,
    });
    const wanted = topLogits(logits, tokens.length, TOP);
    const isSame = (of: 'ids' | 'logits' | 'mass') => top[of].every((value, i) => Object.is(value, wanted[of][i]));
    isTopRight &&= isSame('ids') && isSame('logits') && isSame('mass');
    position += tokens.length;
    all.push(logits);
  }
  return { logits: all, isTopRight };
}

/** sha256 of all logits. */
export function bitsOf({ logits }: SelfTestRun): string {
  const hash = createHash('sha256');
  for (const { buffer, byteOffset, byteLength } of logits) hash.update(new Uint8Array(buffer, byteOffset, byteLength));
  return hash.digest('hex');
}

/**
 * Undefined when the executable has the reference's very bits; else one sentence. `kind`: of the model, in that sentence. `bits`: those of
 * the reference, which then has to compute only what differs.
 */
export async function selfTestDifference(
  load: (program: Program) => Promise<Executable>,
  program: Program,
  steps = STEPS,
  kind?: string,
  bits?: string,
): Promise<string | undefined> {
  using executable = await load(program);
  const run = await runSelfTest(executable, steps);
  const { logits: actual, isTopRight } = run;
  if (bits !== undefined && bits === bitsOf(run)) return isTopRight ? undefined : WRONG_TOP;
  using reference = await jsBackend.load(program, {});
  const { logits: expected } = await runSelfTest(reference, steps);
  let different = 0;
  let all = 0;
  expected.forEach((logits, step) => {
    const wanted = new Uint32Array(logits.buffer, logits.byteOffset, logits.length);
    const { buffer, byteOffset, length } = actual[step]!;
    const found = new Uint32Array(buffer, byteOffset, length);
    all += wanted.length;
    different += wanted.reduce((sum, word, i) => sum + (word === found[i] ? 0 : 1), 0);
  });
  if (different === 0) return isTopRight ? undefined : WRONG_TOP;
  const of = kind === undefined ? '' : ` of a ${kind} model`;
  return `in its self-test ${different} of ${all} logits${of} are not the reference's, bit for bit`;
}
