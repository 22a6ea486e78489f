// Sequences that are appended to, cut, forked and left, in any order and several in a step: every logit must be that of a
// run from the start in the reference.

import { expect } from 'vitest';
import type { Executable, SequenceId } from '../../src/engine/backend.ts';
import { jsBackend } from '../../src/engine/js/backend.ts';
import type { Program } from '../../src/engine/program.ts';
import { Random } from './random-program.ts';

/** Few tokens, so that sequences often repeat one another. */
const TOKENS = 2;
const MOST_SEQUENCES = 5;

/** Logits after each token of a text, by the reference, computed once. */
class Truth {
  readonly #executable: Executable;
  readonly #known = new Map<string, Float32Array>();

  constructor(executable: Executable) {
    this.#executable = executable;
  }

  async after(tokens: readonly number[]): Promise<Float32Array> {
    const known = this.#known.get(`${tokens}`);
    if (known !== undefined) return known;
    const sequence = this.#executable.createSequence();
    const { logits } = await this.#executable.step({
      tokens: Int32Array.from(tokens),
      sequences: new Int32Array(tokens.length).fill(sequence),
      positions: Int32Array.from(tokens.keys()),
      outputRows: Int32Array.from(tokens.keys()),
    });
    this.#executable.freeSequence(sequence);
    const width = logits.length / tokens.length;
    tokens.forEach((_, i) => {
      this.#known.set(`${tokens.slice(0, i + 1)}`, logits.slice(i * width, (i + 1) * width));
    });
    return this.#known.get(`${tokens}`)!;
  }
}

/** Edits `count` times at random, texts of up to about `longest` tokens. Counts how often each thing was done. */
export async function randomEdits(
  program: Program,
  load: (program: Program) => Promise<Executable>,
  { count, longest, seed }: { readonly count: number; readonly longest: number; readonly seed: number },
): Promise<Readonly<Record<'steps' | 'cuts' | 'forks' | 'refused' | 'cleared', number>>> {
  using executable = await load(program);
  using reference = await jsBackend.load(program, {});
  const truth = new Truth(reference);
  const random = new Random(seed);
  const texts = new Map<SequenceId, number[]>([[executable.createSequence(), []]]);
  const done = { steps: 0, cuts: 0, forks: 0, refused: 0, cleared: 0 };
  const any = () => [...texts.keys()][random.below(texts.size)]!;
  for (let edit = 0; edit < count; edit += 1) {
    const sequence = any();
    const text = texts.get(sequence)!;
    const limit = executable.rewindLimit(sequence);
    const length = random.below(text.length + 1);
    const isPossible = length === 0 || length >= limit;
    const kind = random.below(8);
    if (kind === 0) {
      if (isPossible) {
        executable.truncate(sequence, length);
        texts.set(sequence, text.slice(0, length));
        if (length === 0) done.cleared += 1;
        else done.cuts += 1;
      } else {
        expect(() => executable.truncate(sequence, length)).toThrow();
        done.refused += 1;
      }
    } else if (kind === 1 && texts.size < MOST_SEQUENCES) {
      const at = isPossible ? length : text.length;
      texts.set(executable.fork(sequence, at), text.slice(0, at));
      if (!isPossible) {
        expect(() => executable.fork(sequence, length)).toThrow();
        done.refused += 1;
      }
      done.forks += 1;
    } else if (kind === 2 && texts.size > 1) {
      executable.freeSequence(sequence);
      texts.delete(sequence);
    } else {
      // One to three sequences go on, each by one token or a few.
      const chosen = new Set([sequence, any(), any()].slice(0, 1 + random.below(3)));
      const rows: { sequence: SequenceId; token: number; position: number }[] = [];
      for (const one of chosen) {
        if (texts.get(one)!.length > longest) {
          executable.truncate(one, 0);
          texts.set(one, []);
        }
        const known = texts.get(one)!;
        for (let n = random.below(3) === 0 ? 1 + random.below(longest / 3) : 1; n > 0; n -= 1) {
          const token = random.below(TOKENS);
          rows.push({ sequence: one, token, position: known.length });
          known.push(token);
        }
      }
      const last = rows.flatMap((row, i) => (rows[i + 1]?.sequence === row.sequence ? [] : [i]));
      const { logits } = await executable.step({
        tokens: Int32Array.from(rows, ({ token }) => token),
        sequences: Int32Array.from(rows, (row) => row.sequence),
        positions: Int32Array.from(rows, ({ position }) => position),
        outputRows: Int32Array.from(last),
      });
      const width = program.vocabSize;
      for (const [i, row] of last.entries()) {
        const wanted = await truth.after(texts.get(rows[row]!.sequence)!);
        const [mine, theirs] = [logits.slice(i * width, (i + 1) * width), wanted].map(
          (values) => new Uint32Array(values.buffer),
        );
        expect(mine, `edit ${edit}`).toEqual(theirs);
      }
      done.steps += 1;
    }
    for (const [id, { length: wanted }] of texts) expect(executable.sequenceLength(id)).toBe(wanted);
  }
  return done;
}
