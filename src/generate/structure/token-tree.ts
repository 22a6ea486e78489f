// A vocabulary as a tree of bytes, made once a model. All of it is flat arrays, in order of depth first: for 150,000 tokens
// there are 350,000 nodes. It is made in steps, so that whoever has others to serve can pause between them.

import type { TokenBytes } from '../../tokenizer/token-bytes.ts';

export type TokenTree = {
  /** The byte that leads here. */
  readonly byte: Uint8Array;
  /** 0 for what begins a token. */
  readonly depth: Uint16Array;
  /** Where the next branch begins. */
  readonly after: Int32Array;
  /** A token that ends here; -1 for none. */
  readonly token: Int32Array;
};

export type Vocabulary = {
  /** Length of the logits. */
  readonly size: number;
  readonly tree: TokenTree;
  /** Per node: the character that its byte completes, WITHIN or NO_CHARACTER. */
  readonly character: Int32Array;
  /** By id: of tokens with the same bytes the next one; -1 at the end. */
  readonly same: Int32Array;
  /** All bytes of all tokens, and by id where its own begin: `size + 1` numbers. */
  readonly bytes: Uint8Array;
  readonly begin: Int32Array;
  /** Bytes of the longest token. */
  readonly deepest: number;
};

/** The bytes so far begin a character. */
export const WITHIN = -1;
/** They are no UTF-8. */
export const NO_CHARACTER = -2;

/** Tokens between two pauses: a millisecond or two. */
const TOKENS_A_STEP = 2048;
/** Bytes that are sorted by at once. */
const KEY_BYTES = 4;

/** `without`: ids that have a meaning beside their text. */
export function* readVocabulary(
  tokens: TokenBytes,
  size: number,
  without: (id: number) => boolean,
): Generator<void, Vocabulary> {
  const begin = new Int32Array(size + 1);
  let bytes = new Uint8Array(8 * size);
  let count = 0;
  for (let id = 0; id < size; id++) {
    begin[id] = count;
    if (id % TOKENS_A_STEP === 0) yield;
    const own = without(id) ? undefined : tokens.of(id);
    if (own === undefined) continue;
    if (count + own.length > bytes.length) {
      const larger = new Uint8Array(2 * (count + own.length));
      larger.set(bytes);
      bytes = larger;
    }
    bytes.set(own, count);
    count += own.length;
  }
  begin[size] = count;
  const order = yield* sorted(bytes, begin);
  return yield* grow(size, bytes.slice(0, count), begin, order);
}

/** Ids of all tokens that have bytes, by these. */
function* sorted(bytes: Uint8Array, begin: Int32Array): Generator<void, Int32Array> {
  const size = begin.length - 1;
  const keys = new Uint32Array(size);
  const used: number[] = [];
  for (let id = 0; id < size; id++) {
    if (id % (8 * TOKENS_A_STEP) === 0) yield;
    const length = begin[id + 1]! - begin[id]!;
    if (length === 0) continue;
    used.push(id);
    let key = 0;
    for (let i = 0; i < KEY_BYTES; i++) key = key * 256 + (i < length ? bytes[begin[id]! + i]! : 0);
    keys[id] = key;
  }
  yield;
  let order = Int32Array.from(used);
  for (const shift of [0, 16]) {
    const next = new Int32Array(65_537);
    for (const id of order) next[((keys[id]! >>> shift) & 0xffff) + 1]! += 1;
    for (let i = 1; i < next.length; i++) next[i]! += next[i - 1]!;
    const moved = new Int32Array(order.length);
    for (const id of order) moved[next[(keys[id]! >>> shift) & 0xffff]!++] = id;
    order = moved;
    yield;
  }
  const compare = (a: number, b: number): number => {
    const [x, y] = [begin[a]!, begin[b]!];
    const [m, n] = [begin[a + 1]! - x, begin[b + 1]! - y];
    const shorter = Math.min(m, n);
    for (let i = Math.min(shorter, KEY_BYTES); i < shorter; i++) {
      if (bytes[x + i] !== bytes[y + i]) return bytes[x + i]! - bytes[y + i]!;
    }
    return m - n || a - b;
  };
  let paused = 0;
  for (let from = 0, to = 0; from < order.length; from = to) {
    const key = keys[order[from]!];
    while (to < order.length && keys[order[to]!] === key) to++;
    if (to - from > 1) order.subarray(from, to).sort(compare);
    if (to - paused < TOKENS_A_STEP) continue;
    paused = to;
    yield;
  }
  return order;
}

type Growing = {
  readonly bytes: Uint8Array;
  readonly begin: Int32Array;
  readonly order: Int32Array;
  readonly byte: Uint8Array;
  readonly depth: Uint16Array;
  readonly after: Int32Array;
  readonly token: Int32Array;
  readonly character: Int32Array;
  readonly same: Int32Array;
  /** By depth: nodes from the root to the last token. */
  readonly path: Int32Array;
  /** Nodes so far, and how many of `path` are those of the last token. */
  count: number;
  reached: number;
};

function* grow(size: number, bytes: Uint8Array, begin: Int32Array, order: Int32Array): Generator<void, Vocabulary> {
  let deepest = 0;
  for (const id of order) deepest = Math.max(deepest, begin[id + 1]! - begin[id]!);
  const growing: Growing = {
    bytes,
    begin,
    order,
    byte: new Uint8Array(bytes.length),
    depth: new Uint16Array(bytes.length),
    after: new Int32Array(bytes.length),
    token: new Int32Array(bytes.length).fill(-1),
    character: new Int32Array(bytes.length),
    same: new Int32Array(size).fill(-1),
    path: new Int32Array(deepest),
    count: 0,
    reached: 0,
  };
  for (let from = 0; from < order.length; from += TOKENS_A_STEP) {
    yield;
    addTokens(growing, from, Math.min(order.length, from + TOKENS_A_STEP));
  }
  const { count, path, reached, same } = growing;
  for (let at = 0; at < reached; at++) growing.after[path[at]!] = count;
  yield;
  const tree = {
    byte: growing.byte.slice(0, count),
    depth: growing.depth.slice(0, count),
    after: growing.after.slice(0, count),
    token: growing.token.slice(0, count),
  };
  return { size, tree, character: growing.character.slice(0, count), same, bytes, begin, deepest };
}

/** Tokens `first` to before `last` of the order. */
function addTokens(growing: Growing, first: number, last: number): void {
  const { bytes, begin, order, byte, depth, after, token, character, same, path } = growing;
  let { count, reached } = growing;
  let previous = first === 0 ? -1 : order[first - 1]!;
  for (let i = first; i < last; i++) {
    const id = order[i]!;
    const from = begin[id]!;
    const length = begin[id + 1]! - from;
    let shared = 0;
    if (previous >= 0) {
      const other = begin[previous]!;
      const most = Math.min(length, begin[previous + 1]! - other);
      while (shared < most && bytes[from + shared] === bytes[other + shared]) shared++;
    }
    while (reached > shared) after[path[--reached]!] = count;
    for (; reached < length; reached++) {
      byte[count] = bytes[from + reached]!;
      depth[count] = reached;
      character[count] = characterAt(bytes, from, reached);
      path[reached] = count++;
    }
    const end = path[length - 1]!;
    // Those of the same bytes come one after the other.
    if (token[end] === -1) token[end] = id;
    else same[previous] = id;
    previous = id;
  }
  growing.count = count;
  growing.reached = reached;
}

/** What the byte `at` of a token that begins at `from` completes. */
function characterAt(bytes: Uint8Array, from: number, at: number): number {
  const last = bytes[from + at]!;
  if (last < 0x80) return last;
  // The lead is at most three bytes back.
  let back = 0;
  while (back < 3 && back < at && (bytes[from + at - back]! & 0xc0) === 0x80) back++;
  const lead = bytes[from + at - back]!;
  const length =
    lead >= 0xf0 && lead <= 0xf4 ? 4 : lead >= 0xe0 && lead < 0xf0 ? 3 : lead >= 0xc2 && lead < 0xe0 ? 2 : 0;
  if (length === 0 || back >= length) return NO_CHARACTER;
  if (back + 1 < length) return WITHIN;
  let point = lead & (0x7f >> length);
  for (let i = back - 1; i >= 0; i--) point = point * 64 + (bytes[from + at - i]! & 0x3f);
  const least = length === 2 ? 0x80 : length === 3 ? 0x800 : 0x10000;
  return point < least || point > 0x10ffff || (point >= 0xd800 && point <= 0xdfff) ? NO_CHARACTER : point;
}

/** The node below `node` that the byte leads to; -1 for none. */
export function childOf({ byte, depth, after }: TokenTree, node: number, wanted: number): number {
  const end = after[node]!;
  for (let child = node + 1; child < end; child = after[child]!) {
    if (byte[child] === wanted && depth[child] === depth[node]! + 1) return child;
    if (byte[child]! > wanted) return -1;
  }
  return -1;
}
