// A byte-level BPE vocabulary learned from texts, in the form of Llama 3's tokenizer.json. Deterministic: the pair that
// occurs most often is merged, among equals the one whose tokens have the lower ids.

import { byteCharacter, toByteAlphabet } from '../tokenizer/byte-alphabet.ts';
import { LLAMA3 } from '../tokenizer/pattern.ts';
import { Place } from '../tokenizer/place.ts';
import { buildPreTokenizer } from '../tokenizer/pre-tokenizer.ts';
import { MAX_TOKEN_LENGTH } from '../tokenizer/vocabulary.ts';
import { WorkBudget } from '../tokenizer/work-budget.ts';

export const SPECIAL_TOKENS = ['<|begin_of_text|>', '<|end_of_text|>', '<|eot_id|>'] as const;

const BYTES = 256;
/** Special tokens, then one token a byte. */
export const MIN_VOCABULARY = SPECIAL_TOKENS.length + BYTES;

const CHAT_TEMPLATE =
  "{{ bos_token }}{% for message in messages %}{{ message['role'] | capitalize }}: {{ message['content'] | trim }}" +
  "{{ '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}{{ 'Assistant: ' }}{% endif %}";

const PRE_TOKENIZER = {
  type: 'Sequence',
  pretokenizers: [
    { type: 'Split', pattern: { Regex: LLAMA3 }, behavior: 'Isolated', invert: false },
    { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: false },
  ],
};

type Word = { ids: number[]; readonly count: number };

export type TrainedBpe = {
  /** tokenizer.json. */
  readonly tokenizer: Record<string, unknown>;
  /** tokenizer_config.json. */
  readonly tokenizerConfig: Record<string, unknown>;
  /** Tokens learned; fewer than asked for when the texts run out of pairs. */
  readonly vocabSize: number;
};

/** Learns up to `vocabSize` tokens (special tokens and bytes included) from the texts. */
export function trainBpe(texts: Iterable<string>, vocabSize: number, contextLength: number): TrainedBpe {
  const tokens: string[] = [...SPECIAL_TOKENS];
  // Printable bytes first, in the order of their characters, as other trainers number them.
  const alphabet = Array.from({ length: BYTES }, (_, byte) => byteCharacter(byte)).sort();
  tokens.push(...alphabet);
  const idOf = new Map(tokens.map((token, id) => [token, id]));
  const words = countWords(texts).map(([word, count]): Word => ({ ids: [...word].map((c) => idOf.get(c)!), count }));
  const merges: [string, string][] = [];
  const pairs = new PairCounts(words);
  while (tokens.length < vocabSize) {
    const best = pairs.best();
    if (best === undefined) break;
    const [left, right] = best;
    // One letter a million times over would be learned as ever longer tokens, which no tokenizer then loads.
    if (tokens[left]!.length + tokens[right]!.length > MAX_TOKEN_LENGTH) continue;
    const id = tokens.push(tokens[left]! + tokens[right]!) - 1;
    merges.push([tokens[left]!, tokens[right]!]);
    pairs.merge(left, right, id);
  }
  return {
    tokenizer: tokenizerJson(tokens, merges),
    tokenizerConfig: configJson(contextLength),
    vocabSize: tokens.length,
  };
}

/** Pieces of the texts in the byte alphabet, with how often each occurs; in order of first occurrence. */
function countWords(texts: Iterable<string>): [string, number][] {
  const pretokenizers = PRE_TOKENIZER.pretokenizers.slice(0, 1);
  const split = buildPreTokenizer({ type: 'Sequence', pretokenizers }, new Place('the tokenizer to be learned'));
  const counts = new Map<string, number>();
  for (const text of texts) {
    for (const piece of split.pieces(text, 1, new WorkBudget('the text', text.length))) {
      const word = toByteAlphabet(piece);
      counts.set(word, (counts.get(word) ?? 0) + 1);
    }
  }
  return [...counts];
}

/** Ids stay below 2^24, so a pair is one exact number. */
const PAIR = 2 ** 24;

type Counted = { readonly pair: number; readonly count: number };

/** A binary heap: the largest count first, of equals the smallest pair. */
class PairQueue {
  readonly #items: Counted[] = [];

  push(item: Counted): void {
    let at = this.#items.push(item) - 1;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (!before(item, this.#items[parent]!)) break;
      this.#items[at] = this.#items[parent]!;
      at = parent;
    }
    this.#items[at] = item;
  }

  pop(): Counted | undefined {
    const top = this.#items[0];
    const last = this.#items.pop();
    if (top === undefined || this.#items.length === 0) return top;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= this.#items.length) break;
      if (child + 1 < this.#items.length && before(this.#items[child + 1]!, this.#items[child]!)) child += 1;
      if (!before(this.#items[child]!, last!)) break;
      this.#items[at] = this.#items[child]!;
      at = child;
    }
    this.#items[at] = last!;
    return top;
  }
}

function before(a: Counted, b: Counted): boolean {
  return a.count > b.count || (a.count === b.count && a.pair < b.pair);
}

/** Counts of neighbouring tokens over all words, kept up to date as pairs are merged. */
class PairCounts {
  readonly #words: readonly Word[];
  readonly #counts = new Map<number, number>();
  /** Words that hold (or once held) a pair. */
  readonly #where = new Map<number, Set<number>>();
  readonly #queue = new PairQueue();

  constructor(words: readonly Word[]) {
    this.#words = words;
    words.forEach((word, index) => {
      this.#add(word, index, 1);
    });
    for (const [pair, count] of this.#counts) this.#queue.push({ pair, count });
  }

  best(): readonly [number, number] | undefined {
    for (;;) {
      const top = this.#queue.pop();
      // A pair that occurs once teaches nothing.
      if (top === undefined || top.count < 2) return undefined;
      // Counts change after they are queued: only an entry that still says the truth counts.
      if (this.#counts.get(top.pair) === top.count) return [Math.floor(top.pair / PAIR), top.pair % PAIR];
    }
  }

  merge(left: number, right: number, id: number): void {
    const pair = left * PAIR + right;
    const changed = new Set<number>();
    for (const index of this.#where.get(pair) ?? []) {
      const word = this.#words[index]!;
      this.#add(word, index, -1, changed);
      const merged: number[] = [];
      for (let i = 0; i < word.ids.length; i += 1) {
        if (word.ids[i] === left && word.ids[i + 1] === right) {
          merged.push(id);
          i += 1;
        } else {
          merged.push(word.ids[i]!);
        }
      }
      word.ids = merged;
      this.#add(word, index, 1, changed);
    }
    this.#where.delete(pair);
    this.#counts.delete(pair);
    for (const other of changed) {
      const count = this.#counts.get(other);
      if (count !== undefined) this.#queue.push({ pair: other, count });
    }
  }

  #add({ ids, count }: Word, index: number, sign: 1 | -1, changed?: Set<number>): void {
    for (let i = 0; i + 1 < ids.length; i += 1) {
      const pair = ids[i]! * PAIR + ids[i + 1]!;
      changed?.add(pair);
      const total = (this.#counts.get(pair) ?? 0) + sign * count;
      if (total === 0) this.#counts.delete(pair);
      else this.#counts.set(pair, total);
      if (sign < 0) continue;
      const words = this.#where.get(pair);
      if (words === undefined) this.#where.set(pair, new Set([index]));
      else words.add(index);
    }
  }
}

function tokenizerJson(tokens: readonly string[], merges: readonly [string, string][]): Record<string, unknown> {
  const [bos] = SPECIAL_TOKENS;
  const start = { SpecialToken: { id: bos, type_id: 0 } };
  const part = (id: 'A' | 'B') => ({ Sequence: { id, type_id: 0 } });
  return {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: SPECIAL_TOKENS.map((content, id) => ({
      id,
      content,
      single_word: false,
      lstrip: false,
      rstrip: false,
      normalized: false,
      special: true,
    })),
    normalizer: null,
    pre_tokenizer: PRE_TOKENIZER,
    post_processor: {
      type: 'TemplateProcessing',
      single: [start, part('A')],
      pair: [start, part('A'), part('B')],
      special_tokens: { [bos]: { id: bos, ids: [0], tokens: [bos] } },
    },
    decoder: { type: 'ByteLevel', add_prefix_space: true, trim_offsets: true, use_regex: true },
    model: {
      type: 'BPE',
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: false,
      vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
      merges,
    },
  };
}

function configJson(contextLength: number): Record<string, unknown> {
  return {
    tokenizer_class: 'PreTrainedTokenizerFast',
    bos_token: SPECIAL_TOKENS[0],
    eos_token: SPECIAL_TOKENS[1],
    model_max_length: contextLength,
    chat_template: CHAT_TEMPLATE,
  };
}
