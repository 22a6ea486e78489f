// Runs any number of generations on one loaded program. Each step of the engine carries the next token of every running
// generation, the drafts some of them guessed, and a piece of the prompts still to be read; so the weights are read
// once for all. Because a row's result does not depend on what shares its step, none of this changes a single bit of
// anybody's text.
//
// - Prefix cache: recent sequences stay, and a new prompt starts from the longest one it shares (prefix-cache.ts); also from
//   one that is being written, and where that is still reading what both begin with, the new one waits for it.
// - Drafts (prompt lookup): when the last tokens have occurred before, what followed them then is guessed to follow now
//   and checked in one step. A guess that fails costs its rows, never the result. Where a sequence cannot be cut back, a
//   copy made before the guess takes its place, and the next step computes again what was right.

import type { SequenceId } from '../engine/backend.ts';
import { CancelledError } from '../errors.ts';
import type { LogitsModel } from './logits-model.ts';
import { PrefixCache, type PrefixCacheCounts, type PrefixCacheOptions, type PrefixStart } from './prefix-cache.ts';
import type { LogitRow } from './sampler.ts';

export type SchedulerOptions = PrefixCacheOptions & {
  /** Rows of a step at most; bounds how long a step, and so a cancellation, takes. */
  readonly maxRows: number;
  /** Tokens guessed ahead at most; 0 turns guessing off (where a row costs as much as a step). */
  readonly maxDrafts: number;
  /** Positions of the program. */
  readonly contextLength: number;
};

export type GenerationHandlers = {
  /**
   * Called with what was asked for of the logits that follow the tokens so far and the trit counts of the row that gave
   * them; returns the next token, or undefined to end.
   */
  readonly next: (row: LogitRow, tritCounts: Int32Array) => number | undefined;
  /** Wanted of the largest logits of each row: so many. Others in the step may bring more. */
  readonly top: number;
  /** The other logits are not wanted. */
  readonly withoutLogits: boolean;
  readonly trace: boolean;
  /** Prompt tokens read, of all. */
  readonly onPrompt?: (done: number, total: number) => void;
  readonly signal?: AbortSignal;
};

type Arrival = {
  readonly prompt: readonly number[];
  readonly handlers: GenerationHandlers;
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
};

type Job = GenerationHandlers & {
  sequence: SequenceId;
  /** As it was before the guesses of the step that runs, where it cannot be cut back. */
  saved: SequenceId | undefined;
  /** All tokens; those from `cached` on are still to be computed. */
  readonly tokens: number[];
  readonly promptLength: number;
  cached: number;
  drafts: number[];
  /** Lengths, rising, at which a snapshot is taken while the prompt is read. */
  snapshots: number[];
  /** After a step of several failed: it is computed again by itself, until it has caught up. */
  isAlone: boolean;
  /** Running mean of the share of drafts that were accepted: guesses grow with it, and stop where they do not pay. */
  draftYield: number;
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
};

/** A row of a step whose logits were asked for. */
type Output = LogitRow & { readonly counts: Int32Array };

/** Rows of prompts in a step that others wait for: as many as weights that are read once are worth. */
const MAX_READ_BESIDE_WRITERS = 64;
/** Rows that a prompt gets where there are fewer for each. */
const MIN_SHARE = 16;
/** Of a step that has more, computing takes longer than reading weights: a guess that fails is time lost. */
const GUESSING_ROWS = 16;
/** Length of the run of tokens that must have occurred before; the longer first. */
const LOOKUP_LENGTHS = [3, 2];

export class Scheduler {
  readonly #executable: LogitsModel;
  readonly #options: SchedulerOptions;
  /** Asked for while a step may be running, during which an executable takes no other call. */
  readonly #arrivals: Arrival[] = [];
  readonly #jobs: Job[] = [];
  readonly #cache: PrefixCache;
  #running = false;

  constructor(executable: LogitsModel, options: SchedulerOptions) {
    this.#executable = executable;
    this.#options = options;
    this.#cache = new PrefixCache(executable, options);
  }

  /** Sequences hold what cannot be cut back. */
  get #hasStates(): boolean {
    return (this.#options.stateBytes ?? 0) > 0;
  }

  get cacheCounts(): PrefixCacheCounts {
    return this.#cache.counts;
  }

  /** Sequences whose generation has not ended. */
  get active(): number {
    return this.#arrivals.length + this.#jobs.length;
  }

  /** Reads the prompt and goes on until `next` says stop. Rejects with CancelledError when the signal fires. */
  run(prompt: readonly number[], handlers: GenerationHandlers): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#arrivals.push({ prompt, handlers, resolve, reject });
      if (this.#running) return;
      this.#running = true;
      // Whoever asks in the same moment shares the first step.
      queueMicrotask(() => void this.#pump());
    });
  }

  /** Between steps: gives every arrival a sequence. */
  #admit(): void {
    for (const arrival of this.#arrivals.splice(0)) {
      const { prompt, handlers, resolve, reject } = arrival;
      if (handlers.signal?.aborted) {
        reject(new CancelledError('the generation was cancelled'));
        continue;
      }
      try {
        const start = this.#cache.start(prompt, this.#jobs);
        if (start === 'wait') {
          this.#arrivals.push(arrival);
          continue;
        }
        this.#jobs.push({
          ...handlers,
          ...this.#positionOf(start, prompt.length),
          tokens: [...prompt],
          promptLength: prompt.length,
          isAlone: false,
          draftYield: 0.5,
          resolve,
          reject,
        });
      } catch (error) {
        reject(error);
      }
    }
  }

  #positionOf(
    start: PrefixStart,
    promptLength: number,
  ): Pick<Job, 'sequence' | 'saved' | 'cached' | 'drafts' | 'snapshots'> {
    const { sequence, length } = start;
    const snapshots = this.#cache.snapshotsFor(promptLength, start);
    return { sequence, saved: undefined, cached: length, drafts: [], snapshots };
  }

  async #pump(): Promise<void> {
    try {
      while (this.active > 0) {
        this.#admit();
        for (const job of [...this.#jobs]) {
          if (job.signal?.aborted) this.#finish(job, new CancelledError('the generation was cancelled'));
        }
        if (this.#jobs.length > 0) await this.#stepOrFindCulprit(this.#compose());
        // Lets cancellations, new requests and streamed output through.
        await new Promise((resolve) => setImmediate(resolve));
      }
    } catch (error) {
      for (const { reject } of [...this.#arrivals.splice(0), ...this.#jobs.splice(0)]) reject(error);
    } finally {
      this.#running = false;
    }
  }

  /** One sequence's numbers must not end the others: a step that fails is taken again, one job at a time. */
  async #stepOrFindCulprit(parts: readonly { job: Job; rows: number }[]): Promise<void> {
    try {
      await this.#step(parts);
    } catch (error) {
      if (parts.length === 1) {
        this.#finish(parts[0]!.job, error);
        return;
      }
      if (this.#hasStates) {
        for (const { job } of parts) this.#restart(job);
        return;
      }
      for (const part of parts) await this.#step([part]).catch((cause) => this.#finish(part.job, cause));
    }
  }

  /** A failed step took the job's state with it: its tokens are computed again, by themselves. */
  #restart(job: Job): void {
    this.#executable.freeSequence(job.sequence);
    if (job.saved !== undefined) this.#executable.freeSequence(job.saved);
    Object.assign(job, this.#positionOf(this.#cache.start(job.tokens, []) as PrefixStart, job.promptLength));
    job.isAlone = true;
  }

  /** Rows of the next step: every job that writes gets its token and drafts, prompts share the rest. */
  #compose(): { job: Job; rows: number }[] {
    const alone = this.#jobs.find(({ isAlone }) => isAlone);
    if (alone !== undefined) return [{ job: alone, rows: this.#mostRows(alone, this.#options.maxRows) }];
    const parts: { job: Job; rows: number }[] = [];
    const reading: Job[] = [];
    let free = this.#options.maxRows;
    const writers = this.#jobs.filter((job) => job.tokens.length - job.cached === 1).length;
    let guesses = Math.max(0, GUESSING_ROWS - writers);
    for (const job of this.#jobs) {
      if (job.tokens.length - job.cached > 1) {
        reading.push(job);
        continue;
      }
      if (free === 0) continue;
      job.drafts = this.#guess(job, Math.min(free - 1, guesses));
      guesses -= job.drafts.length;
      parts.push({ job, rows: 1 + job.drafts.length });
      free -= 1 + job.drafts.length;
    }
    // Whoever writes waits for the whole step: what is read beside it is kept short. After the first, which may have found
    // no room before, what is nearly read comes first: a short prompt need not wait for long ones.
    if (parts.length > 0) free = Math.min(free, MAX_READ_BESIDE_WRITERS);
    const [first, ...others] = reading;
    others.sort((a, b) => a.tokens.length - a.cached - (b.tokens.length - b.cached));
    (first === undefined ? [] : [first, ...others]).forEach((job, i) => {
      const share = Math.min(free, Math.max(Math.ceil(free / (reading.length - i)), MIN_SHARE));
      const rows = this.#mostRows(job, share);
      if (rows === 0) return;
      parts.push({ job, rows });
      free -= rows;
    });
    // A job that found no room goes first next time.
    const left = this.#jobs.filter((job) => !parts.some((part) => part.job === job));
    if (left.length > 0) this.#jobs.splice(0, this.#jobs.length, ...left, ...parts.map((part) => part.job));
    return parts;
  }

  /** Tokens that are still to be computed, up to the next snapshot. */
  #mostRows({ tokens, cached, snapshots: [next] }: Job, most: number): number {
    return Math.min((next ?? tokens.length) - cached, most);
  }

  async #step(parts: readonly { job: Job; rows: number }[]): Promise<void> {
    const tokens: number[] = [];
    const sequences: number[] = [];
    const positions: number[] = [];
    const outputRows: number[] = [];
    for (const { job, rows } of parts) {
      const ahead = [...job.tokens.slice(job.cached, job.cached + rows), ...job.drafts].slice(0, rows);
      const firstOutput = job.tokens.length - job.cached - 1;
      ahead.forEach((token, i) => {
        if (i >= firstOutput) outputRows.push(tokens.length);
        tokens.push(token);
        sequences.push(job.sequence);
        positions.push(job.cached + i);
      });
    }
    const trace = parts.some(({ job }) => job.trace);
    for (const { job } of parts) {
      const isCuttable = this.#executable.rewindLimit(job.sequence) <= job.cached && !this.#cache.needsSnapshots;
      if (job.drafts.length > 0 && !isCuttable) job.saved = this.#executable.fork(job.sequence, job.cached);
    }
    const writers = parts.filter(({ job, rows }) => job.cached + rows >= job.tokens.length).map(({ job }) => job);
    const top = writers.reduce((most, job) => Math.max(most, job.top), 0);
    const withoutLogits = writers.every((job) => job.withoutLogits);
    const result = await this.#executable.step({
      tokens: Int32Array.from(tokens),
      sequences: Int32Array.from(sequences),
      positions: Int32Array.from(positions),
      outputRows: Int32Array.from(outputRows),
      trace,
      top,
      withoutLogits,
    });

    const { logits, tritCounts } = result;
    const vocabSize = outputRows.length === 0 ? 0 : logits.length / outputRows.length;
    const countsWidth = tritCounts.length / tokens.length;
    let firstRow = 0;
    let output = 0;
    for (const { job, rows } of parts) {
      const outputs: Output[] = [];
      while (output < outputRows.length && outputRows[output]! < firstRow + rows) {
        const row = outputRows[output]!;
        outputs.push({
          logits: logits.subarray(output * vocabSize, (output + 1) * vocabSize),
          top: {
            ids: result.top.ids.subarray(output * top, (output + 1) * top),
            logits: result.top.logits.subarray(output * top, (output + 1) * top),
            mass: result.top.mass[output]!,
          },
          counts: tritCounts.subarray(row * countsWidth, (row + 1) * countsWidth),
        });
        output += 1;
      }
      firstRow += rows;
      this.#advance(job, rows, outputs);
    }
  }

  /** Takes the results of a job's rows: more of its prompt is read, or one or more tokens are chosen. */
  #advance(job: Job, rows: number, outputs: readonly Output[]): void {
    const { drafts } = job;
    const isReading = job.cached < job.promptLength;
    job.cached += rows - drafts.length;
    job.drafts = [];
    if (job.cached === job.snapshots[0]) {
      job.snapshots.shift();
      this.#cache.snapshot(job.sequence, job.tokens.slice(0, job.cached));
    }
    if (outputs.length > 0) job.isAlone = false;
    if (isReading) job.onPrompt?.(Math.min(job.cached, job.promptLength), job.promptLength);
    let accepted = 0;
    try {
      for (const output of outputs) {
        const token = job.next(output, output.counts);
        if (token === undefined) {
          this.#finish(job);
          return;
        }
        job.tokens.push(token);
        if (accepted >= drafts.length || drafts[accepted] !== token) break;
        accepted += 1;
        job.cached += 1;
      }
    } catch (error) {
      this.#finish(job, error);
    } finally {
      // Rows of drafts that were not taken are still in the cache (of a job that goes on; an ended one is cut already).
      if (drafts.length > 0 && this.#jobs.includes(job)) {
        this.#cutDrafts(job);
        job.draftYield += 0.4 * (accepted / drafts.length - job.draftYield);
      }
    }
  }

  #cutDrafts(job: Job): void {
    const { saved } = job;
    job.saved = undefined;
    if (saved === undefined) {
      this.#executable.truncate(job.sequence, job.cached);
    } else if (this.#executable.sequenceLength(job.sequence) === job.cached) {
      this.#executable.freeSequence(saved);
    } else {
      this.#executable.freeSequence(job.sequence);
      job.sequence = saved;
      job.cached = this.#executable.sequenceLength(saved);
    }
  }

  /** What followed the last occurrence of the tokens that were just written. */
  #guess(job: Job, room: number): number[] {
    const { tokens } = job;
    // Where guesses rarely hit, guess one token now and then to notice a change.
    const { maxDrafts } = this.#options;
    const wanted = job.draftYield < 0.2 ? (tokens.length % 16 === 0 ? 2 : 0) : Math.ceil(job.draftYield * maxDrafts);
    const most = Math.min(wanted, room, maxDrafts, this.#options.contextLength - tokens.length);
    if (most <= 0) return [];
    for (const length of LOOKUP_LENGTHS) {
      const from = tokens.length - length;
      if (from < 1) continue;
      for (let at = from - 1; at >= 0; at -= 1) {
        let same = 0;
        while (same < length && tokens[at + same] === tokens[from + same]) same += 1;
        if (same === length) return tokens.slice(at + length, at + length + most);
      }
    }
    return [];
  }

  #finish(job: Job, error?: unknown): void {
    const at = this.#jobs.indexOf(job);
    if (at < 0) return;
    this.#jobs.splice(at, 1);
    if (job.saved !== undefined) this.#cutDrafts(job);
    // What is in the cache is sound even when the generation failed or was cancelled.
    const cached = Math.min(job.cached, this.#executable.sequenceLength(job.sequence));
    this.#cache.keep(job.sequence, job.tokens.slice(0, cached));
    if (error === undefined) job.resolve();
    else job.reject(error);
  }
}
