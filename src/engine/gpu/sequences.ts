// Sequences on a GPU, whichever: their blocks of the cache and their recurrent states, and steps in parts, after which they are
// longer or, where one fails, as they were.

import type { SequenceId, Step } from '../backend.ts';
import type { Program } from '../program.ts';
import { checkRewind } from '../rewind.ts';
import { checkStep } from '../validate.ts';

/** The cache's blocks, by numbers of the device's own. */
export type BlockStore = {
  /** Extends `blocks` to hold `positions`: all of it or, with `KvCacheFullError`, nothing. */
  reserve(blocks: number[], positions: number): void;
  /** Takes back the blocks that `positions` do not need. */
  trim(blocks: number[], positions: number): void;
  /** Contents of the first of `from` into `to`, block by block. */
  copy(from: readonly number[], to: readonly number[]): void;
};

/** Recurrent states, a slot for each sequence that has run. */
export type StateStore<Slot> = {
  /** Of a slot; 0 where the program has no states. */
  readonly bytes: number;
  take(): Slot;
  copyOf(slot: Slot): Slot;
  give(slot: Slot): void;
};

export type Sequence<Slot> = {
  length: number;
  readonly blocks: number[];
  /** Undefined before its first step, when they are zeros. */
  states: Slot | undefined;
};

/** Rows of a step that run together. */
export type Part = {
  readonly firstToken: number;
  readonly tokens: number;
  readonly firstOutput: number;
  readonly outputs: number;
};

/** Rows and output rows of a part, at most. */
export type PartLimits = { readonly rows: number; readonly outputs: number };

export class Sequences<Slot> {
  readonly #program: Program;
  readonly #kv: BlockStore;
  readonly #states: StateStore<Slot>;
  readonly #all = new Map<SequenceId, Sequence<Slot>>();
  #next = 0;
  #running = false;
  #closed = false;

  constructor(program: Program, kv: BlockStore, states: StateStore<Slot>) {
    this.#program = program;
    this.#kv = kv;
    this.#states = states;
  }

  create(): SequenceId {
    return this.#add({ length: 0, blocks: [], states: undefined });
  }

  free(id: SequenceId): void {
    const found = this.#all.get(id);
    if (found !== undefined) this.#cut(found, 0);
    this.#all.delete(id);
  }

  get(id: SequenceId): Sequence<Slot> {
    const found = this.#all.get(id);
    if (found === undefined) throw new RangeError(`sequence ${id} does not exist`);
    return found;
  }

  sequenceLength(id: SequenceId): number {
    return this.get(id).length;
  }

  /** Layers with windows keep all their keys, so only recurrent states limit it. */
  rewindLimit(id: SequenceId): number {
    const { length } = this.get(id);
    return this.#states.bytes === 0 ? 0 : length;
  }

  truncate(id: SequenceId, length: number): void {
    const found = this.get(id);
    checkRewind(this, 'truncate to', id, length);
    this.#cut(found, length);
  }

  fork(id: SequenceId, length: number): SequenceId {
    const from = this.get(id);
    checkRewind(this, 'fork at', id, length);
    const to: Sequence<Slot> = { length, blocks: [], states: undefined };
    try {
      this.#kv.reserve(to.blocks, length);
      this.#kv.copy(from.blocks, to.blocks);
      if (length > 0 && from.states !== undefined) to.states = this.#states.copyOf(from.states);
    } catch (error) {
      this.#cut(to, 0);
      throw error;
    }
    return this.#add(to);
  }

  /** Room for so many positions, and for the states. */
  reserve(sequence: Sequence<Slot>, length: number): void {
    this.#kv.reserve(sequence.blocks, length);
    if (this.#states.bytes > 0) sequence.states ??= this.#states.take();
  }

  /** A checked step, part by part. `limits` is asked once the step is known to be sound. */
  async run(step: Step, limits: () => PartLimits, runPart: (part: Part) => Promise<void>): Promise<void> {
    if (this.#closed) throw new RangeError('the executable was disposed');
    if (this.#running) throw new RangeError('one step at a time');
    checkStep(this.#program, step, (id) => this.#all.get(id)?.length);
    this.#running = true;
    const lengths = new Map<Sequence<Slot>, number>();
    for (let t = 0; t < step.sequences.length; t += 1)
      lengths.set(this.get(step.sequences[t]!), step.positions[t]! + 1);
    let begun = false;
    try {
      for (const [sequence, length] of lengths) this.reserve(sequence, length);
      for (const part of partsOf(step, limits())) {
        begun = true;
        await runPart(part);
      }
      // Only a finished step moves the sequences on.
      for (const [sequence, length] of lengths) sequence.length = length;
    } catch (error) {
      // What a failed step did to recurrent states cannot be undone.
      const lost = begun && this.#states.bytes > 0;
      for (const sequence of lengths.keys()) this.#cut(sequence, lost ? 0 : sequence.length);
      throw error;
    } finally {
      this.#running = false;
    }
  }

  /** Forgets them all; false where that was done before. The stores are their owner's to dispose of. */
  close(): boolean {
    if (this.#closed) return false;
    if (this.#running) throw new RangeError('disposed while a step runs');
    this.#closed = true;
    this.#all.clear();
    return true;
  }

  #add(sequence: Sequence<Slot>): SequenceId {
    const id = this.#next++;
    this.#all.set(id, sequence);
    return id;
  }

  /** To a length, at which it keeps its states only if it is its own. */
  #cut(sequence: Sequence<Slot>, length: number): void {
    sequence.length = length;
    this.#kv.trim(sequence.blocks, length);
    if (length > 0 || sequence.states === undefined) return;
    this.#states.give(sequence.states);
    sequence.states = undefined;
  }
}

/** A step cut into parts, which no result can show. */
function* partsOf(step: Step, { rows, outputs: most }: PartLimits): Generator<Part> {
  let firstToken = 0;
  let firstOutput = 0;
  while (firstToken < step.tokens.length) {
    let end = firstToken;
    let outputs = 0;
    while (end < step.tokens.length && end - firstToken < rows) {
      const wanted = step.outputRows[firstOutput + outputs] === end;
      if (wanted && outputs === most) break;
      if (wanted) outputs += 1;
      end += 1;
    }
    yield { firstToken, tokens: end - firstToken, firstOutput, outputs };
    firstToken = end;
    firstOutput += outputs;
  }
}
