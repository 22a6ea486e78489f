// Tells a model's thought from its answer: what it writes between the tokens <think> and </think>. Those are ordinary added
// tokens (Qwen3 and its kin), so decoding shows them; here they end up on neither side.

import type { Tokenizer } from '../tokenizer/tokenizer.ts';

const OPEN = '<think>';
const CLOSE = '</think>';
/** What ends a thought that has used up its budget, as the model would end it. */
const ENDING = `\n${CLOSE}\n\n`;

type State = 'thinking' | 'closing' | 'answer';

export class ThoughtReader {
  readonly #open: number;
  readonly #close: number;
  readonly #ending: readonly number[];
  #budget: number;
  #forced: number[] = [];
  #state: State;
  #answered = false;
  #text = '';
  #tokens = 0;

  private constructor(ids: { open: number; close: number; ending: readonly number[] }, state: State, budget: number) {
    this.#open = ids.open;
    this.#close = ids.close;
    this.#ending = ids.ending;
    this.#state = state;
    this.#budget = budget;
  }

  /**
   * Undefined for a vocabulary without these tokens. `tokens`: what the answer follows; a chat template may have opened the
   * thought. `budget`: tokens of a thought at most; it is then closed, and the model answers.
   */
  static for(tokenizer: Tokenizer, tokens: readonly number[], budget = Infinity): ThoughtReader | undefined {
    const [open, close] = [tokenizer.tokenId(OPEN), tokenizer.tokenId(CLOSE)];
    if (open === undefined || close === undefined) return undefined;
    const ending = tokenizer.encode(ENDING, { addSpecial: false });
    const state = isOpen(tokenizer, tokens, open, close) ? 'thinking' : 'answer';
    return new ThoughtReader({ open, close, ending }, state, budget);
  }

  get openId(): number {
    return this.#open;
  }

  get closeId(): number {
    return this.#close;
  }

  /** A thought has been closed, and the answer has not begun. */
  get isClosed(): boolean {
    return this.#state === 'closing';
  }

  /** What stands between a thought and its answer. */
  get spaceIds(): readonly number[] {
    return this.#ending.slice(this.#ending.indexOf(this.#close) + 1);
  }

  /** Tokens that it takes to close a thought. */
  get endingTokens(): number {
    return this.#ending.length;
  }

  /** Lowers the budget: a thought may have no more than so many tokens. */
  limit(tokens: number): void {
    this.#budget = Math.min(this.#budget, Math.max(0, tokens));
  }

  /** What follows is answer, white space as well. */
  beginAnswer(): void {
    this.#state = 'answer';
    this.#answered = true;
  }

  /** What the model thought, without the space around it. */
  get text(): string {
    return this.#text.trim();
  }

  /** Tokens of thoughts so far, marks and the space behind them included. */
  get tokens(): number {
    return this.#tokens;
  }

  get isThinking(): boolean {
    return this.#state === 'thinking';
  }

  /** The token that must come next, whatever the model would write: the end of a thought that is over its budget. */
  forced(): number | undefined {
    if (this.#forced.length === 0 && this.isThinking && this.#tokens >= this.#budget) this.#forced = [...this.#ending];
    return this.#forced.shift();
  }

  /** Takes the next token with its text; true when it belongs to a thought. */
  take(token: number, text: string): boolean {
    if (token === this.#open && !this.#answered) {
      this.#state = 'thinking';
    } else if (token === this.#close && this.isThinking) {
      this.#state = 'closing';
    } else if (this.isThinking) {
      this.#text += text;
    } else if (this.#state !== 'closing' || text.trim() !== '') {
      this.#state = 'answer';
      this.#answered ||= text.trim() !== '';
      return false;
    }
    this.#tokens += 1;
    return true;
  }
}

/** Whether the last turn has a thought that is not closed. What stands in earlier turns was said by others. */
function isOpen(tokenizer: Tokenizer, tokens: readonly number[], open: number, close: number): boolean {
  for (let i = tokens.length - 1; i >= 0; i -= 1) {
    const token = tokens[i]!;
    if (token === open) return true;
    if (token === close || tokenizer.isSpecial(token)) return false;
  }
  return false;
}
