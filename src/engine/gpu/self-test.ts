// What a device computes against what the reference computes, bit for bit.

import type { Executable } from '../backend.ts';
import { jsBackend } from '../js/backend.ts';
import type { Program } from '../program.ts';
import { STEPS } from './self-test-programs.ts';

/** Logits of every row of the steps, one sequence's. */
export async function logitsOf(executable: Executable, steps = STEPS): Promise<Float32Array[]> {
  const sequence = executable.createSequence();
  const all: Float32Array[] = [];
  let position = 0;
  for (const tokens of steps) {
    const { logits } = await executable.step({
      tokens: Int32Array.from(tokens),
      sequences: new Int32Array(tokens.length).fill(sequence),
      positions: Int32Array.from(tokens, (_, i) => position + i),
      outputRows: Int32Array.from(tokens, (_, i) => i),
    });
    position += tokens.length;
    all.push(logits);
  }
  return all;
}

/** Undefined when the executable has the reference's very bits; else one sentence. `kind`: of the model, in that sentence. */
export async function selfTestDifference(
  load: (program: Program) => Promise<Executable>,
  program: Program,
  steps = STEPS,
  kind?: string,
): Promise<string | undefined> {
  using reference = await jsBackend.load(program, {});
  using executable = await load(program);
  const expected = await logitsOf(reference, steps);
  const actual = await logitsOf(executable, steps);
  let different = 0;
  let all = 0;
  expected.forEach((logits, step) => {
    const wanted = new Uint32Array(logits.buffer, logits.byteOffset, logits.length);
    const { buffer, byteOffset, length } = actual[step]!;
    const found = new Uint32Array(buffer, byteOffset, length);
    all += wanted.length;
    different += wanted.reduce((sum, word, i) => sum + (word === found[i] ? 0 : 1), 0);
  });
  if (different === 0) return undefined;
  const of = kind === undefined ? '' : ` of a ${kind} model`;
  return `in its self-test ${different} of ${all} logits${of} are not the reference's, bit for bit`;
}
