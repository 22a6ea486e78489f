// Sequences that were computed before, for prompts that begin alike. A plain KV cache can be cut to any length, so one
// entry serves every prompt that shares its start. Recurrent states exist only where they are: there an entry serves
// prompts that go on from its very end, and snapshots (forks made in time) are further ends.

import type { SequenceId } from '../engine/backend.ts';
import type { LogitsModel } from './logits-model.ts';

export type PrefixCacheOptions = {
  /** Tokens whose KV caches are kept for later prompts. */
  readonly cachedTokens: number;
  /** Bytes that a fork copies beside the KV cache: recurrent states and windows. 0: sequences can be cut anywhere. */
  readonly stateBytes?: number | undefined;
  /** Bytes of such states that are kept; one state is kept whatever its size. */
  readonly snapshotBytes?: number | undefined;
};

type Entry = {
  readonly sequence: SequenceId;
  readonly tokens: readonly number[];
  /** Made for others to start from: it is copied, not taken over. */
  readonly isSnapshot: boolean;
};

/** A sequence that is being read or written. */
export type RunningSequence = {
  readonly sequence: SequenceId;
  readonly tokens: readonly number[];
  /** Tokens that the sequence holds. */
  readonly cached: number;
  /** Lengths, rising, at which it will be kept. */
  readonly snapshots: number[];
};

export type PrefixStart = {
  readonly sequence: SequenceId;
  /** Tokens of the prompt that the sequence holds. */
  readonly length: number;
  /** Where the prompt leaves a known one further on, and a snapshot would have helped. */
  readonly branch: number | undefined;
};

export type PrefixCacheCounts = {
  readonly entries: number;
  readonly tokens: number;
  readonly stateBytes: number;
  /** Prompts that found a start, of all. */
  readonly hits: number;
  readonly prompts: number;
};

export const NOTHING_KEPT: PrefixCacheCounts = { entries: 0, tokens: 0, stateBytes: 0, hits: 0, prompts: 0 };

export function addCounts(a: PrefixCacheCounts, b: PrefixCacheCounts): PrefixCacheCounts {
  return {
    entries: a.entries + b.entries,
    tokens: a.tokens + b.tokens,
    stateBytes: a.stateBytes + b.stateBytes,
    hits: a.hits + b.hits,
    prompts: a.prompts + b.prompts,
  };
}

/** Fewer shared tokens are computed faster than copied. */
export const MIN_SHARED = 8;
/** Tokens that another sequence is about to read: with fewer, reading them again takes less than a step's wait. */
const MIN_WAITED_FOR = 16;
/** As many as texts are written at once: the next ones take over their memory. */
const MAX_ENTRIES = 64;
/**
 * Tokens before a prompt's end at which a snapshot is taken. The next turn of a chat is that prompt but for its last few
 * tokens (the template opens an answer, or drops a thought), and the same prompt needs its last token computed again.
 */
const SNAPSHOT_TAIL = 16;

export class PrefixCache {
  readonly #executable: LogitsModel;
  readonly #options: PrefixCacheOptions;
  /** Least recently used first. */
  #entries: Entry[] = [];
  #hits = 0;
  #prompts = 0;

  constructor(executable: LogitsModel, options: PrefixCacheOptions) {
    this.#executable = executable;
    this.#options = options;
  }

  get counts(): PrefixCacheCounts {
    return {
      entries: this.#entries.length,
      tokens: this.#entries.reduce((sum, { tokens }) => sum + tokens.length, 0),
      stateBytes: this.#entries.length * this.#stateBytes,
      hits: this.#hits,
      prompts: this.#prompts,
    };
  }

  get #stateBytes(): number {
    return this.#options.stateBytes ?? 0;
  }

  /** Whether sequences can only be had where somebody kept them. */
  get needsSnapshots(): boolean {
    return this.#stateBytes > 0 && this.#options.cachedTokens > 0;
  }

  /**
   * A sequence that holds as much of the prompt as is known, but for its last token: that one's logits are wanted. `wait`:
   * one that runs is about to read more of it, so ask again after the next step. Where sequences cannot be cut back, that
   * one is then kept at the point where the two part.
   */
  start(prompt: readonly number[], running: readonly RunningSequence[]): PrefixStart | 'wait' {
    let best: Entry | undefined;
    let held = 0;
    let longest = 0;
    for (const entry of this.#entries) {
      const same = sameTokens(entry.tokens, prompt);
      longest = Math.max(longest, same);
      if (same > held && same >= this.#executable.rewindLimit(entry.sequence)) [best, held] = [entry, same];
    }
    let runs: RunningSequence | undefined;
    for (const one of running) {
      const same = sameTokens(one.tokens, prompt);
      const ready = Math.min(same, one.cached);
      const canFork = ready >= this.#executable.rewindLimit(one.sequence);
      if (same - Math.max(canFork || this.needsSnapshots ? ready : 0, held) >= MIN_WAITED_FOR) {
        if (!this.needsSnapshots && this.#stateBytes > 0) continue;
        if (this.needsSnapshots) keepAt(one, same);
        return 'wait';
      }
      if (canFork && ready > held) [runs, held] = [one, ready];
    }
    this.#prompts += 1;
    const branch = longest > held && longest >= MIN_SHARED ? longest : undefined;
    if (held < MIN_SHARED) {
      const { sequence, length } = this.#recycled(prompt) ?? { sequence: this.#executable.createSequence(), length: 0 };
      return { sequence, length, branch };
    }
    this.#hits += 1;
    if (runs !== undefined) return { sequence: this.#executable.fork(runs.sequence, held), length: held, branch };
    const entry = best!;
    this.#entries = this.#entries.filter((other) => other !== entry);
    // A prompt that goes on where the entry ended takes it over; one that branches off leaves it to others.
    if (held === entry.tokens.length && !entry.isSnapshot) return { sequence: entry.sequence, length: held, branch };
    const sequence = this.#executable.fork(entry.sequence, held);
    this.#entries.push(entry);
    return { sequence, length: held, branch };
  }

  /**
   * Where a kept sequence would have to go soon, the oldest that begins as the prompt does is cut down to that: most prompts
   * begin with the same token. Its memory is taken over with it; fresh memory of a sequence takes as long as ten tokens.
   */
  #recycled(prompt: readonly number[]): { readonly sequence: SequenceId; readonly length: number } | undefined {
    if (this.#stateBytes > 0) return undefined;
    if (this.#entries.length < MAX_ENTRIES && this.counts.tokens < this.#options.cachedTokens / 2) return undefined;
    const at = this.#entries.findIndex(({ tokens }) => sameTokens(tokens, prompt) > 0);
    if (at < 0) return undefined;
    const [{ sequence, tokens }] = this.#entries.splice(at, 1) as [Entry];
    const length = sameTokens(tokens, prompt);
    this.#executable.truncate(sequence, length);
    return { sequence, length };
  }

  /** Lengths, rising, at which a prompt that starts there is to be kept while it is read. */
  snapshotsFor(promptLength: number, { length, branch }: PrefixStart): number[] {
    if (!this.needsSnapshots) return [];
    const wanted = new Set([branch ?? 0, promptLength - SNAPSHOT_TAIL]);
    return [...wanted].filter((at) => at > length && at >= MIN_SHARED).sort((a, b) => a - b);
  }

  /** Keeps a copy of a sequence that goes on. */
  snapshot(sequence: SequenceId, tokens: readonly number[]): void {
    if (this.#entries.some((entry) => entry.tokens.length === tokens.length && isPrefix(tokens, entry.tokens))) return;
    // Room first: at no time is there more than the budget.
    this.#evict(1);
    this.#entries.push({ sequence: this.#executable.fork(sequence, tokens.length), tokens, isSnapshot: true });
    this.#evict(0);
  }

  /** Takes over a sequence that has ended, cut to these tokens where it can be; frees it where not. */
  keep(sequence: SequenceId, tokens: readonly number[]): void {
    const length = this.#executable.sequenceLength(sequence);
    if (tokens.length === 0 || (tokens.length < length && tokens.length < this.#executable.rewindLimit(sequence))) {
      this.#executable.freeSequence(sequence);
      return;
    }
    // `truncate` first: a cache longer than its tokens would be wrong to continue.
    this.#executable.truncate(sequence, tokens.length);
    this.#entries.push({ sequence, tokens, isSnapshot: false });
    this.#evict(0);
  }

  /** Lets the least recently used go until the budgets hold, with room for `more` entries. */
  #evict(more: number): void {
    const { cachedTokens, snapshotBytes = Infinity } = this.#options;
    const states = this.#stateBytes === 0 ? MAX_ENTRIES : Math.max(1, Math.floor(snapshotBytes / this.#stateBytes));
    const most = Math.min(MAX_ENTRIES, states) - more;
    while (this.#entries.length > 0 && (this.#entries.length > most || this.counts.tokens > cachedTokens)) {
      this.#executable.freeSequence(this.#entries.shift()!.sequence);
    }
  }
}

/** How many tokens at the beginning are the same; the prompt's last is computed anyway, since its logits are wanted. */
function sameTokens(tokens: readonly number[], prompt: readonly number[]): number {
  const most = Math.min(tokens.length, prompt.length - 1);
  let same = 0;
  while (same < most && tokens[same] === prompt[same]) same += 1;
  return same;
}

function keepAt({ snapshots }: RunningSequence, length: number): void {
  if (snapshots.includes(length)) return;
  snapshots.push(length);
  snapshots.sort((a, b) => a - b);
}

function isPrefix(tokens: readonly number[], of: readonly number[]): boolean {
  return tokens.every((token, i) => of[i] === token);
}
