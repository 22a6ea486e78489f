// Chooses the tokens of a text that follows a structure: the model's own choice among those that fit, and the shortest ending
// when the tokens run out. The log-probability of a token is the model's own, over the whole vocabulary, before anything was
// left out: what the structure added to a token is that number, and its color is that of its place as ever.

import type { LoadedModel } from '../loaded-model.ts';
import {
  type Choice,
  type LogitRow,
  pickToken,
  type SamplingOptions,
  type TokenHistory,
  tellToken,
} from '../sampler.ts';
import type { ThoughtReader } from '../thought.ts';
import { Constraint } from './constraint.ts';
import { type Structure, StructureReader } from './structure.ts';
import type { TokenMask } from './token-trie.ts';

export type Written = Choice & {
  /** The model had no choice. */
  readonly forced: boolean;
};

/** Tokens that are tried before the shortest ending is taken; each that leaves no room is crossed out. */
const MAX_TRIES = 64;
/** What is kept free behind a thought that is cut, beside its ending. */
const BEHIND_THOUGHT = 1;

type Vocabulary = { readonly reader: StructureReader; readonly stops: readonly number[] };

const vocabularies = new WeakMap<LoadedModel['tokenizer'], Vocabulary>();

function vocabularyOf({ tokenizer, vocabSize, isStop }: LoadedModel): Vocabulary {
  let known = vocabularies.get(tokenizer);
  if (known === undefined) {
    const stops = Array.from({ length: vocabSize }, (_, id) => id).filter(isStop);
    known = { reader: new StructureReader(tokenizer, vocabSize, new Set(stops)), stops };
    vocabularies.set(tokenizer, known);
  }
  return known;
}

export type WriterOptions = {
  readonly structure: Structure;
  /** Prompt and what was written before, if the text goes on. */
  readonly tokens: readonly number[];
  readonly promptTokens: number;
  /** Tokens that may be written, thoughts included. */
  readonly room: number;
  readonly thought: ThoughtReader | undefined;
  /** Whether the model may begin with a thought of its own. */
  readonly mayThink: boolean;
};

export type ChoiceOptions = {
  readonly step: number;
  readonly options: SamplingOptions;
  readonly history: TokenHistory | undefined;
  /** Tokens that may still be written, this one included. */
  readonly left: number;
};

export class StructuredWriter {
  readonly #constraint: Constraint;
  readonly #stops: readonly number[];
  readonly #thought: ThoughtReader | undefined;
  readonly #masked: Float32Array;
  #mayOpen: number | undefined;
  #spaces = 0;

  /** Throws StructureError when no text of the structure fits into the room there is. */
  constructor(model: LoadedModel, { structure, tokens, promptTokens, room, thought, mayThink }: WriterOptions) {
    const { reader, stops } = vocabularyOf(model);
    this.#constraint = new Constraint(reader, structure);
    this.#stops = stops;
    this.#thought = thought;
    this.#masked = new Float32Array(model.vocabSize);
    const written = tokens.slice(promptTokens);
    this.#resume(model, written);
    const ending = thought?.isThinking === true ? thought.endingTokens : 0;
    this.#constraint.checkFits(room - ending);
    const mostThought = room - this.#constraint.fewest - (thought?.endingTokens ?? 0) - BEHIND_THOUGHT;
    thought?.limit(mostThought);
    if (mayThink && written.length === 0 && mostThought > 0) this.#mayOpen = thought?.openId;
  }

  /** Tokens of the ending that had to be forced. */
  get forced(): number {
    return this.#constraint.forced;
  }

  /** The text is whole, whatever might follow. */
  get isWhole(): boolean {
    return this.#constraint.isWhole;
  }

  /** Whether the next token is the structure's business: not one of a thought. */
  get isNext(): boolean {
    return this.#thought?.isThinking !== true;
  }

  /** The next token. A stop token is not taken. */
  choose({ logits, top: { mass } }: LogitRow, { step, options, history, left }: ChoiceOptions): Written {
    const { topLogprobs } = options;
    const take = (token: number, forced: boolean): Written => {
      this.#thought?.beginAnswer();
      this.#constraint.take(token);
      return { ...tellToken(logits, token, topLogprobs, mass), forced };
    };
    const must = this.#constraint.mustTake(left);
    if (must !== undefined) return take(must, true);
    const { mask: shared, count, mayEnd } = this.#constraint.allowed();
    const mask = Uint32Array.from(shared);
    const open = this.#mayOpen;
    this.#mayOpen = undefined;
    const others = [
      ...(mayEnd ? this.#stops : []),
      ...(open === undefined ? [] : [open]),
      ...(left > this.#constraint.fewest + 1 ? this.#takeSpace() : []),
    ];
    for (const id of others) mask[id >> 5]! |= 1 << (id & 31);
    const forced = count === 1 && others.length === 0;
    for (let tries = 0; tries < MAX_TRIES; tries++) {
      if (!this.#maskLogits(logits, mask)) break;
      const token = pickToken(this.#masked, step, options, history);
      if (others.includes(token)) return { ...tellToken(logits, token, 0, mass), forced: false };
      if (this.#constraint.leavesRoom(token, left - 1)) return take(token, forced);
      mask[token >> 5]! &= ~(1 << (token & 31));
    }
    const end = this.#constraint.end();
    if (end !== undefined) return take(end, true);
    // Whole already, and nothing else fits: as a stop token says it.
    return { token: -1, logprob: 0, forced: true };
  }

  /** What the model may put between its thought and the answer. */
  #takeSpace(): readonly number[] {
    const ids = this.#thought?.isClosed === true ? this.#thought.spaceIds : [];
    if (this.#spaces >= ids.length) return [];
    this.#spaces += 1;
    return ids;
  }

  /** Whether nothing may follow what was taken. */
  get isOver(): boolean {
    return this.#constraint.isOver;
  }

  /** False where nothing is allowed that has a probability. */
  #maskLogits(logits: Float32Array, mask: TokenMask): boolean {
    const masked = this.#masked.fill(Number.NEGATIVE_INFINITY);
    let any = false;
    for (let word = 0; word < mask.length; word++) {
      for (let bits = mask[word]!; bits !== 0; bits &= bits - 1) {
        const id = (word << 5) + 31 - Math.clz32(bits & -bits);
        masked[id] = logits[id]!;
        any = true;
      }
    }
    return any;
  }

  /** Takes what an earlier call wrote, behind its thoughts. */
  #resume({ tokenizer }: LoadedModel, written: readonly number[]): void {
    if (written.length === 0 || this.#thought?.isThinking === true) return;
    const close = this.#thought?.closeId;
    let from = close === undefined ? 0 : written.lastIndexOf(close) + 1;
    // Space behind a thought belongs to neither.
    while (from > 0 && from < written.length && tokenizer.decode([written[from]!]).trim() === '') from += 1;
    for (const token of written.slice(from)) this.#constraint.take(token);
  }
}
