// What a decoder of tokenizer.json is made of: stages, each opened for one stream.

import type { WorkBudget } from './work-budget.ts';

/** Takes a text and calls `emit` with what became certain of it. */
export type DecoderStep = {
  push(text: string, emit: (text: string) => void): void;
  end(emit: (text: string) => void): void;
};

/** What the steps of one stream know. */
export type OpenChain = {
  /** Something came before the first token. */
  readonly continues: boolean;
  /** What may be made of the token that is being taken or, at the end, of all that came. */
  readonly budget: () => WorkBudget;
};

/** One step of a chain, for a new stream. */
export type DecoderStage = (of: OpenChain) => DecoderStep;
