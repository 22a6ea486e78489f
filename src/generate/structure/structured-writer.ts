// Chooses the tokens of a text that follows a structure: the model's own choice among those that fit, and the shortest ending
// when the tokens run out. The log-probability of a token is the model's own, over the whole vocabulary, before anything was
// left out: what the structure added to a token is that number, and its color is that of its place as ever.

import type { LoadedModel } from '../loaded-model.ts';
import {
  type Choice,
  ChoiceAmong,
  type LogitRow,
  type SamplingOptions,
  type TokenHistory,
  tellToken,
} from '../sampler.ts';
import type { ThoughtReader } from '../thought.ts';
import { Constraint } from './constraint.ts';
import { type Structure, StructureReader } from './structure.ts';
import type { StructureLimitError } from './structure-error.ts';

export type Written = Choice & {
  /** The model had no choice. */
  readonly forced: boolean;
};

/** Tokens that are tried before the shortest ending is taken; each that leaves no room is crossed out. */
const MAX_TRIES = 64;
/** What is kept free behind a thought that is cut, beside its ending. */
const BEHIND_THOUGHT = 1;

/** Whole already, and nothing else fits: as a stop token says it. */
const OVER: Written = { token: -1, logprob: 0, forced: true };

type Vocabulary = { readonly reader: StructureReader; readonly stops: readonly number[] };

const vocabularies = new WeakMap<LoadedModel['tokenizer'], Promise<Vocabulary>>();

/** Reads a vocabulary when it is first asked for, beside whatever else is to be done. */
async function vocabularyOf({ tokenizer, vocabSize, isStop }: LoadedModel): Promise<Vocabulary> {
  let known = vocabularies.get(tokenizer);
  if (known === undefined) {
    const stops = Array.from({ length: vocabSize }, (_, id) => id).filter(isStop);
    known = inSlices(StructureReader.reading(tokenizer, vocabSize, new Set(stops))).then((reader) => ({
      reader,
      stops,
    }));
    vocabularies.set(tokenizer, known);
  }
  return await known;
}

/** Milliseconds of work before others have their turn. */
const SLICE_MS = 4;

async function inSlices<Value>(steps: Generator<void, Value>): Promise<Value> {
  for (;;) {
    const end = performance.now() + SLICE_MS;
    do {
      const { done, value } = steps.next();
      if (done === true) return value;
    } while (performance.now() < end);
    await new Promise((resolve) => setImmediate(resolve));
  }
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
  #isPreparing = false;
  #mayOpen: number | undefined;
  #spaces = 0;

  /** Throws StructureError when no text of the structure fits into the room there is. */
  static async begin(model: LoadedModel, options: WriterOptions): Promise<StructuredWriter> {
    return new StructuredWriter(model, options, await vocabularyOf(model));
  }

  private constructor(
    model: LoadedModel,
    { structure, tokens, promptTokens, room, thought, mayThink }: WriterOptions,
    { reader, stops }: Vocabulary,
  ) {
    this.#constraint = new Constraint(reader, structure);
    this.#stops = stops;
    this.#thought = thought;
    const written = tokens.slice(promptTokens);
    this.#resume(model, written);
    const ending = thought?.isThinking === true ? thought.endingTokens : 0;
    this.#constraint.checkFits(room - ending);
    const mostThought = room - this.#constraint.fewest - (thought?.endingTokens ?? 0) - BEHIND_THOUGHT;
    thought?.limit(mostThought);
    if (mayThink && written.length === 0 && mostThought > 0) this.#mayOpen = thought?.openId;
    this.#prepare();
  }

  /** Finds what may come next while the model computes: behind the turn of the loop in which its next step is begun. */
  #prepare(): void {
    if (this.#isPreparing) return;
    this.#isPreparing = true;
    const slice = () => {
      this.#isPreparing = !this.#constraint.prepare(SLICE_MS);
      if (this.#isPreparing) setImmediate(slice);
    };
    setImmediate(() => setImmediate(slice));
  }

  /** Tokens of the ending that had to be forced. */
  get forced(): number {
    return this.#constraint.forced;
  }

  /** Why the text was ended though there was room; undefined where it was not. */
  get limit(): StructureLimitError | undefined {
    return this.#constraint.limit;
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
    const taken = (choice: Choice, forced: boolean): Written => {
      this.#thought?.beginAnswer();
      this.#constraint.take(choice.token);
      if (!this.#constraint.isOver) this.#prepare();
      return { ...choice, forced };
    };
    const must = this.#constraint.mustTake(left);
    if (must !== undefined) return taken(tellToken(logits, must, topLogprobs, mass), true);
    const allowed = this.#constraint.allowed();
    if (allowed === undefined) {
      const end = this.#constraint.end();
      return end === undefined ? OVER : taken(tellToken(logits, end, topLogprobs, mass), true);
    }
    const { mask: shared, count, mayEnd } = allowed;
    const open = this.#mayOpen;
    this.#mayOpen = undefined;
    const others = new Set([
      ...(mayEnd ? this.#stops : []),
      ...(open === undefined ? [] : [open]),
      ...(this.#thought?.isClosed === true && this.#constraint.canEndWithin(left - 2) ? this.#takeSpace() : []),
    ]);
    let mask = shared;
    let more = 0;
    if (others.size > 0) {
      mask = shared.slice();
      for (const id of others) {
        if ((mask[id >> 5]! & (1 << (id & 31))) !== 0) continue;
        mask[id >> 5]! |= 1 << (id & 31);
        more += 1;
      }
    }
    const forced = count === 1 && others.size === 0;
    const among = new ChoiceAmong(logits, mask, count + more, options, history, mass);
    for (let tries = 0; tries < MAX_TRIES; tries++) {
      const token = among.pick(step);
      if (token === undefined) break;
      if (others.has(token)) return { ...among.tell(token), forced: false };
      if (this.#constraint.leavesRoom(token, left - 1)) return taken(among.tell(token), forced);
      among.leaveOut(token);
    }
    const end = this.#constraint.end();
    if (end !== undefined) return taken(among.tell(end), true);
    return OVER;
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
