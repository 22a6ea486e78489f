// Text on its way out, of which what may be a tool's call is held back: a client gets calls as data, not as text.

import { CALL_BEGIN } from '../generate/tools/tool-calls.ts';
import type { TraceStep } from '../generate/types.ts';

export class StreamedText {
  readonly #hasTools: boolean;
  #held: TraceStep[] = [];
  #text = '';

  constructor(hasTools: boolean) {
    this.#hasTools = hasTools;
  }

  /** Takes a step; those that can be sent now. */
  push(step: TraceStep): readonly TraceStep[] {
    if (!this.#hasTools) return [step];
    this.#held.push(step);
    this.#text += step.token;
    // Behind the first mark everything waits for the end.
    if (this.#text.includes(CALL_BEGIN) || this.#endsWithinMark()) return [];
    return this.#release();
  }

  /** The rest of what is text: the held steps, unless they turned out to be calls. */
  end(isCall: boolean): readonly TraceStep[] {
    return isCall ? [] : this.#release();
  }

  /** The text before the first call that was held back with it. */
  beforeCall(): string {
    const at = this.#text.indexOf(CALL_BEGIN);
    return at < 0 ? '' : this.#text.slice(0, at);
  }

  #release(): readonly TraceStep[] {
    const steps = this.#held;
    this.#held = [];
    this.#text = '';
    return steps;
  }

  #endsWithinMark(): boolean {
    for (let length = Math.min(CALL_BEGIN.length - 1, this.#text.length); length > 0; length--) {
      if (this.#text.endsWith(CALL_BEGIN.slice(0, length))) return true;
    }
    return false;
  }
}
