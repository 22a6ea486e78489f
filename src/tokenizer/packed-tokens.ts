// Tokens and merges as flat arrays: a table that needs no building. Made once from what a file was parsed to, kept, and
// looked up in as it lies; a map of 4096 tokens takes 3 ms to fill before a first token can be written.

import type { TokenTable } from './vocabulary.ts';

/** Where more steps than this a key are needed, the keys were chosen to collide: nothing is packed. */
const MAX_STEPS = 16;

export class PackedTokens implements TokenTable {
  /** UTF-16 units of all tokens, one after the other. */
  readonly units: Uint16Array;
  /** (highest id + 1,) where each token ends in `units`; the complement for an id without a token. */
  readonly ends: Int32Array;
  /** A hash table, open, a power of two long: id + 1 of each token. */
  readonly slots: Int32Array;

  constructor(units: Uint16Array, ends: Int32Array, slots: Int32Array) {
    this.units = units;
    this.ends = ends;
    this.slots = slots;
  }

  /** Undefined when the tokens were chosen to make a hash table slow. */
  static pack(tokens: readonly (string | undefined)[]): PackedTokens | undefined {
    const length = tokens.reduce((sum, token) => sum + (token?.length ?? 0), 0);
    const packed = new PackedTokens(
      new Uint16Array(length),
      new Int32Array(tokens.length),
      new Int32Array(slotCount(tokens.length)),
    );
    const { units, ends, slots } = packed;
    let end = 0;
    let steps = 0;
    for (const [id, token] of tokens.entries()) {
      if (token === undefined) {
        ends[id] = ~end;
        continue;
      }
      for (let i = 0; i < token.length; i++) units[end++] = token.charCodeAt(i);
      ends[id] = end;
      let at = hashOfText(token) & (slots.length - 1);
      for (; slots[at] !== 0; at = (at + 1) & (slots.length - 1)) steps++;
      slots[at] = id + 1;
    }
    return steps > MAX_STEPS * tokens.length ? undefined : packed;
  }

  get size(): number {
    return this.ends.length;
  }

  token(id: number): string | undefined {
    const end = this.ends[id];
    if (end === undefined || end < 0) return undefined;
    let text = '';
    for (let at = this.#startOf(id); at < end; at++) text += String.fromCharCode(this.units[at]!);
    return text;
  }

  id(token: string): number | undefined {
    const mask = this.slots.length - 1;
    for (let at = hashOfText(token) & mask; ; at = (at + 1) & mask) {
      const id = this.slots[at]! - 1;
      if (id < 0) return undefined;
      if (this.#is(id, token)) return id;
    }
  }

  *entries(): Generator<[string, number]> {
    for (let id = 0; id < this.size; id++) {
      const token = this.token(id);
      if (token !== undefined) yield [token, id];
    }
  }

  #is(id: number, token: string): boolean {
    const start = this.#startOf(id);
    if (this.ends[id]! - start !== token.length) return false;
    for (let i = 0; i < token.length; i++) if (this.units[start + i] !== token.charCodeAt(i)) return false;
    return true;
  }

  #startOf(id: number): number {
    const before = id === 0 ? 0 : this.ends[id - 1]!;
    return before < 0 ? ~before : before;
  }
}

/** The rank of each pair of ids, over the arrays of the pairs themselves. */
export class PackedRanks {
  readonly left: Int32Array;
  readonly right: Int32Array;
  /** As in `PackedTokens`: rank + 1 of each pair. */
  readonly slots: Int32Array;

  constructor(left: Int32Array, right: Int32Array, slots: Int32Array) {
    this.left = left;
    this.right = right;
    this.slots = slots;
  }

  /** Undefined when the pairs were chosen to make a hash table slow. */
  static pack(left: Int32Array, right: Int32Array): PackedRanks | undefined {
    const slots = new Int32Array(slotCount(left.length));
    const mask = slots.length - 1;
    let steps = 0;
    for (let rank = 0; rank < left.length; rank++) {
      let at = hashOfPair(left[rank]!, right[rank]!) & mask;
      for (; slots[at] !== 0; at = (at + 1) & mask) {
        const other = slots[at]! - 1;
        // A pair that is listed twice keeps its last rank, as in the reference.
        if (left[other] === left[rank] && right[other] === right[rank]) break;
        steps++;
      }
      slots[at] = rank + 1;
    }
    return steps > MAX_STEPS * left.length ? undefined : new PackedRanks(left, right, slots);
  }

  get(left: number, right: number): number | undefined {
    const mask = this.slots.length - 1;
    for (let at = hashOfPair(left, right) & mask; ; at = (at + 1) & mask) {
      const rank = this.slots[at]! - 1;
      if (rank < 0) return undefined;
      if (this.left[rank] === left && this.right[rank] === right) return rank;
    }
  }
}

/** At most half full. */
function slotCount(keys: number): number {
  return 2 << Math.ceil(Math.log2(Math.max(1, keys)));
}

/** FNV-1a over UTF-16 units, its high bits folded into the low ones that are used. */
export function hashOfText(text: string): number {
  let hash = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193);
  return hash ^ (hash >>> 15);
}

function hashOfPair(left: number, right: number): number {
  const hash = Math.imul(Math.imul(left, 0x9e3779b1) ^ right, 0x85ebca6b);
  return hash ^ (hash >>> 15);
}
