// Ends a completion before the first stop string, though it may be spread over several tokens. Steps whose text could
// still turn out to begin a stop string are held back; the text of a step that is cut in two is shortened, and steps
// behind the cut are dropped, so the texts of the trace always join to the completion.

import type { TraceStep } from './types.ts';

export class StopScanner {
  readonly #stops: readonly string[];
  readonly #release: (step: TraceStep) => void;
  readonly #trace: TraceStep[] = [];
  /** Steps not released, the oldest first; their texts joined are `#heldText`. */
  #held: TraceStep[] = [];
  #heldText = '';

  constructor(stops: readonly string[], release: (step: TraceStep) => void) {
    this.#stops = stops;
    this.#release = release;
  }

  /** Takes a step. True when a stop string is complete: nothing may follow. */
  push(step: TraceStep): boolean {
    this.#held.push(step);
    this.#heldText += step.token;
    const cut = this.#firstStop();
    if (cut >= 0) {
      this.#keep(cut);
      return true;
    }
    this.#releaseBefore(this.#heldText.length - this.#possibleStart());
    return false;
  }

  /** The trace and the completion. `rest`: text that became certain when decoding ended; it goes to the last step. */
  end(rest: string): { trace: readonly TraceStep[]; completion: string } {
    if (rest !== '' && this.#held.length + this.#trace.length > 0) {
      const steps = this.#held.length > 0 ? this.#held : this.#trace;
      const last = steps.pop()!;
      steps.push({ ...last, token: last.token + rest });
      this.#heldText += steps === this.#held ? rest : '';
    }
    const cut = this.#firstStop();
    // Infinity: also steps without text that stand at the very end.
    this.#keep(cut >= 0 ? cut : Number.POSITIVE_INFINITY);
    return { trace: this.#trace, completion: this.#trace.map(({ token }) => token).join('') };
  }

  #firstStop(): number {
    let first = -1;
    for (const stop of this.#stops) {
      const at = this.#heldText.indexOf(stop);
      if (at >= 0 && (first < 0 || at < first)) first = at;
    }
    return first;
  }

  /** Length of the longest end of the held text that begins a stop string. */
  #possibleStart(): number {
    let longest = 0;
    for (const stop of this.#stops) {
      for (let length = Math.min(stop.length - 1, this.#heldText.length); length > longest; length -= 1) {
        if (this.#heldText.endsWith(stop.slice(0, length))) longest = length;
      }
    }
    return longest;
  }

  /** Releases the steps that lie wholly before `end` of the held text. */
  #releaseBefore(end: number): void {
    let at = 0;
    while (this.#held.length > 0 && at + this.#held[0]!.token.length <= end) {
      const step = this.#held.shift()!;
      at += step.token.length;
      this.#emit(step);
    }
    this.#heldText = this.#heldText.slice(at);
  }

  /** Releases what stands before `end`, shortening the step that crosses it; drops the rest. */
  #keep(end: number): void {
    let left = end;
    for (const step of this.#held) {
      if (left === 0) break;
      const token = step.token.slice(0, left);
      left -= token.length;
      this.#emit(token === step.token ? step : { ...step, token });
    }
    this.#held = [];
    this.#heldText = '';
  }

  #emit(step: TraceStep): void {
    this.#trace.push(step);
    this.#release(step);
  }
}
