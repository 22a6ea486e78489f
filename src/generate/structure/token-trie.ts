// Which of 150,000 tokens fit a place in a grammar: the vocabulary is walked as a tree, a whole branch left out as soon as a
// byte does not fit, and taken as soon as all of its characters do. Where any characters of a set may come, as in a string,
// only the tokens with others are walked.

import type { CharacterSet } from './automaton.ts';
import { addUpTo, type CharacterTable, MOST_COUNTED, readTable } from './character-table.ts';
import type { Matcher, Place } from './matcher.ts';
import { overLimit } from './structure-error.ts';
import { childOf, type TokenTree, type Vocabulary } from './token-tree.ts';

/** Bits by token id: which tokens may come next. */
export type TokenMask = Uint32Array;
export type Found = { readonly mask: TokenMask; readonly count: number };

/** Ways visited for one mask: a second. A schema's takes 100,000 the first time. */
const MAX_MASK_WORK = 10_000_000;
/** Masks kept, of those asked for last. */
const MAX_MASKS = 512;
/** Masks begun ahead of time. */
const MAX_BEGUN = 64;
/** Of some megabytes each. */
const MAX_TABLES = 12;
/** Of one structure, before it is known which are used. */
const MAX_EXPECTED = 3;
/** Sets with fewer characters have few tokens, and short runs few of the longer ones: they are walked. */
const LEAST_SET = 16;
const LEAST_RUN = 4;
/** Nodes below one that are worth asking whether they can be taken as a whole. */
const LEAST_BRANCH = 24;
/** A set with so many characters has most of the tokens. */
const MANY = 1000;
/** Of all nodes those that begin with a few characters. */
const PART_OF_A_WALK = 1 / 8;
/** A table takes as long as some walks over all nodes. */
const WORTH_A_TABLE = 2;
const MAX_WALKED = 1000;
/** Nodes between two pauses: a millisecond or less. */
const NODES_A_STEP = 8192;

type Begun = { readonly steps: Generator<void, Found>; error?: unknown };

export class TokenTrie {
  readonly vocabSize: number;
  /** Every single byte is a token: any text can be written. */
  readonly hasAllBytes: boolean;
  readonly stripsStart: boolean;
  readonly #vocabulary: Vocabulary;
  /** Where the branch of each first byte begins; -1 for none. */
  readonly #first = new Int32Array(256).fill(-1);
  /** The most characters that any token may have. */
  readonly #longest: number;
  readonly #tables = new Map<string, CharacterTable>();
  /** By set without a table: walks that one would have saved. */
  readonly #walked = new Map<string, number>();
  /** Tables to be made, the next first. */
  readonly #wanted = new Map<string, CharacterSet>();
  #making: Generator<void, CharacterTable> | undefined;
  readonly #masks = new Map<Place, Found>();
  readonly #begun = new Map<Place, Begun>();
  #spaces: readonly number[] | undefined;

  constructor(vocabulary: Vocabulary, stripsStart: boolean) {
    const { tree, size, deepest } = vocabulary;
    this.vocabSize = size;
    this.stripsStart = stripsStart;
    this.#vocabulary = vocabulary;
    this.#longest = Math.min(deepest, MOST_COUNTED);
    for (let node = 0; node < tree.byte.length; node = tree.after[node]!) this.#first[tree.byte[node]!] = node;
    this.hasAllBytes = this.#first.every((node) => node >= 0 && tree.token[node]! >= 0);
  }

  /** In bytes. */
  get longestToken(): number {
    return this.#vocabulary.deepest;
  }

  bytesOf(token: number): Uint8Array {
    const { bytes, begin } = this.#vocabulary;
    return bytes.subarray(begin[token], begin[token + 1]);
  }

  /** Tokens that begin with a space. */
  get spaces(): readonly number[] {
    if (this.#spaces === undefined) {
      const { tree, same } = this.#vocabulary;
      const from = this.#first[0x20]!;
      const found: number[] = [];
      for (let node = from; from >= 0 && node < tree.after[from]!; node++) {
        for (let token = tree.token[node]!; token >= 0; token = same[token]!) found.push(token);
      }
      this.#spaces = found;
    }
    return this.#spaces;
  }

  /** Tokens whose whole bytes fit, and how many. The mask is shared: not to be written to. */
  allowed(matcher: Matcher, place: Place): Found {
    const known = this.#masks.get(place);
    if (known !== undefined) return known;
    const begun = this.#begun.get(place);
    this.#begun.delete(place);
    if (begun?.error !== undefined) throw begun.error;
    return this.#keep(place, toEnd(begun?.steps ?? this.#find(matcher, place)));
  }

  /**
   * Works ahead for `allowed` for about so many milliseconds, and on tables that have been asked for; true when all is done.
   * What goes wrong `allowed` throws.
   */
  prepare(matcher: Matcher, place: Place, ms: number): boolean {
    const end = performance.now() + ms;
    return this.#findAhead(matcher, place, end) && this.#makeTables(end);
  }

  /** Large sets of characters are strings: their table will be asked for. */
  expect(sets: readonly CharacterSet[]): void {
    const large = sets.filter((set) => set.size >= MANY && !this.#tables.has(set.key));
    for (const set of large.slice(0, MAX_EXPECTED)) this.#want(set);
  }

  #findAhead(matcher: Matcher, place: Place, end: number): boolean {
    if (this.#masks.has(place)) return true;
    let begun = this.#begun.get(place);
    if (begun === undefined) {
      if (this.#begun.size >= MAX_BEGUN) this.#begun.delete(this.#begun.keys().next().value!);
      begun = { steps: this.#find(matcher, place) };
      this.#begun.set(place, begun);
    }
    if (begun.error !== undefined) return true;
    try {
      do {
        const { done, value } = begun.steps.next();
        if (done !== true) continue;
        this.#begun.delete(place);
        this.#keep(place, value);
        return true;
      } while (performance.now() < end);
    } catch (error) {
      begun.error = error;
      return true;
    }
    return false;
  }

  #makeTables(end: number): boolean {
    while (performance.now() < end) {
      const [set] = this.#wanted.values();
      if (set === undefined) return true;
      this.#making ??= readTable(this.#vocabulary, set.points);
      const { done, value } = this.#making.next();
      if (done !== true) continue;
      this.#making = undefined;
      this.#wanted.delete(set.key);
      this.#walked.delete(set.key);
      if (this.#tables.size >= MAX_TABLES) this.#tables.delete(this.#tables.keys().next().value!);
      this.#tables.set(set.key, value);
    }
    return this.#wanted.size === 0;
  }

  #keep(place: Place, found: Found): Found {
    if (this.#masks.size >= MAX_MASKS) this.#masks.delete(this.#masks.keys().next().value!);
    this.#masks.set(place, found);
    return found;
  }

  *#find(matcher: Matcher, place: Place): Generator<void, Found> {
    const mask = new Uint32Array(Math.ceil(this.vocabSize / 32));
    const run = matcher.run(place, this.#longest);
    const table =
      run?.isMost && run.length > 0 && run.set.size >= LEAST_SET
        ? this.#tableOf(run.set, run.set.size >= MANY ? 1 : PART_OF_A_WALK)
        : undefined;
    if (table !== undefined) {
      addUpTo(table, run!.length, mask);
      yield* this.#walk(table.rest, false, matcher, place, mask);
    } else yield* this.#walk(this.#vocabulary.tree, true, matcher, place, mask);
    return { mask, count: countOf(mask) };
  }

  /** Adds the tokens of a tree that fit. `isAll`: of all tokens, where whole branches may be taken by a table. */
  *#walk(tree: TokenTree, isAll: boolean, matcher: Matcher, place: Place, mask: TokenMask): Generator<void, void> {
    const { deepest, same } = this.#vocabulary;
    const places: Place[] = new Array(deepest + 1);
    places[0] = place;
    const limit = matcher.work + MAX_MASK_WORK;
    const walk: Walk = { tree, same, matcher, places, mask, limit, longest: isAll ? this.#longest : 0 };
    for (let node = 0; node < tree.byte.length; ) {
      node = walkOn(walk, node, NODES_A_STEP);
      if (node >= 0) {
        yield;
        continue;
      }
      // A branch in which many characters of a set may come.
      node = -1 - node;
      const run = matcher.run(places[tree.depth[node]! + 1]!, this.#longest)!;
      const end = tree.after[node]!;
      const table = this.#tableOf(run.set, (end - node) / tree.byte.length);
      const isTaken = table !== undefined && table.below[node]! <= Math.min(run.length, MOST_COUNTED);
      if (isTaken) addBranch(walk, node + 1, end);
      node = isTaken ? end : node + 1;
    }
  }

  /** `walk`: what a table saves, as a part of a walk over all nodes. One that has saved enough is made when there is time. */
  #tableOf(set: CharacterSet, walk: number): CharacterTable | undefined {
    const { key } = set;
    const table = this.#tables.get(key);
    if (table !== undefined) {
      // Those asked for last are at the end.
      this.#tables.delete(key);
      this.#tables.set(key, table);
      return table;
    }
    const walked = (this.#walked.get(key) ?? 0) + walk;
    if (this.#walked.size >= MAX_WALKED) this.#walked.clear();
    this.#walked.set(key, walked);
    if (walked >= WORTH_A_TABLE) this.#want(set);
    return undefined;
  }

  #want(set: CharacterSet): void {
    if (this.#wanted.size < MAX_TABLES / 2) this.#wanted.set(set.key, set);
  }

  /** The fewest tokens that spell these bytes; undefined where none do. */
  spell(bytes: Uint8Array): readonly number[] | undefined {
    const { tree } = this.#vocabulary;
    const count = bytes.length;
    const fewest = new Float64Array(count + 1).fill(Number.POSITIVE_INFINITY);
    const choice: { token: number; end: number }[] = [];
    fewest[count] = 0;
    for (let from = count - 1; from >= 0; from--) {
      let node = this.#first[bytes[from]!]!;
      for (let end = from + 1; node >= 0; end++) {
        if (tree.token[node]! >= 0 && 1 + fewest[end]! < fewest[from]!) {
          fewest[from] = 1 + fewest[end]!;
          choice[from] = { token: tree.token[node]!, end };
        }
        if (end === count) break;
        node = childOf(tree, node, bytes[end]!);
      }
    }
    if (fewest[0] === Number.POSITIVE_INFINITY) return undefined;
    const tokens: number[] = [];
    for (let at = 0; at < count; at = choice[at]!.end) tokens.push(choice[at]!.token);
    return tokens;
  }
}

type Walk = {
  readonly tree: TokenTree;
  readonly same: Int32Array;
  readonly matcher: Matcher;
  /** By depth: where the bytes so far lead. */
  readonly places: Place[];
  readonly mask: TokenMask;
  readonly limit: number;
  /** The longest run worth knowing of; 0 where branches are not looked at. */
  readonly longest: number;
};

/**
 * Goes on at a node for about so many. Returns the next one, or -1 - node where everything below a node may fit, whose own
 * token has been added.
 */
function walkOn({ tree, same, matcher, places, mask, limit, longest }: Walk, from: number, steps: number): number {
  const { byte, depth, after, token } = tree;
  const nodes = byte.length;
  let node = from;
  for (let left = steps; node < nodes && left > 0; left--) {
    const level = depth[node]!;
    const at = places[level]!;
    const value = byte[node]!;
    let next = at.next[value];
    if (next === undefined) {
      next = matcher.step(at, value);
      if (matcher.work > limit) throw overLimit('steps to find the next tokens', MAX_MASK_WORK);
    }
    if (next === null) {
      node = after[node]!;
      continue;
    }
    for (let id = token[node]!; id >= 0; id = same[id]!) mask[id >> 5]! |= 1 << (id & 31);
    places[level + 1] = next;
    if (longest > 0 && after[node]! - node > LEAST_BRANCH) {
      const run = matcher.run(next, longest);
      if (run !== null && run.length >= LEAST_RUN && run.set.size >= LEAST_SET) return -1 - node;
    }
    node++;
  }
  return node;
}

/** Adds all tokens of the nodes from `from` to before `to`. */
function addBranch({ tree: { token }, same, mask }: Walk, from: number, to: number): void {
  for (let node = from; node < to; node++) {
    for (let id = token[node]!; id >= 0; id = same[id]!) mask[id >> 5]! |= 1 << (id & 31);
  }
}

export function countOf(mask: TokenMask): number {
  let count = 0;
  for (let i = 0; i < mask.length; i++) {
    let bits = mask[i]!;
    bits -= (bits >>> 1) & 0x55555555;
    bits = (bits & 0x33333333) + ((bits >>> 2) & 0x33333333);
    count += Math.imul((bits + (bits >>> 4)) & 0x0f0f0f0f, 0x01010101) >>> 24;
  }
  return count;
}

/** Without pauses. */
export function toEnd<Value>(steps: Generator<void, Value>): Value {
  for (;;) {
    const { done, value } = steps.next();
    if (done === true) return value;
  }
}
