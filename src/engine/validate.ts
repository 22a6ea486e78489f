// Checks that every backend makes before it touches memory: a step against the program and the sequences.

import { MAX_TOP, type SequenceId, type Step, StepError } from './backend.ts';
import type { Program } from './program.ts';

/**
 * Throws `StepError` unless the step's arrays agree in length, tokens lie in the vocabulary, every sequence exists, its
 * rows are contiguous and continue at its length, positions fit the context, and output rows increase.
 */
export function checkStep(program: Program, step: Step, lengthOf: (sequence: SequenceId) => number | undefined): void {
  const { tokens, sequences, positions, outputRows } = step;
  const T = tokens.length;
  if (T === 0) throw new StepError({ what: 'the step has no rows', fix: 'pass at least one token' });
  if (sequences.length !== T || positions.length !== T) {
    throw new StepError({
      what: `${T} tokens, ${sequences.length} sequences and ${positions.length} positions`,
      fix: 'give one of each per row',
    });
  }
  const seen = new Set<SequenceId>();
  for (let t = 0; t < T; t += 1) {
    const token = tokens[t]!;
    const sequence = sequences[t]!;
    const position = positions[t]!;
    if (token < 0 || token >= program.vocabSize) {
      throw new StepError({
        what: `token id ${token} is outside the vocabulary`,
        where: `row ${t}, ${program.name}`,
        fix: `use ids 0 to ${program.vocabSize - 1}`,
      });
    }
    const continued = t > 0 && sequences[t - 1] === sequence;
    if (!continued && seen.has(sequence)) {
      throw new StepError({ what: `the rows of sequence ${sequence} are not contiguous`, where: `row ${t}` });
    }
    seen.add(sequence);
    const length = lengthOf(sequence);
    if (length === undefined) throw new StepError({ what: `sequence ${sequence} does not exist`, where: `row ${t}` });
    const expected = continued ? positions[t - 1]! + 1 : length;
    if (position !== expected) {
      throw new StepError({
        what: `position ${position}, expected ${expected}`,
        where: `row ${t}, sequence ${sequence}`,
      });
    }
    if (position >= program.contextLength) {
      throw new StepError({
        what: `position ${position} is past the context of ${program.contextLength} tokens`,
        where: `row ${t}, ${program.name}`,
        fix: 'shorten the prompt or ask for fewer tokens',
      });
    }
  }
  const { top = 0 } = step;
  const most = Math.min(MAX_TOP, program.vocabSize);
  if (!Number.isInteger(top) || top < 0 || top > most) {
    throw new StepError({ what: `the ${top} largest logits`, where: program.name, fix: `ask for 0 to ${most}` });
  }
  for (let i = 0; i < outputRows.length; i += 1) {
    const row = outputRows[i]!;
    if (row < 0 || row >= T || (i > 0 && row <= outputRows[i - 1]!)) {
      throw new StepError({ what: `output row ${row}`, where: `index ${i}`, fix: `give increasing rows below ${T}` });
    }
  }
}

/** Bytes of weights that decoding one token reads: every matrix and norm once, of an embedding table one row. */
export function weightBytesPerToken(program: Program): number {
  const embeddedOnly = new Set<number>();
  const used = new Set<number>();
  for (const op of program.ops) {
    if (op.op === 'embed' || op.op === 'embedGrouped') embeddedOnly.add(op.table);
    else if ('weight' in op) used.add(op.weight);
  }
  let bytes = 0;
  program.weights.forEach((weight, id) => {
    const whole = used.has(id);
    switch (weight.kind) {
      case 'ternary':
        bytes += whole ? weight.bytes.byteLength : 0;
        break;
      case 'dense': {
        const rowBytes = weight.columns * (weight.dtype === 'f32' ? 4 : 2);
        bytes += whole ? rowBytes * weight.rows : embeddedOnly.has(id) ? rowBytes : 0;
        break;
      }
      case 'grouped': {
        const all = weight.bytes.byteLength + weight.scales.byteLength;
        const share = weight.experts === undefined ? 1 : (program.choices ?? 0) / weight.experts;
        bytes += whole ? Math.round(all * share) : embeddedOnly.has(id) ? Math.round(all / weight.rows) : 0;
        break;
      }
      case 'int8':
        bytes += whole ? weight.codes.byteLength + weight.rowScale.byteLength : 0;
        break;
      case 'vector':
        bytes += whole ? weight.values.byteLength : 0;
    }
  });
  return bytes;
}
